//! What the judge asks of sales out of stock: when they are signed, when they are dropped, who is blamed,
//! and what of them is on its way to the chain.

use bitcoin::{OutPoint, Transaction};
use factory_engine::record::event::{SaleDropped, SaleSigned, SaleSigning};
use factory_engine::tx::layout::{CoinIndex, SpendRole};
use factory_engine::types::{InstanceId, NodeId};
use factory_engine::wire::message::Message;
use factory_engine::{Factory, Role, Sold};

use crate::chain::check_scripts;

use super::handed::has_every_key;
use super::judged::early_of_sale;
use super::{LSP, World};

impl World {
    fn factory_of(&self, at: usize, instance: InstanceId) -> Option<&Factory> {
        self.members[at].engine.as_ref()?.factory(instance)
    }

    /// S24: nothing begins to be signed in a sub-factory whose leaf is on chain. S3: what a buyer signs is
    /// what it asked for.
    pub(super) fn may_sell(&self, at: usize, instance: InstanceId, e: &SaleSigning) -> Result<(), String> {
        let Some(factory) = self.factory_of(at, instance) else { return Ok(()) };
        self.is_cooperative(at, factory, e.coin)?;
        let Role::Client { index, .. } = factory.current.role else { return Ok(()) };
        if e.buyer != index {
            return Ok(());
        }
        // A restart forgets the wish; what was agreed to is stored then.
        let wish = self.members[at].engine.as_ref().and_then(|engine| engine.purchase(instance));
        let wish = wish.filter(|wish| wish.is_open());
        if wish.is_some_and(|wish| wish.amount != e.amount || wish.max_price_msat < e.price_msat) {
            return Err(format!(
                "S3: it signs for {} at {} msat, and asked for {wish:?}",
                e.amount, e.price_msat
            ));
        }
        Ok(())
    }

    /// S24, of a member that knows the chain's tip.
    fn is_cooperative(&self, at: usize, factory: &Factory, coin: CoinIndex) -> Result<(), String> {
        if self.seen(at) != Some(self.chain.height()) {
            return Ok(());
        }
        let stock = factory.current.tree.as_ref().and_then(|tree| tree.coin_outpoint(coin));
        match stock.and_then(|stock| self.chain.confirmed(stock.txid)) {
            Some((height, _)) => {
                Err(format!("S24: it signs a sale of coin {coin}, whose leaf is on chain since {height}"))
            }
            None => Ok(()),
        }
    }

    /// S4, S8, S19, S20: what a finished sale must be.
    pub(super) fn sale_holds(
        &mut self,
        at: usize,
        instance: InstanceId,
        e: &SaleSigned,
    ) -> Result<(), String> {
        let Some(factory) = self.factory_of(at, instance) else { return Ok(()) };
        let place = usize::try_from(e.number).map_err(|error| error.to_string())?;
        let chain = factory.current.sales.of(e.coin);
        let sold =
            place.checked_sub(1).and_then(|place| chain.get(place)).ok_or("S10: signed, and unknown")?;
        if chain.iter().take(place.saturating_sub(1)).any(|before| !before.is_signed()) {
            return Err(format!("S19: sale {place} is signed before those that it spends"));
        }
        let mut finished = Vec::new();
        for (session, signature) in sold.sale.sessions.iter().zip(&e.signatures) {
            let mut tx = session.tx.clone();
            if let Some(input) = tx.input.first_mut() {
                input.witness.push(signature);
            }
            check_scripts(&tx, std::slice::from_ref(&session.prevout))
                .map_err(|why| format!("S4: it stores a {:?} that is none: {why:?}", session.id.role))?;
            finished.push((session.outpoint, session.id.role, session.txid));
        }
        let rest = sold.sale.sessions.iter().find(|session| session.id.role == SpendRole::Distribution);
        if let (Some(session), Some(coin)) = (rest, factory.current.layout.coin(e.coin)) {
            let paid = session.tx.output.len().saturating_sub(1);
            if paid != coin.clients.clone().count() {
                return Err(format!("S20: what sale {place} leaves pays {paid} clients"));
            }
        }
        if sold.sale.rest.is_some() != rest.is_some() {
            return Err("S20: what a sale leaves has no distribution".into());
        }
        if matches!(factory.current.role, Role::Client { index, .. } if index == sold.sale.buyer) {
            self.sold_record_fits(at, sold)?;
        }
        for (input, role, txid) in finished {
            // Where nobody has kept its memory nobody can tell.
            if self.judge.is_second(input, role, txid) {
                return Err(format!("S8: two finished {role:?} transactions spend {input}"));
            }
        }
        Ok(())
    }

