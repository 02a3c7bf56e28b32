//! S22, S37 from outside: what a client that hands its key over still has there, and where its money is instead;
//! and whether what the operator has is that key.

use factory_engine::record::leaves::Wish;
use factory_engine::terms::ClientIndex;
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::{Factory, Role};

use super::{LSP, RESERVE_MSAT, World};

impl World {
    /// A client has stored that its key may leave: for nothing less than a new channel.
    pub(super) fn hands_over(&mut self, at: usize, instance: InstanceId) -> Result<(), String> {
        let verdict = self.may_hand_over(at, instance);
        self.note_handed(at, instance)?;
        verdict
    }

    fn may_hand_over(&mut self, at: usize, instance: InstanceId) -> Result<(), String> {
        if let Some((next, more_msat)) = self.successor_of(at, instance)? {
            self.judge.note_paid(at, next, more_msat);
        }
        Ok(())
    }

    /// The factory that takes the place of one, and what stays behind for it; nothing if an ordinary channel does.
    fn successor_of(&self, at: usize, instance: InstanceId) -> Result<Option<(InstanceId, u64)>, String> {
        let engine = self.members[at].engine.as_ref().ok_or("lab: it is down")?;
        let factory = engine.factory(instance).ok_or("lab: no such factory")?;
        let mut left_msat: u64 = 0;
        let wish = factory.leaves.wish();
        let mut more_msat: u64 = 0;
        // Of what was bought the reserve stays behind.
        let bought = own_channels(factory).len().saturating_sub(1);
        let bought_msat = u64::try_from(bought).unwrap_or(u64::MAX).saturating_mul(RESERVE_MSAT);
        for channel in own_channels(factory) {
            let known = self.members[at].lightningd.channels.get(&channel);
            let known = known.ok_or_else(|| format!("S22: channel {channel} is not there"))?;
            let has = if known.opener { known.balances.opener_msat } else { known.balances.fundee_msat };
            more_msat = more_msat.saturating_add(has.saturating_sub(RESERVE_MSAT));
            if self.htlcs_on.contains(&channel) || self.is_moving(channel) {
                return Err(format!("S22: it hands its key over, and an HTLC stands on {channel}"));
            }
            left_msat = left_msat.saturating_add(has.min(RESERVE_MSAT));
        }
        let open = factory.current.sales.all().find(|sold| !sold.is_signed() && sold.void.is_none());
        if let Some(open) = open {
            return Err(format!("S22: it hands its key over, and sale {} is open", open.sale.number));
        }
        if let Some(wish) = wish {
            // What a person agreed to leave behind for an ordinary channel.
            let price_msat = wish.price_msat.min(wish.max_price_msat);
            if more_msat > price_msat {
                return Err(format!(
                    "S22: it hands its key over, and {more_msat} msat more are in its channels"
                ));
            }
            return self.leaves_for(at, factory, *wish, left_msat).map(|()| None);
        }
        // A client goes to the one that ends last.
        let mut others: Vec<_> = engine.factories().filter(|other| other.instance != instance).collect();
        others.sort_by_key(|other| std::cmp::Reverse(other.current.terms.timeout_height));
        let mut why = "there is no other".to_owned();
        for next in others {
            match self.takes_its_place(at, factory, next, left_msat.saturating_sub(bought_msat), more_msat) {
                Ok(()) => return Ok(Some((next.instance, more_msat))),
                Err(reason) => why = reason,
            }
        }
        Err(format!("S22: it hands its key over, and its new channel isn't there for good: {why}"))
    }

