//! What the judge asks of a world: of a member's records when they become durable, and of everybody
//! after each block.

use bitcoin::{Amount, Txid};
use factory_engine::record::event::{Event, Invited, Signing};
use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::{Layout, NodeKind, SpendRole};
use factory_engine::tx::musig::PublicKey;
use factory_engine::tx::tree::{Member, Roster, funding_script};
use factory_engine::tx::verify::verify_holdings;
use factory_engine::types::{ChannelId, Height, InstanceId};
use factory_engine::{Attempt, BURIED, Factory, Input, Purpose, Role, statement};

use crate::chain::{Reject, fee_of};

use super::handed::has_every_key;
use super::{FOR_ANOTHER, World};

impl World {
    /// Whether a member does something else than its engine: nothing is promised to it.
    pub fn is_dishonest(&self, at: usize) -> bool {
        self.chaos.as_ref().is_some_and(|chaos| chaos.is_liar(at))
    }

    pub(super) fn is_excused(&self, at: usize, text: &str) -> bool {
        // Foreign scripts are somebody else's lie, and are to be told.
        let lied = !self.foreign_scripts.is_empty() && text.contains("does not pay our channel");
        lied || (self.chaos.is_none() && !self.foreign_scripts.is_empty()) || self.is_dishonest(at)
    }

    /// A restart at this moment would find the same factories and the same ledger (S8, S10).
    pub(super) fn judge_recovery(&mut self, at: usize) {
        let member = &self.members[at];
        if let (Some(live), Some(shadow)) = (&member.engine, &member.shadow) {
            self.judge.recovered(at, live, shadow);
        }
    }

    /// S33: nothing is signed in a factory that this member knows to be damaged.
    fn signs_damaged(&self, at: usize, events: &[(InstanceId, Vec<Event>)]) -> Vec<String> {
        let damage = |instance| self.members[at].engine.as_ref().and_then(|engine| engine.damage(instance));
        let signs = |event: &Event| matches!(event, Event::Signing(_) | Event::SaleSigning(_));
        let of_damaged = events
            .iter()
            .filter(|(instance, events)| events.iter().any(signs) && damage(*instance).is_some());
        of_damaged
            .map(|(instance, _)| format!("S33: member {at} signs in {instance}, which is damaged"))
            .collect()
    }

    /// Events of a member that have just become durable.
    pub(super) fn judge_events(&mut self, at: usize, events: &[(InstanceId, Vec<Event>)]) {
        let mut found = self.signs_damaged(at, events);
        if !self.is_owed(at) {
            // What it has done with its key others go by.
            let left = |(_, events): &&(InstanceId, Vec<Event>)| {
                events.iter().any(|event| matches!(event, Event::HandedOver(_)))
            };
            for (instance, _) in events.iter().filter(left) {
                found.extend(self.note_handed(at, *instance).err());
            }
            self.judge.violations.extend(found);
            return;
        }
        for (instance, event) in events.iter().flat_map(|(i, events)| events.iter().map(move |e| (*i, e))) {
            let verdict = match event {
                Event::Signing(signing) => self.may_sign(at, instance, signing),
                Event::Forgotten(_) => self.may_forget(at, instance),
                Event::AttemptStarted(e) => self.may_leave_out(&e.left_out, &e.reason),
                Event::Signed(e) => self.holds(at, instance, &e.signatures),
                Event::ChannelChecked(_) => self.is_checked(at, instance),
                Event::SaleSigning(e) => self.may_sell(at, instance, e),
                Event::SaleSigned(e) => self.sale_holds(at, instance, e),
                Event::SaleDropped(e) => self.may_drop(at, instance, e),
                Event::HandedOver(_) => self.hands_over(at, instance),
                Event::KeyReceived(e) => self.may_have_key(instance, e.client),
                Event::CloseSigning(e) => self.may_close(at, instance, e),
                _ => Ok(()),
            };
            found.extend(verdict.err().map(|why| format!("{why} (member {at})")));
        }
        self.judge.violations.extend(found);
    }