    /// S18: lightningd's record of a bought channel against its sale.
    pub(crate) fn sold_record_fits(&self, at: usize, sold: &Sold) -> Result<(), String> {
        let lightningd = &self.members[at].lightningd;
        let record =
            lightningd.check_channel(sold.channel_id(), sold.sale.channel, &sold.sale.channel_output);
        record.map_err(|why| format!("S18: a sale doesn't pay its channel: {why:?}"))
    }

    /// S12: a sale is dropped only if nobody can have signed it.
    pub(super) fn may_drop(&self, at: usize, instance: InstanceId, e: &SaleDropped) -> Result<(), String> {
        if self.judge.has_begun(at, instance, e.coin, e.number) {
            return Err(format!("S12: drops sale {} of coin {}, which it has signed", e.number, e.coin));
        }
        Ok(())
    }

    /// S24 for a sale that is taken up again, before a message leaves.
    pub(super) fn judge_sale_message(&mut self, at: usize, message: &Message) {
        let Message::SalePartialSignatures(signatures) = message else { return };
        if !self.is_owed(at) || !self.judge.is_new(at, signatures) {
            return;
        }
        let Some(factory) = self.factory_of(at, signatures.instance) else { return };
        let Role::Client { index, .. } = factory.current.role else { return };
        let Some(coin) = factory.current.layout.stock_coin(index) else { return };
        let verdict = self.is_cooperative(at, factory, coin);
        self.judge.violations.extend(verdict.err().map(|why| format!("{why} (member {at})")));
    }

    /// S4: whom an honest member names for a fault in a sale is no honest member.
    pub(super) fn judge_blame(&mut self, at: usize, text: &str) {
        let blames = text.contains("fault of ") && text.contains(" in sale_");
        let bad = text.contains("sent a bad partial signature") && text.contains(": sale ");
        let nobody = text.contains("although every part does");
        if !(blames || bad || nobody) || self.chaos.is_none() || !self.is_owed(at) {
            return;
        }
        let is_named = |id: &NodeId| text.contains(&id.to_string());
        let honest = |(other, member): &(usize, &super::Member)| is_named(&member.id) && self.is_owed(*other);
        // A member that came back with an older database knows less than it should: others that go on
        // where they were surprise it.
        let confused = (0..self.members.len()).any(|other| self.is_restored(other));
        if !confused && (nobody || self.members.iter().enumerate().any(|member| honest(&member))) {
            self.judge.violations.push(format!("S4: an honest member is blamed: {text} (member {at})"));
        }
    }

    /// S19: the operator's engine leaves alone what it has sold.
    pub(super) fn judge_taking(&mut self, at: usize, tx: &Transaction) {
        let Some(input) = tx.input.first().map(|input| input.previous_output) else { return };
        let Some(engine) = self.members[at].engine.as_ref().filter(|_| at == LSP && self.is_owed(at)) else {
            return;
        };
        // What all of its clients have handed over is nobody else's any more (S22).
        let theirs =
            |factory: &'_ Factory, sold: &Sold| !sold.coin().is_some_and(|coin| has_every_key(factory, coin));
        let sales = engine
            .factories()
            .flat_map(|factory| factory.current.sales.all().filter(move |sold| theirs(factory, sold)));
        let spends =
            |sold: &Sold| sold.sale.sessions.first().is_some_and(|session| session.outpoint == input);
        let sold = sales.filter(|sold| sold.is_signed()).find(|sold| spends(sold));
        if sold.is_some_and(|sold| sold.txid() != tx.compute_txid()) {
            self.judge.violations.push(format!("S19: the operator spends {input}, which it has sold"));
        }
    }

