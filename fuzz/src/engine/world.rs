//! What is under way between three members and their lightningds, and the chain.
//!
//! Not the lab's [`World`](factory_lab::world::World): here bytes choose what happens next, also what no
//! lightningd or chain does, thousands of times a second, without a link layer and without scripts that are
//! judged. What it has in common with others it has from the lab: what is asked of an operator, and what
//! lightningd answers.

use std::collections::{BTreeMap, VecDeque};

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, TxIn};
use factory_engine::policy::Config;
use factory_engine::tx::plan::Profile;
use factory_engine::types::{
    Amount, ChannelId, Height, InstanceId, NodeId, OutPoint, PaymentHash, PaymentSecret, TermsHash,
    Transaction, Txid,
};
use factory_engine::{Answer, Block, Command, Effect, Input, Invoice, Refusal, SendMove, State};
use factory_lab::offer::Offer;
use factory_lab::scripted;

use super::node::{Node, Records, id};

/// Members: the operator and two clients.
pub const MEMBERS: usize = 3;
/// More waits than any course of things needs.
const MOST_PENDING: usize = 200;

/// All of it.
pub struct World {
    /// The members.
    pub nodes: Vec<Node>,
    /// For whom, and what.
    pub pending: VecDeque<(usize, Input)>,
    /// Messages that were ever sent: from, to, bytes.
    pub sent: Vec<(usize, usize, Vec<u8>)>,
    /// Broadcast, and in no block.
    pub mempool: Vec<Transaction>,
    /// By height: what is in which block.
    pub blocks: BTreeMap<Height, Vec<Transaction>>,
    /// Of the last block.
    pub height: Height,
    /// Milliseconds.
    pub now: u64,
    /// Factories that were begun.
    pub instances: Vec<InstanceId>,
    /// Invoices: whose, of which factory, label and hash.
    invoices: Vec<(usize, InstanceId, String, PaymentHash)>,
    forks: u32,
}

/// A world in which nothing is under way.
pub struct Snapshot {
    records: Vec<Records>,
    mempool: Vec<Transaction>,
    blocks: BTreeMap<Height, Vec<Transaction>>,
    height: Height,
    instances: Vec<InstanceId>,
}

impl Snapshot {
    /// What a member has stored.
    pub fn records(&self, member: usize) -> &Records {
        &self.records[member]
    }
}

impl World {
    /// Three members that have nothing, connected.
    pub fn new() -> Self {
        let nothing = Snapshot {
            records: vec![Records::new(); MEMBERS],
            mempool: vec![],
            blocks: BTreeMap::new(),
            height: 1_000,
            instances: vec![],
        };
        Self::from(&nothing)
    }