    /// S3, S20: what a client signs is what it agreed to.
    fn may_sign(&self, at: usize, instance: InstanceId, signing: &Signing) -> Result<(), String> {
        let (Some(invited), Some(join)) = (self.judge.invited(at, instance), self.judge.join(at, instance))
        else {
            return Ok(()); // The operator.
        };
        self.are_bearable(at, invited)?;
        let layout = Layout::new(&invited.terms).map_err(|error| format!("S3: {error}"))?;
        let proposal = &signing.proposal;
        let place = usize::try_from(invited.client).map_err(|error| error.to_string())?;
        if proposal.clients.get(place) != Some(&(join.factory_key, join.payout.clone())) {
            return Err("S3: it signs although its place has another key or payout".into());
        }
        let mut keys: Vec<PublicKey> = proposal.clients.iter().map(|(key, _)| *key).collect();
        keys.push(proposal.lsp_key);
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("S5: it signs although two members have one key".into());
        }
        if proposal.channel_scripts.iter().any(|(_, script)| !script.is_p2wsh()) {
            return Err("S3: it signs a leaf with a script that is no channel's".into());
        }
        let member = |(key, payout): &(_, _)| Member { key: *key, payout: Clone::clone(payout) };
        let roster =
            Roster { lsp_key: proposal.lsp_key, clients: proposal.clients.iter().map(member).collect() };
        let script = funding_script(&layout, &roster).map_err(|error| format!("S3: {error}"))?;
        let vout = usize::try_from(proposal.funding_vout).map_err(|error| error.to_string())?;
        let pays = proposal.funding_tx.output.get(vout);
        if pays.is_none_or(|o| o.script_pubkey != script || o.value != layout.funding_value()) {
            return Err("S3: it signs for a funding output that is not the one of its terms".into());
        }
        if signing.ledger.len() != layout.sessions(Some(invited.client)).len() {
            return Err("S3: it signs another number of transactions than its terms have".into());
        }
        Ok(())
    }

    /// S32: whatever a client signs for is within its own bounds.
    fn are_bearable(&self, at: usize, invited: &Invited) -> Result<(), String> {
        let (terms, least) = (&invited.terms, &self.members[at].config.bounds);
        let has_stock = terms.stock > Amount::ZERO;
        let below = [
            ("confirm_blocks", terms.confirm_blocks < least.min_confirm_blocks),
            ("margin_blocks", terms.margin_blocks < least.min_margin_blocks),
            ("stock_csv", has_stock && terms.stock_csv < least.min_stock_csv),
            ("tree_feerate", terms.tree_feerate < least.min_tree_feerate),
            ("funding_confirmations", terms.funding_confirmations < least.min_funding_confirmations),
            ("dying_blocks", terms.dying_blocks < least.min_dying_blocks),
            ("timeout", terms.timeout_height < invited.height.saturating_add(least.min_lifetime_blocks)),
        ];
        match below.iter().find(|(_, is_below)| *is_below) {
            Some((term, _)) => Err(format!("S32: it signs although {term} is below its least")),
            None => Ok(()),
        }
    }

    /// S12: nothing that was signed may be able to confirm.
    fn may_forget(&self, at: usize, instance: InstanceId) -> Result<(), String> {
        let engine = self.members[at].engine.as_ref();
        let Some(factory) = engine.and_then(|engine| engine.factory(instance)) else { return Ok(()) };
        let deep = |at: Height| self.chain.height().saturating_sub(at).saturating_add(1) >= BURIED;
        for (funding, inputs) in factory.signed_for() {
            let conflict = |input: &bitcoin::OutPoint| {
                let spender = self.chain.spender(*input);
                spender.is_some_and(|(height, tx)| tx.compute_txid() != *funding && deep(height))
            };
            if !inputs.iter().any(conflict) {
                return Err(format!("S12: forgets {instance} although {funding} can still confirm"));
            }
        }
        Ok(())
    }

    /// S4: an honest member may be slow or gone; it never breaks the protocol.
    fn may_leave_out(&self, left_out: &[factory_engine::types::NodeId], reason: &str) -> Result<(), String> {
        if self.chaos.is_none() {
            return Ok(()); // Whoever tampers by hand knows whom to blame.
        }
        for node in left_out {
            let honest = self.member_of(*node).is_some_and(|member| self.is_owed(member));
            let fault = reason.starts_with(&format!("{node}: ")) || reason.contains("bad partial signature");
            if honest && fault {
                return Err(format!("S4: an honest member is left out: {reason}"));
            }
        }
        Ok(())
    }

    /// S4, S19, S20: finished signatures are valid, and everything that the terms promise is there.
    fn holds(&self, at: usize, instance: InstanceId, signatures: &[[u8; 64]]) -> Result<(), String> {
        let engine = self.members[at].engine.as_ref();
        let Some(factory) = engine.and_then(|engine| engine.factory(instance)) else { return Ok(()) };
        let tree = factory.current.tree.as_ref().ok_or("S10: signatures without a tree")?;
        let ids = tree.sessions().iter().map(|session| session.id);
        let by_id = ids.zip(signatures.iter().copied()).collect();
        if let Err(problems) = verify_holdings(&factory.current.layout, tree, &by_id) {
            let invalid =
                problems.iter().any(|p| matches!(p, factory_engine::tx::verify::Problem::Invalid(..)));
            let property = if invalid { "S4" } else { "S20" };
            return Err(format!("{property}: it stores what is no way out: {problems:?}"));
        }
        for session in tree.sessions().iter().filter(|session| session.id.role == SpendRole::Distribution) {
            let coin = factory.current.layout.coin(session.id.coin).ok_or("S20: a coin is missing")?;
            let paid = session.tx.output.len().saturating_sub(1);
            let clients = usize::try_from(coin.clients.end.saturating_sub(coin.clients.start));
            if Ok(paid) != clients {
                return Err(format!("S20: a distribution pays {paid} of {clients:?} clients"));
            }
        }
        Ok(())
    }

    /// S18: lightningd's own record is what the leaf pays.
    fn is_checked(&self, at: usize, instance: InstanceId) -> Result<(), String> {
        let engine = self.members[at].engine.as_ref();
        let Some(factory) = engine.and_then(|engine| engine.factory(instance)) else { return Ok(()) };
        let Role::Client { index, .. } = factory.current.role else { return Ok(()) };
        self.record_fits(at, &factory.current, index)
    }

    /// S18: lightningd's record of a client's channel against the leaf.
    pub(crate) fn record_fits(
        &self,
        at: usize,
        attempt: &Attempt,
        client: ClientIndex,
    ) -> Result<(), String> {
        let tree = attempt.tree.as_ref().ok_or("S18: no tree")?;
        let outpoint = tree.channel_outpoint(client).ok_or("S18: no channel in the tree")?;
        let output = tree.channel_output(client).ok_or("S18: no channel in the tree")?;
        let lightningd = &self.members[at].lightningd;
        let record = lightningd.check_channel(ChannelId::of(outpoint), outpoint, &output);
        record.map_err(|why| format!("S18: the leaf doesn't pay the channel: {why:?}"))
    }

    /// S25, S26: what each honest member believes about the chain is so, and whatever it could publish
    /// it has published. Of members that have handled the last block.
    pub fn judge_chain(&mut self) {
        let mut found = Vec::new();
        for at in 0..self.members.len() {
            let tip = self.members[at].view.last().map(|(height, _)| *height);
            let Some(engine) = self.members[at].engine.as_ref().filter(|_| !self.is_dishonest(at)) else {
                continue;
            };
            if tip != Some(self.chain.height()) {
                continue;
            }
            for factory in engine.factories() {
                found.extend(self.beliefs(factory).err().map(|why| format!("{why} (member {at})")));
                found.extend(self.stays_out(at, factory).err().map(|why| format!("{why} (member {at})")));
                if factory.has_left() {
                    continue;
                }
                found.extend(self.published(at, factory).err().map(|why| format!("{why} (member {at})")));
                if factory.damage().is_some() {
                    // S33: of what can be read its exit goes on; what was sold, and to whom, may be unknown.
                    continue;
                }
                found.extend(
                    self.sales_published(at, factory).err().map(|why| format!("{why} (member {at})")),
                );
                found.extend(self.accounts(factory).err().map(|why| format!("account: {why} (member {at})")));
                found.extend(self.buyer_leaves(factory).err().map(|why| format!("{why} (member {at})")));
                if factory.current.role == Role::Lsp {
                    found.extend(self.evicts(factory).err().map(|why| format!("{why} (member {at})")));
                    found.extend(
                        self.has_right_keys(at, factory).err().map(|why| format!("{why} (member {at})")),
                    );
                    found.extend(self.takes_back(factory).err().map(|why| format!("{why} (member {at})")));
                    found.extend(self.takes_stock(factory).err().map(|why| format!("{why} (member {at})")));
                }
            }
        }
        self.judge.violations.extend(found);
    }

    /// S22: whoever has handed its key over publishes nothing of the factory, and doesn't leave it.
    fn stays_out(&self, at: usize, factory: &Factory) -> Result<(), String> {
        let since = factory.current.handed_over.values().next().filter(|_| factory.has_left());
        let (Some(since), Some(tree)) = (since, &factory.current.tree) else { return Ok(()) };
        let ours = |txid: Txid| tree.sessions().iter().any(|session| session.txid == txid);
        // What it publishes for others isn't its own.
        let own = |sent: &&super::Sent| sent.at == at && sent.what != FOR_ANOTHER;
        let published = self.sent.iter().filter(own).find(|sent| sent.height > *since && ours(sent.txid));
        match published {
            Some(sent) => Err(format!("S22: it has handed its key over, and publishes {}", sent.what)),
            None if !factory.current.exiting.is_empty() => {
                Err("S22: it has handed its key over, and leaves".to_owned())
            }
            None => Ok(()),
        }
    }

    fn beliefs(&self, factory: &Factory) -> Result<(), String> {
        for (txid, height) in &factory.confirmed {
            if !self.chain.block(*height).is_some_and(|block| block.txids.contains(txid)) {
                return Err(format!("S25: {txid} counts as confirmed at {height}, and is not"));
            }
        }
        if let Some(funding) = factory.funding()
            && factory.funding_height().is_none()
            && let Some((height, _)) = self.chain.confirmed(funding.txid)
        {
            return Err(format!("S25: the funding confirmed at {height}, and it doesn't know"));
        }
        Ok(())
    }

    /// S26: each transaction that an exit or the timeout calls for, as soon as the chain takes it.
    fn published(&self, at: usize, factory: &Factory) -> Result<(), String> {
        let (Some(tree), Some(_)) = (&factory.current.tree, factory.funding_height()) else { return Ok(()) };
        let client = match factory.current.role {
            Role::Client { index, .. } => Some(index),
            Role::Lsp => None,
        };
        let matured = self.chain.height() >= factory.current.terms.timeout_height;
        let role = match client {
            Some(_) if matured => SpendRole::Distribution,
            _ if !factory.current.exiting.is_empty() || !factory.current.evicting.is_empty() => {
                SpendRole::State
            }
            _ => return Ok(()),
        };
        let evicted = factory.current.evicting.iter().filter(|client| !factory.has_handed_over(**client));
        let leaves = || factory.current.exiting.iter().chain(evicted.clone());
        let leaving = |coin| leaves().any(|client| factory.current.layout.path(*client).contains(&coin));
        // Who bought some of its stock wants the sale, which a floor may keep out, and not what conflicts.
        let bought = factory.own_sales().any(|sold| sold.is_signed());
        let sold = client.filter(|_| bought).and_then(|index| factory.current.layout.stock_coin(index));
        for session in tree.sessions().iter().filter(|session| session.id.role == role) {
            let coin = session.id.coin;
            if role == SpendRole::State && !leaving(coin)
                || role == SpendRole::Distribution && sold == Some(coin)
            {
                continue;
            }
            let Some(signature) = factory.current.signatures.get(&session.id) else { continue };
            let parent: Txid = session.outpoint.txid;
            if self.chain.coin(session.outpoint).is_none() || self.chain.confirmed(parent).is_none() {
                continue;
            }
            if self.chain.knows(session.txid) {
                if let Some(tx) = self.chain.waiting(session.txid) {
                    self.is_raised(at, factory, tx, role)?;
                }
                continue;
            }
            let Some(tx) = tree.signed(session.id, signature) else { continue };
            match self.chain.check(&tx) {
                Ok(_) => return Err(format!("S26: {:?} could be published, and is not", session.id)),
                Err(Reject::Fee { .. }) if self.could_be_packaged(at, factory, &tx, role) => {
                    return Err(format!("S26: {:?} could be published with a child, and is not", session.id));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }
}

impl World {
    /// Each line of a factory's account is what the chain says, and together they are the funding.
    fn accounts(&self, factory: &Factory) -> Result<(), String> {
        let Some(statement) = statement(factory) else { return Ok(()) };
        let mut sum = Amount::ZERO;
        for line in &statement.lines {
            sum += line.amount;
            let (_, tx) =
                self.chain.confirmed(line.txid).ok_or("it names a transaction that is not on chain")?;
            let vout = line.vout.and_then(|vout| usize::try_from(vout).ok());
            let output = vout.and_then(|vout| tx.output.get(vout)).map(|output| output.value);
            if line.vout.is_some() && output != Some(line.amount) {
                return Err(format!("{line:?} is {output:?} on chain"));
            }
            let coin = line.vout.map(|vout| bitcoin::OutPoint { txid: line.txid, vout });
            if let (Purpose::Unspent(_), Some(coin)) = (&line.purpose, coin)
                && self.chain.coin(coin).is_none()
            {
                return Err(format!("{line:?} is spent"));
            }
            if let Purpose::Fee(_) = line.purpose {
                let prevouts: Option<Vec<_>> =
                    tx.input.iter().map(|input| self.output_of(input.previous_output)).collect();
                let fee = prevouts.and_then(|prevouts| fee_of(tx, &prevouts));
                if fee != Some(line.amount) {
                    return Err(format!("{line:?} is {fee:?} on chain"));
                }
            }
        }
        match (statement.problem, sum == factory.current.layout.funding_value()) {
            (None, true) => Ok(()),
            (problem, _) => Err(format!("{sum} of {}: {problem:?}", factory.current.layout.funding_value())),
        }
    }

    /// S21: whoever is still in when the time to its timeout is no more than its way out takes, and
    /// that of the stock beside it, is on the way.
    fn evicts(&self, factory: &Factory) -> Result<(), String> {
        // A finished close pays whoever is in.
        let closed = factory.finished_close().is_some() || factory.close_height().is_some();
        if factory.funding_height().is_none() || closed {
            return Ok(());
        }
        let terms = &factory.current.terms;
        let stock = match terms.stock.to_sat() {
            0 => 0,
            _ => u32::from(terms.stock_csv) + u32::from(terms.confirm_blocks),
        };
        for client in 0..terms.clients() {
            let chain = factory
                .current
                .layout
                .stock_coin(client)
                .map_or(&[][..], |coin| factory.current.sales.of(coin));
            let sales =
                u32::try_from(chain.iter().filter(|sold| sold.is_signed()).count()).unwrap_or(u32::MAX);
            let chain = sales.saturating_mul(u32::from(terms.confirm_blocks));
            let begin =
                terms.timeout_height.saturating_sub(early(&factory.current.layout, client) + stock + chain);
            // S22: whoever has handed over has nothing to bring out.
            if self.chain.height() >= begin && !factory.is_leaving(client) && !factory.has_handed_over(client)
            {
                return Err(format!(
                    "S21: client {client} has to be on its way out from {begin} on, and is not"
                ));
            }
        }
        Ok(())
    }

    /// S21, S26: stock on chain is taken as soon as that is possible.
    fn takes_stock(&self, factory: &Factory) -> Result<(), String> {
        let coins = (0..).zip(factory.current.layout.coins()).filter(|(_, coin)| coin.stock);
        // What is all the operator's by its keys is not waited for: `takes_back`.
        let waits = |coin: &u32| !has_every_key(factory, *coin);
        let coins = coins.map(|(coin, _)| coin).filter(waits);
        for outpoint in coins.filter_map(|coin| self.unsold(factory, coin)) {
            let Some(at) = self.chain.coin(outpoint).and_then(|coin| coin.height) else { continue };
            let next = self.chain.height().saturating_add(1);
            // Its wallet's script is on the way to an operator that has just come back.
            let mut tasks = self.tasks.get(&super::LSP).into_iter().flatten();
            if tasks.any(|task| matches!(task, Input::PayoutReady { .. })) {
                continue;
            }
            // The wallet has to be asked for a script first, and may have been down.
            let asked = u32::from(factory.stock_payout.is_none()) * 4;
            let ripe = next >= at + u32::from(factory.current.terms.stock_csv) + asked;
            if ripe && self.chain.mempool().iter().all(|tx| !spends(tx, outpoint)) {
                return Err(format!("S26: stock {outpoint} could be taken home, and is not"));
            }
        }
        Ok(())
    }
}

fn spends(tx: &bitcoin::Transaction, outpoint: bitcoin::OutPoint) -> bool {
    tx.input.iter().any(|input| input.previous_output == outpoint)
}

/// The same of a channel that is the n-th sale's out of a sub-factory's stock.
pub(crate) fn early_of_sale(layout: &Layout, client: ClientIndex, number: u32) -> u32 {
    early(layout, client) + number * u32::from(layout.terms().confirm_blocks)
}

/// `blocks_early` of a client, from the terms alone: relative locks, confirmations, margin.
pub(crate) fn early(layout: &Layout, client: ClientIndex) -> u32 {
    let terms = layout.terms();
    let path = layout.path(client);
    let locks: u32 = path
        .iter()
        .filter_map(|node| layout.node(*node))
        .map(|node| match node.kind {
            NodeKind::State => u32::from(terms.state_step) * u32::from(terms.state_count.saturating_sub(1)),
            NodeKind::Static | NodeKind::Kickoff => 0,
        })
        .sum();
    let transactions = u32::try_from(path.len()).unwrap_or(u32::MAX);
    locks + transactions * u32::from(terms.confirm_blocks) + u32::from(terms.margin_blocks)
}