    /// Sales whose stock is on chain, and from the timeout on what they have left: what a member wants on chain, with what
    /// each spends.
    pub(super) fn due_sales(&self, factory: &Factory) -> Vec<(OutPoint, Transaction)> {
        let is_client = factory.current.role != Role::Lsp;
        let last = factory.own_sales().filter(|sold| sold.is_signed()).map(|sold| sold.sale.number).max();
        let theirs = |sold: &&Sold| !sold.coin().is_some_and(|coin| has_every_key(factory, coin));
        let wanted = factory.current.sales.all();
        let wanted =
            wanted.filter(|sold| if is_client { Some(sold.sale.number) <= last } else { theirs(sold) });
        let mut due: Vec<Transaction> = wanted.filter_map(Sold::signed_sale).collect();
        if is_client && self.chain.height() >= factory.current.terms.timeout_height {
            due.extend(factory.current.sales.all().filter_map(Sold::signed_distribution));
        }
        let due = due.into_iter().filter_map(|tx| Some((tx.input.first()?.previous_output, tx)));
        due.filter(|(input, _)| self.chain.coin(*input).is_some_and(|coin| coin.height.is_some())).collect()
    }

    /// S26: of these each that the chain takes is on its way.
    pub(super) fn sales_published(&self, at: usize, factory: &Factory) -> Result<(), String> {
        if factory.funding_height().is_none() {
            return Ok(());
        }
        for (input, tx) in self.due_sales(factory) {
            let sale = tx.lock_time.to_consensus_u32() == 0;
            if let Some(tx) = self.chain.waiting(tx.compute_txid()).filter(|_| sale) {
                self.is_raised(at, factory, tx, SpendRole::Sale)?;
            }
            if !self.chain.knows(tx.compute_txid()) && self.chain.check(&tx).is_ok() {
                return Err(format!("S26: a sale's transaction could spend {input}, and is not published"));
            }
        }
        Ok(())
    }

    /// S19: who has bought is on its way out while there is time for all of it; a distribution would share
    /// its channel among its neighbours.
    pub(super) fn buyer_leaves(&self, factory: &Factory) -> Result<(), String> {
        let Role::Client { index, .. } = factory.current.role else { return Ok(()) };
        let last = factory.own_sales().filter(|sold| sold.is_signed()).map(|sold| sold.sale.number).max();
        let Some(last) = last.filter(|_| factory.funding_height().is_some()) else { return Ok(()) };
        let early = early_of_sale(&factory.current.layout, index, last);
        let begin = factory.current.terms.timeout_height.saturating_sub(early);
        // S39: nobody but the operator could close what a lost machine's exit brought on chain.
        let leaves = factory.is_leaving(index) || factory.has_lost_channels();
        if self.chain.height() >= begin && !leaves {
            return Err(format!("S19: it has bought, has to leave from {begin} on, and does not"));
        }
        Ok(())
    }

    /// What is left of a sub-factory's stock, as far as sales are signed here; nothing if all is sold.
    pub(super) fn unsold(&self, factory: &Factory, coin: CoinIndex) -> Option<OutPoint> {
        match factory.current.sales.of(coin).iter().rev().find(|sold| sold.is_signed()) {
            Some(last) => last.sale.rest.map(|rest| rest.outpoint),
            None => factory.current.tree.as_ref()?.coin_outpoint(coin),
        }
    }
}
