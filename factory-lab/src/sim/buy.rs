//! Clients that buy out of their sub-factory's stock, and what must have become of it.

use bitcoin::OutPoint;
use factory_engine::tx::layout::MIN_CHANNEL;
use factory_engine::tx::sale::limits;
use factory_engine::types::{Amount, ChannelId, Height, InstanceId};
use factory_engine::{Command, Engine, Factory, Input, Purchase, Role, State};

use crate::world::{Fed, LSP};
use crate::{LabError, error};

use super::find::find_sold;
use super::parts::{Loss, Used};
use super::run::{Run, SALE_BLOCKS};

/// Blocks that faults may take from a buyer's way out, and it is still in time: fewer than the stock's CSV
/// and an exit's margin leave.
const SPARE: u32 = 2;

impl Run {
    /// A client wants to buy; sometimes another one does, too, at the same time.
    ///
    /// # Errors
    /// When a property is violated.
    pub(super) fn try_buy(&mut self) -> Result<(), LabError> {
        let clients = self.world.members.len().saturating_sub(1);
        for _ in 0..if self.dice.one_in(3) { 2 } else { 1 } {
            let client = self.dice.below(clients).saturating_add(1);
            self.buy(client)?;
        }
        // The chain may go on at any moment of it; with somebody away it takes longer.
        let steps = self.dice.below_u32(if self.asleep.is_empty() { 80 } else { 240 });
        self.quiet(steps)
    }

    /// Any part of the stock, all of it, or what can't be sold.
    fn buy(&mut self, at: usize) -> Result<(), LabError> {
        let all = self.all();
        let place = if all.len() > 1 { self.dice.below(all.len()) } else { 0 };
        let Some(instance) = all.get(place).copied() else { return Ok(()) };
        let Some(engine) = &self.world.members[at].engine else { return Ok(()) };
        let Some(factory) = engine.factory(instance) else { return Ok(()) };
        let Role::Client { index, .. } = factory.current.role else { return Ok(()) };
        let Some(coin) = factory.current.layout.stock_coin(index) else { return Ok(()) };
        let left = factory.stock(coin).map_or(Amount::ZERO, |stock| stock.value);
        let limits = limits(&factory.current.layout, coin, left);
        let most = limits.with_rest.unwrap_or(MIN_CHANNEL).to_sat();
        let below = MIN_CHANNEL.to_sat().saturating_sub(1);
        let some = MIN_CHANNEL.to_sat() + self.dice.next_number() % (most / 3).max(1);
        let amount = Amount::from_sat(match self.dice.below(10) {
            0 => below,
            1 => left.to_sat(),
            2 => limits.everything.map_or(below, Amount::to_sat),
            3 => most,
            _ => some,
        });
        let leaves_rest = amount >= MIN_CHANNEL && limits.with_rest.is_some_and(|most| amount <= most);
        // Where no sale can follow, an ordinary channel of any amount may be asked for.
        let void = factory.current.sales.of(coin).last().is_some_and(|last| last.void.is_some());
        let possible = leaves_rest || limits.everything == Some(amount) || void;
        if self.dice.one_in(4) {
            self.world.feed(at, Input::Command(Command::AskPrice { instance, amount }))?;
        }
        let max_price_msat = self.some_limit();
        let fed = self.world.feed(at, Input::Command(Command::Buy { instance, amount, max_price_msat }))?;
        if matches!(fed, Fed::Done(Ok(_))) {
            self.wishes = self.wishes.saturating_add(1);
            if !possible {
                return Err(error(format!("S3: member {at} may ask for {amount} out of {left}")));
            }
        }
        Ok(())
    }

    /// S29: with everybody here and nothing going wrong, each sale comes to an end, and the sub-factory
    /// sells on.
    ///
    /// # Errors
    /// When one does not.
    pub(super) fn finish_sales(&mut self) -> Result<(), LabError> {
        let Some(instance) = self.instance.filter(|_| !self.gone) else { return Ok(()) };
        self.set_chances(false);
        self.world.end_payments(true);
        while self.mend(1)? {
            self.quiet(4)?;
        }
        self.quiet(20_000)?;
        // What went wrong once may have left somebody with nonces of another try, and what is late is taken up
        // again once in `SALE_BLOCKS`.
        self.block()?;
        self.quiet(20_000)?;
        for _ in 1..SALE_BLOCKS {
            if !self.is_late(instance) {
                break;
            }
            self.block()?;
            self.quiet(20_000)?;
        }
        // The operator may have gone meanwhile; who lies has to live with it, an operator that keeps no copies for
        // clients that wait for one, too; and where somebody leaves nothing is signed any more (S24).
        let usual = !self.gone
            && !self.world.has_starved_of_copies()
            && (0..self.world.members.len()).all(|at| {
                let engine = self.world.members[at].engine.as_ref();
                let leaves = |factory: &Factory| {
                    !factory.current.exiting.is_empty() || !factory.current.evicting.is_empty()
                };
                self.world.is_owed(at) && !engine.into_iter().flat_map(Engine::factories).any(leaves)
            });
        for at in 0..self.world.members.len() {
            let Some(engine) = &self.world.members[at].engine else { continue };
            let Some(factory) = engine.factory(instance) else { continue };
            let sells = factory.state(self.world.chain.height()) == State::Active;
            if !sells || !usual {
                continue;
            }
            // A sale that was given up has ended too (S36); `run.rs` says when one has to be.
            let mut open = factory.current.sales.all().filter(|sold| sold.void.is_none());
            let unfinished = open.find(|sold| !sold.is_signed() || (at == LSP && !sold.stored));
            if let Some(sold) = unfinished {
                let number = sold.sale.number;
                return Err(error(format!("S29: sale {number} never ends at member {at}")));
            }
            if engine.ceremonies() > 0 || engine.purchase(instance).is_some_and(Purchase::is_open) {
                return Err(error(format!("S29: member {at} waits for a sale that never ends")));
            }
        }
        self.set_chances(true);
        Ok(())
    }

