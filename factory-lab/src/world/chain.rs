//! Blocks and what members make of them.

use factory_engine::types::{Height, Transaction};
use factory_engine::{Block, Engine, Input};

use crate::LabError;
use crate::chain::Block as Mined;

use super::{Fed, World};

/// What matters to an engine in a block.
fn watched_of(engine: &Engine, block: &Mined) -> Vec<Transaction> {
    if block.txs.is_empty() {
        return vec![];
    }
    let watched = engine.watched();
    block.txs.iter().filter(|tx| watched.concerns(tx)).cloned().collect()
}

impl World {
    /// Mines blocks; every member that is up handles each, and answers settle.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn mine(&mut self, blocks: u32) -> Result<(), LabError> {
        for _ in 0..blocks {
            self.chain.mine();
            self.sync_all()?;
        }
        Ok(())
    }

    /// Mines until a height.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn mine_to(&mut self, height: Height) -> Result<(), LabError> {
        self.mine(height.saturating_sub(self.chain.height()))
    }

    /// Replaces the last `depth` blocks with one more; transactions that were in them come again.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn reorg(&mut self, depth: u32) -> Result<(), LabError> {
        self.chain.reorg(depth);
        self.mine_quietly(depth.saturating_add(1));
        self.sync_all()
    }

    /// Mines blocks without any member hearing of them.
    pub fn mine_quietly(&mut self, blocks: u32) {
        for _ in 0..blocks {
            self.chain.mine();
        }
    }

    /// Everybody handles the chain as it is now.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn sync_all(&mut self) -> Result<(), LabError> {
        for at in 0..self.members.len() {
            if self.members[at].engine.is_some() {
                self.sync(at)?;
                self.publish_commitments(at);
            }
        }
        self.settle()
    }

    /// One member handles the chain as it is now; whatever else is under way waits.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn follow_chain(&mut self, at: usize) -> Result<(), LabError> {
        if self.members[at].engine.is_some() {
            self.sync(at)?;
        }
        Ok(())
    }

    /// One member handles the chain as it is now, as the plugin's chain follower feeds it.
    pub(crate) fn sync(&mut self, at: usize) -> Result<(), LabError> {
        let mut gone = Vec::new();
        while let Some((height, hash)) = self.members[at].view.last().copied() {
            if self.chain.block(height).is_some_and(|block| block.hash == hash) {
                break;
            }
            gone.extend(self.members[at].view.pop());
        }
        let common = self.members[at].view.last().map_or(crate::chain::FIRST, |(height, _)| *height);
        if !gone.is_empty() {
            let fed = self.feed(at, Input::Reorg { height: common })?;
            if matches!(fed, Fed::StoreFailed | Fed::Crashed) && self.chaos.is_some() {
                // Nothing of it is stored: the next look at the chain finds it again.
                self.members[at].view.extend(gone.into_iter().rev());
                return Ok(());
            }
        }
        for height in common.saturating_add(1)..=self.chain.height() {
            let Some(block) = self.chain.block(height) else { break };
            let Some(engine) = &self.members[at].engine else { break };
            let (hash, txs) = (block.hash, watched_of(engine, block));
            let fed = self.feed(at, Input::Block(Block { height, hash, txs }))?;
            if fed == Fed::StoreFailed && self.chaos.is_some() {
                // The plugin's chain follower delivers it again.
                break;
            }
            if self.members[at].engine.is_none() {
                break;
            }
            self.members[at].view.push((height, hash));
        }
        if self.members[at].engine.is_some() && self.seen(at) == Some(self.chain.height()) {
            // Elsewhere a channel is forgotten when the test says so.
            if self.chaos.is_some() {
                self.show_channels(at)?;
            }
            // As in the plugin: fees are weighed for an exit that just began.
            self.show_fees(at)?;
        }
        Ok(())
    }
}