    /// Whether a client's money can be in an ordinary channel instead, or it had none.
    fn leaves_for(&self, at: usize, factory: &Factory, wish: Wish, left_msat: u64) -> Result<(), String> {
        if left_msat > wish.stays_msat {
            return Err(format!("S22: {left_msat} msat stay behind, and {} were agreed to", wish.stays_msat));
        }
        let Some(to) = wish.to else { return Ok(()) };
        let list = self.balances(at, factory.lsp());
        let known = list.iter().find(|known| known.channel_id == to && known.live);
        let confirmed = known.and_then(|known| known.confirmed);
        let depth = confirmed.map(|at| self.chain.height().saturating_sub(at).saturating_add(1));
        let least = u32::from(self.members[at].config.handover_depth);
        match depth {
            Some(depth) if depth >= least => Ok(()),
            _ => Err(format!("S22: it hands its key over, and channel {to} is {depth:?} deep")),
        }
    }

    /// Whether a client's money can be in this factory instead.
    fn takes_its_place(
        &self,
        at: usize,
        factory: &Factory,
        next: &Factory,
        left_msat: u64,
        more_msat: u64,
    ) -> Result<(), String> {
        let Role::Client { lsp, index } = next.current.role else { return Err("it is no client".into()) };
        if lsp != factory.lsp() || self.judge.has_handed_over(next.instance, index) {
            return Err("it is another operator's, or left".into());
        }
        let (now, ends) = (&next.current.terms, factory.current.terms.timeout_height);
        if now.timeout_height <= ends {
            return Err("it ends no later".into());
        }
        let funding = next.funding().ok_or("it has no funding")?;
        let (confirmed, _) = self.chain.confirmed(funding.txid).ok_or("its funding isn't in the chain")?;
        let depth = self.chain.height().saturating_sub(confirmed).saturating_add(1);
        let config = &self.members[at].config;
        if depth < u32::from(config.handover_depth.max(now.funding_confirmations)) {
            return Err(format!("its funding is {depth} deep"));
        }
        self.record_fits(at, &next.current, index)?;
        // Its price is paid once, whatever it takes the place of.
        let paid_msat = self.judge.paid_msat(at, next.instance);
        let price_msat = next.current.price_msat.saturating_sub(paid_msat);
        if more_msat > price_msat {
            return Err(format!(
                "{more_msat} msat more than reserves stay behind, and it costs {price_msat}"
            ));
        }
        let behind_msat = left_msat.saturating_add(more_msat);
        if behind_msat > now.push_msat.saturating_add(config.max_renewal_price_msat) {
            return Err(format!("{behind_msat} msat stay behind, and {} were given", now.push_msat));
        }
        Ok(())
    }

    /// The operator has stored a client's key: the client has let it go.
    pub(super) fn may_have_key(&self, instance: InstanceId, client: ClientIndex) -> Result<(), String> {
        if self.judge.has_handed_over(instance, client) {
            return Ok(());
        }
        Err(format!("S22: the operator has client {client}'s key, which it never handed over"))
    }

    /// S22: each key that the operator has stored is that client's.
    pub(super) fn has_right_keys(&self, at: usize, factory: &Factory) -> Result<(), String> {
        let Some(engine) = self.members[at].engine.as_ref().filter(|_| at == LSP) else { return Ok(()) };
        let Some(proposal) = &factory.current.proposal else { return Ok(()) };
        let clients = 0..factory.current.terms.clients();
        for client in clients.filter(|client| factory.has_handed_over(*client)) {
            let place = usize::try_from(client).unwrap_or(usize::MAX);
            let member = proposal.clients.get(place).map(|(key, _)| *key);
            let has = engine.handed_over_key(factory, client).map(|key| key.public());
            if has.is_none() || has != member {
                return Err(format!("S22: what it has stored is not client {client}'s key"));
            }
        }
        Ok(())
    }
}

/// A client's channels of a factory: its leaf's, and what it bought.
fn own_channels(factory: &Factory) -> Vec<ChannelId> {
    let leaf = factory.current.channels.values().copied();
    // One that came to nothing can't be enforced.
    let sold = factory.own_sales().filter(|sold| sold.is_signed() && sold.void.is_none());
    leaf.chain(sold.map(|sold| sold.channel_id())).collect()
}