    /// Whether the operator has a signed sale that isn't stored by everybody, and isn't repeated at each block.
    fn is_late(&self, instance: InstanceId) -> bool {
        let engine = self.world.members[LSP].engine.as_ref();
        let factory = engine.and_then(|engine| engine.factory(instance));
        let height = self.world.chain.height();
        factory
            .into_iter()
            .flat_map(|factory| factory.current.sales.all())
            .any(|sold| sold.is_signed() && !sold.stored && height >= sold.begun.saturating_add(SALE_BLOCKS))
    }

    fn set_chances(&mut self, on: bool) {
        if let Some(chaos) = &mut self.world.chaos {
            chaos.chances.on = on;
        }
    }

    /// Blocks that somebody, or everybody, could do nothing in.
    pub(super) fn note_loss(&mut self, at: Option<usize>, blocks: u32) {
        if blocks > 0 {
            self.losses.push(Loss { height: self.world.chain.height(), at, blocks });
        }
    }

    /// Blocks from a height on in which not everything went as it should.
    pub(super) fn lost_since(&self, height: Height) -> u32 {
        let lost = self.losses.iter().filter(|loss| loss.at.is_none() && loss.height >= height);
        lost.map(|loss| loss.blocks).fold(0, u32::saturating_add)
    }

    /// Whether a bought channel is lost to faults: its sale's stock went elsewhere before the buyer, who
    /// was up, could do anything about it.
    pub(super) fn is_too_late(&self, at: usize, channel: ChannelId, used: &Used) -> bool {
        let chain = &self.world.chain;
        let Some(known) = self.world.members[at].lightningd.channels.get(&channel) else { return true };
        if used.sale == 0 || chain.confirmed(known.outpoint.txid).is_some() {
            return false;
        }
        // S40: whoever slept has what its tower was given before, and was in time for.
        let slept = self.slept.contains(&at);
        let acts = if slept { self.acts_for(at, channel, used.instance) } else { Some((at, 0)) };
        let Some((acts, since)) = acts else { return true };
        let Some((began, ended)) = self.spent_otherwise(at, channel) else { return false };
        let began = began.min(used.leaves);
        let during = |height: Height| height >= began.saturating_sub(1) && height <= ended;
        // Until it slept it was its own to do.
        let of = |loss: &&Loss| loss.at.is_none_or(|who| who == acts || who == at && loss.height < since);
        let lost = self.losses.iter().filter(|loss| during(loss.height)).filter(of);
        // Nobody raises what a tower publishes.
        let dear = if slept { self.dear(during) } else { 0 };
        lost.map(|loss| loss.blocks).fold(dear, u32::saturating_add) > SPARE
    }

    /// When the first output on the way to a bought channel appeared that another transaction spends, and
    /// when it was spent.
    fn spent_otherwise(&self, at: usize, channel: ChannelId) -> Option<(Height, Height)> {
        let chain = &self.world.chain;
        let (attempt, sold) = find_sold(self.world.members[at].engine.as_ref()?, channel)?;
        let tree = attempt.tree.as_ref()?;
        let nodes = attempt.layout.path(sold.sale.buyer).into_iter();
        let tree = nodes.filter_map(|node| {
            let tx = tree.node_tx(node)?;
            Some((tx.input.first()?.previous_output, tx.compute_txid()))
        });
        let sales =
            attempt.sales.of(sold.coin()?).iter().take_while(|other| other.sale.number <= sold.sale.number);
        let sales = sales.filter_map(|sold| Some((sold.sale.sessions.first()?.outpoint, sold.txid())));
        let way: Vec<(OutPoint, _)> = tree.chain(sales).collect();
        way.into_iter().find_map(|(input, txid)| {
            let (spent, tx) = chain.spender(input)?;
            let (there, _) = chain.confirmed(input.txid)?;
            (tx.compute_txid() != txid).then_some((there, spent))
        })
    }
}