    /// What is durable. The chain too.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            records: self.nodes.iter().map(|node| node.records.clone()).collect(),
            mempool: self.mempool.clone(),
            blocks: self.blocks.clone(),
            height: self.height,
            instances: self.instances.clone(),
        }
    }

    fn connect_all(&mut self) {
        for at in 0..MEMBERS {
            let _ = self.feed(at, Input::Started { channels: vec![] });
            let block = self.block(self.height);
            let _ = self.feed(at, Input::Block(block));
        }
        for client in 1..MEMBERS {
            let _ = self.feed(0, Input::PeerUp { peer: id(client), channels: true });
            let _ = self.feed(client, Input::PeerUp { peer: id(0), channels: true });
        }
    }

    /// Gives a member an input, and takes note of what it wants.
    pub fn feed(&mut self, at: usize, input: Input) -> Result<Answer, Refusal> {
        let (answer, effects) = self.nodes[at].feed(input, self.now, self.height);
        for effect in effects {
            self.execute(at, effect);
        }
        answer
    }

    /// The next thing under way.
    pub fn step(&mut self) {
        if let Some((at, input)) = self.pending.pop_front() {
            let _ = self.feed(at, input);
        }
    }

    /// As many steps as there are, up to so many.
    pub fn settle(&mut self, most: usize) {
        for _ in 0..most {
            if self.pending.is_empty() {
                break;
            }
            self.step();
            for at in [2] {
                // The one that asks says yes.
                let open: Vec<(InstanceId, TermsHash)> = self.nodes[at]
                    .engine
                    .factories()
                    .filter(|factory| factory.state(self.height) == State::Invited)
                    .filter_map(|factory| Some((factory.instance, factory.current.terms_hash()?)))
                    .collect();
                for (instance, terms) in open {
                    let _ = self.feed(at, Input::Command(Command::Accept { instance, terms, from: None }));
                }
            }
        }
    }

    /// `factory-create` over both clients.
    pub fn create(&mut self, profile: Profile, stock: u64) {
        let clients: Vec<NodeId> = (1..MEMBERS).map(id).collect();
        let offer = Offer { profile, stock: Amount::from_sat(stock), ..Offer::default() };
        let Ok(create) = offer.to(&clients, &Config::default()) else { return };
        if let Ok(Answer::Created(instance)) = self.feed(0, Input::Command(Command::Create(create))) {
            self.instances.push(instance);
        }
    }

    /// Whether every member has an active factory.
    pub fn is_active(&self) -> bool {
        let active =
            |node: &Node| node.engine.factories().any(|factory| factory.state(self.height) == State::Active);
        self.nodes.iter().all(active)
    }

    /// For a failed assertion.
    pub fn describe(&self) -> String {
        let states = |node: &Node| {
            let of = |factory: &factory_engine::record::factory::Factory| {
                format!("{} {:?}", factory.state(self.height), factory.failure())
            };
            node.engine.factories().map(of).collect::<Vec<_>>()
        };
        format!("{:?}, {} under way", self.nodes.iter().map(states).collect::<Vec<_>>(), self.pending.len())
    }

    /// Every member's store, read from the beginning.
    pub fn judge_stores(&self) {
        self.nodes.iter().for_each(Node::judge_store);
    }

    /// The block at a height: its hash depends on the branch.
    pub fn block(&self, height: Height) -> Block {
        let text = format!("{height} {}", self.forks);
        let hash = BlockHash::from_byte_array(sha256::Hash::hash(text.as_bytes()).to_byte_array());
        Block { height, hash, txs: self.blocks.get(&height).cloned().unwrap_or_default() }
    }

    /// A block with what is chosen of the mempool, for everybody.
    pub fn mine(&mut self, chosen: &dyn Fn(usize) -> bool) {
        self.height = self.height.saturating_add(1);
        let mut index = 0;
        let (taken, left) = std::mem::take(&mut self.mempool).into_iter().partition(|_| {
            index += 1;
            chosen(index - 1)
        });
        self.mempool = left;
        self.blocks.insert(self.height, taken);
        for at in 0..MEMBERS {
            let block = self.block(self.height);
            let _ = self.feed(at, Input::Block(block));
        }
    }

    /// So many blocks leave the chain; their transactions wait again.
    pub fn reorg(&mut self, depth: u32) {
        let common = self.height.saturating_sub(depth).max(1);
        for (_, txs) in self.blocks.split_off(&common.saturating_add(1)) {
            self.mempool.extend(txs);
        }
        self.height = common;
        self.forks = self.forks.saturating_add(1);
        for at in 0..MEMBERS {
            let _ = self.feed(at, Input::Reorg { height: common });
        }
    }

    fn later(&mut self, at: usize, input: Input) {
        if self.pending.len() < MOST_PENDING {
            self.pending.push_back((at, input));
        }
    }

    fn execute(&mut self, at: usize, effect: Effect) {
        if let Some(input) = scripted::answer(id(at), &effect) {
            return self.later(at, input);
        }
        if let Some((peer, open, started)) = scripted::open(id(at), &effect) {
            if let Some(to) = number(peer) {
                self.later(to, Input::OpenChannel(open));
            }
            return self.later(at, started);
        }
        match effect {
            Effect::Send { peer, message } => {
                let payload = message.encode();
                assert_eq!(factory_engine::wire::message::Message::decode(&payload).as_ref(), Ok(&message));
                if let Some(to) = number(peer) {
                    self.sent.push((at, to, payload.clone()));
                    self.later(to, Input::Message { peer: id(at), payload });
                }
            }
            Effect::SendFunding { tx, .. } => self.broadcast(tx),
            Effect::Broadcast { tx, .. } => self.broadcast(tx),
            Effect::MakeInvoice { instance, label, amount_msat, .. } => {
                let hash = sha256::Hash::hash(label.as_bytes()).to_byte_array();
                let invoice = Invoice {
                    amount_msat,
                    payment_hash: PaymentHash(hash),
                    payment_secret: PaymentSecret(hash),
                    min_final_cltv_expiry: 18,
                };
                self.invoices.push((at, instance, label.clone(), invoice.payment_hash));
                self.later(at, Input::InvoiceMade { instance, label, result: Ok(invoice) });
            }
            Effect::EndInvoice { instance, label } => {
                self.later(at, Input::InvoiceEnded { instance, label, result: Ok(false) });
            }
            Effect::PayInvoice { instance, invoice, .. } => {
                let payment_hash = invoice.payment_hash;
                self.later(at, Input::PaymentEnded { instance, payment_hash, result: Ok(()) });
                let found = self.invoices.iter().find(|(.., hash)| *hash == payment_hash).cloned();
                if let Some((payee, instance, label, _)) = found {
                    self.later(payee, Input::InvoiceEnded { instance, label, result: Ok(true) });
                }
            }
            Effect::LookPayment { instance, payment_hash } => {
                let result = Err("it never left".into());
                self.later(at, Input::PaymentEnded { instance, payment_hash, result });
            }
            Effect::FundChannel { instance, buyer, .. } => {
                let outpoint = OutPoint { txid: Txid::from_byte_array([at as u8; 32]), vout: buyer };
                let result = Ok((ChannelId::of(outpoint), outpoint));
                self.later(at, Input::ChannelFunded { instance, buyer, result });
            }
            Effect::FindOrdinary { instance, opened, .. } => {
                self.later(at, Input::OrdinaryFound { instance, opened, result: Ok(true) });
            }
            Effect::ReadBalances { .. } => self.later(at, Input::Balances(vec![])),
            Effect::CheckEmpty { instance, freeze, .. } => {
                self.later(at, Input::Emptied { instance, freeze, result: Ok(vec![]) });
            }
            Effect::CheckOrdinary { instance, channel_id, .. } => {
                self.later(at, Input::OrdinaryChecked { instance, channel_id, result: Ok(()) });
            }
            Effect::SendMove(send) => {
                let SendMove { instance, payment_hash, .. } = *send;
                self.later(at, Input::MoveEnded { instance, payment_hash, result: Ok(()) });
            }
            Effect::LookMove { instance, payment_hash, .. } => {
                let result = Err("it never left".into());
                self.later(at, Input::MoveEnded { instance, payment_hash, result });
            }
            Effect::SetFees { peer, channel_id, free } => {
                self.later(at, Input::FeesSet { peer, channel_id, free, result: Ok(()) });
            }
            // Answered above.
            Effect::NewPayout { .. }
            | Effect::PrepareFunding { .. }
            | Effect::StartChannel { .. }
            | Effect::CompleteChannel { .. }
            | Effect::CheckChannel { .. }
            | Effect::CheckUnspent { .. }
            | Effect::WaitInvoice { .. }
            | Effect::ReleaseFunding { .. }
            | Effect::Bump(_)
            | Effect::CancelChannel { .. }
            | Effect::CloseChannel { .. }
            | Effect::MutualClose { .. }
            | Effect::Connect { .. }
            | Effect::Disconnect { .. }
            | Effect::RenewalDue { .. }
            | Effect::Wake { .. }
            | Effect::Copy { .. }
            | Effect::Shelf { .. }
            | Effect::BringBack { .. }
            | Effect::ReadAgain { .. }
            | Effect::Appoint { .. }
            | Effect::Tower { .. }
            | Effect::KeepReceipt(_)
            | Effect::StateChanged { .. }
            | Effect::Log { .. } => {}
        }
    }

    /// Unless it is known, or something in a block has spent what it spends.
    fn broadcast(&mut self, tx: Transaction) {
        let txid = tx.compute_txid();
        let known = |known: &Transaction| {
            let spends =
                |input: &TxIn| tx.input.iter().any(|ours| ours.previous_output == input.previous_output);
            known.compute_txid() == txid || known.input.iter().any(spends)
        };
        if !self.mempool.iter().any(known)
            && !self.blocks.values().flatten().any(known)
            && self.mempool.len() < 64
        {
            self.mempool.push(tx);
        }
    }
}

impl From<&Snapshot> for World {
    fn from(snapshot: &Snapshot) -> Self {
        let nodes = (0..).zip(&snapshot.records).map(|(number, records)| Node::new(number, records.clone()));
        let mut world = Self {
            nodes: nodes.collect(),
            pending: VecDeque::new(),
            sent: vec![],
            mempool: snapshot.mempool.clone(),
            blocks: snapshot.blocks.clone(),
            height: snapshot.height,
            now: 1_700_000_000_000,
            instances: snapshot.instances.clone(),
            invoices: vec![],
            forks: 0,
        };
        world.connect_all();
        world
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Which member has this id.
fn number(peer: NodeId) -> Option<usize> {
    (0..MEMBERS).find(|number| id(*number) == peer)
}
