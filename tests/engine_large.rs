//! S19: a factory so large that a distribution of its root would not relay. Its client gets out all the same,
//! at any time, with the operator gone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{BlockHash, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use factory_engine::io::fees::{FeeNews, Feerates};
use factory_engine::record::Proposal;
use factory_engine::record::event::{
    Accepted, ChannelChecked, Confirmed, Event, Invited, LedgerEntry, OpenAccepted, Recovered, Signed,
    Signing,
};
use factory_engine::terms::{ClientIndex, Terms};
use factory_engine::tx::layout::{Layout, MAX_STANDARD_VBYTES, SpendRole};
use factory_engine::tx::musig::{FactoryKey, MasterSecret, PublicKey};
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::tx::tree::{Member, Roster, Scope, Tree};
use factory_engine::types::{Amount, ChannelId, InstanceId, NodeId, PROTOCOL_ID};
use factory_engine::{Block, Command, Config, Effect, Engine, Entropy, Input, Part, State, package};
use factory_lab::offer::Offer;

const CLIENTS: u32 = 4_096;
const INSTANCE: InstanceId = InstanceId([1; 32]);
const FUNDED: u32 = 1_000;

struct Zeros;

impl Entropy for Zeros {
    fn bytes32(&mut self) -> [u8; 32] {
        [0; 32]
    }
}

fn keys() -> Vec<PublicKey> {
    let key = |who: u32| {
        let master = MasterSecret::new(sha256::Hash::hash(&who.to_be_bytes()).to_byte_array());
        FactoryKey::derive(&master, INSTANCE, 1).public()
    };
    (0..=CLIENTS).map(key).collect()
}

fn terms(profile: Profile) -> Terms {
    let shape = shape_for(CLIENTS, profile).unwrap();
    Terms { instance: INSTANCE, ..Offer::default().terms(CLIENTS as usize, shape, &Config::default()) }
}

fn payout(client: ClientIndex) -> ScriptBuf {
    ScriptBuf::from([&[0x51, 32][..], &sha256::Hash::hash(&client.to_be_bytes()).to_byte_array()].concat())
}

fn funding_tx(value: Amount) -> Transaction {
    let input = TxIn {
        previous_output: OutPoint { txid: Txid::all_zeros(), vout: 0 },
        script_sig: ScriptBuf::new(),
        sequence: Sequence::MAX,
        witness: Witness::new(),
    };
    let output = TxOut { value, script_pubkey: ScriptBuf::new_op_return([]) };
    Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![input],
        output: vec![output],
    }
}

/// What a client has stored of a factory that is active. That signatures are valid is shown where all sign
/// (`tx_suite`): here they are none.
fn records(terms: &Terms, keys: &[PublicKey], client: ClientIndex) -> Vec<Event> {
    let layout = Layout::new(terms).unwrap();
    let members: Vec<(PublicKey, ScriptBuf)> =
        (0..CLIENTS).map(|client| (keys[client as usize + 1], payout(client))).collect();
    let roster = Roster {
        lsp_key: keys[0],
        clients: members.iter().map(|(key, payout)| Member { key: *key, payout: payout.clone() }).collect(),
    };
    let funding_tx = funding_tx(layout.funding_value());
    let funding = OutPoint { txid: funding_tx.compute_txid(), vout: 0 };
    let leaf = layout.node(*layout.path(client).last().unwrap()).unwrap().clients.clone();
    let scripts: BTreeMap<_, _> = leaf.map(|other| (other, payout(other).to_p2wsh())).collect();
    let foreign: BTreeMap<_, _> = Tree::foreign_coins(&layout, client)
        .into_iter()
        .map(|coin| (coin, keys[coin as usize % keys.len()].x_only_public_key().0))
        .collect();
    let tree = Tree::build(&layout, &roster, funding, Scope::Client(client), &scripts, &foreign).unwrap();
    let proposal = Proposal {
        lsp_key: keys[0],
        clients: members.into_iter().collect(),
        funding_tx: funding_tx.clone(),
        funding_vout: 0,
        channel_scripts: scripts.into_iter().collect(),
        foreign_keys: foreign.into_iter().collect(),
    };
    let ledger = tree.sessions().iter().map(|session| LedgerEntry {
        outpoint: session.outpoint,
        session: session.id,
        sighash: session.sighash,
    });
    let channel_id = ChannelId::of(tree.channel_outpoint(client).unwrap());
    vec![
        Invited {
            attempt: 1,
            terms: terms.clone(),
            client,
            price_msat: 0,
            height: FUNDED,
            protocol: PROTOCOL_ID,
        }
        .into(),
        Accepted { from: None }.into(),
        OpenAccepted { attempt: 1 }.into(),
        Signing { attempt: 1, proposal, ledger: ledger.collect(), salt: Some([7; 32]) }.into(),
        Signed { signatures: vec![[9; 64]; tree.sessions().len()] }.into(),
        ChannelChecked { client, channel_id }.into(),
        Confirmed {
            txid: funding.txid,
            height: FUNDED,
            spends: vec![OutPoint { txid: Txid::all_zeros(), vout: 0 }],
            pays: None,
        }
        .into(),
    ]
}

/// A client alone with the chain: whatever it publishes is mined in the next block.
struct Alone {
    engine: Engine,
    height: u32,
    mempool: BTreeMap<Txid, Transaction>,
    /// Most that it would pay to get something mined.
    most: Amount,
}

impl Alone {
    fn new(records: Vec<Event>, height: u32) -> Self {
        let mut engine = Engine::new(NodeId([3; 33]), MasterSecret::new([3; 32]), Config::default());
        engine.load(INSTANCE, records.into_iter().map(|event| vec![event])).unwrap();
        Self { engine, height, mempool: BTreeMap::new(), most: Amount::ZERO }
    }

    fn input(&mut self, input: Input) {
        let step = self.engine.handle(input, 0, self.height, &mut Zeros);
        assert!(step.answer.is_ok(), "{:?}", step.answer);
        for effect in self.engine.apply(step).unwrap() {
            match effect {
                Effect::Broadcast { tx, .. } => {
                    self.mempool.insert(tx.compute_txid(), tx);
                }
                Effect::Bump(raise) => self.most = self.most.max(raise.bump.max_fee),
                _ => {}
            }
        }
    }

    /// The next block, and what the node says of fees after it.
    fn block(&mut self) -> Vec<Transaction> {
        self.height += 1;
        let txs: Vec<Transaction> = std::mem::take(&mut self.mempool).into_values().collect();
        let hash = BlockHash::from_byte_array(sha256::Hash::hash(&self.height.to_be_bytes()).to_byte_array());
        self.input(Input::Block(Block { height: self.height, hash, txs: txs.clone() }));
        let feerates = Feerates { floor: 253, estimates: BTreeMap::from([(2, 20_000), (100, 20_000)]) };
        self.input(Input::Fees(FeeNews { feerates: Some(feerates), ..FeeNews::default() }));
        txs
    }

    fn state(&self) -> State {
        self.engine.factory(INSTANCE).unwrap().state(self.height)
    }
}

/// S19: the root has no distribution; from the timeout on a client that was not leaving publishes its path
/// down to where there is one, and that pays it its whole capacity.
#[test]
fn a_client_of_4096_whose_operator_is_gone_at_the_timeout() {
    let keys = keys();
    for (profile, client) in
        [(Profile::Static, 0), (Profile::Static, 2_047), (Profile::Stateful, CLIENTS - 1)]
    {
        let terms = terms(profile);
        let layout = Layout::new(&terms).unwrap();
        let root = layout.coin(0).unwrap();
        assert!(!root.has_distribution && root.distribution_vbytes > MAX_STANDARD_VBYTES);
        let mut alone = Alone::new(records(&terms, &keys, client), terms.timeout_height - 2);
        assert_eq!(alone.block(), [], "nothing is due before the timeout");
        alone.block();
        assert_eq!(alone.height, terms.timeout_height);
        assert!(!alone.mempool.is_empty(), "{profile}: locked up for good");
        assert!(alone.most > Amount::ZERO, "{profile}: it would pay nothing to get out");
        let mut mined = vec![];
        while alone.state() != State::Distributed {
            assert!(alone.height < terms.timeout_height + 1_000, "{profile}: it never ends");
            mined.extend(alone.block());
        }
        let last = mined.last().unwrap();
        let own = last.output.iter().find(|output| output.script_pubkey == payout(client)).unwrap();
        assert!(own.value >= terms.capacities[client as usize]);
        // Only as far down as it has to.
        let factory = alone.engine.factory(INSTANCE).unwrap();
        for tx in &mined {
            let id = factory.session_of(tx.input[0].previous_output, tx.compute_txid()).unwrap();
            let coin = layout.coin(id.coin).unwrap();
            assert_eq!(
                id.role == SpendRole::Distribution,
                coin.has_distribution,
                "{profile}: coin {}",
                id.coin
            );
        }
    }
}

/// S19: the same for one that was on its way out already: the timeout takes nothing from it.
#[test]
fn a_client_of_4096_that_leaves_across_the_timeout() {
    let keys = keys();
    let terms = terms(Profile::Static);
    let mut alone = Alone::new(records(&terms, &keys, 5), terms.timeout_height - 2);
    alone.block();
    alone.input(Input::Command(Command::Exit { instance: INSTANCE }));
    assert!(!alone.mempool.is_empty());
    // Nobody mines the root before the timeout.
    alone.mempool.clear();
    alone.block();
    assert_eq!(alone.height, terms.timeout_height);
    let mut blocks = 0;
    while alone.state() != State::Distributed {
        alone.block();
        blocks += 1;
        assert!(blocks < 20, "it never ends");
    }
}

/// S19, S39: whoever has lost its channels has nothing of its path in its package but what leads to the first
/// distribution, for the timeout.
#[test]
fn a_client_of_4096_that_lost_its_channels_exports_the_way_to_a_distribution() {
    let terms = terms(Profile::Static);
    let layout = Layout::new(&terms).unwrap();
    let mut records = records(&terms, &keys(), 5);
    records.push(Event::Recovered(Recovered { reason: "the machine is lost".to_owned() }));
    let alone = Alone::new(records, terms.timeout_height - 2);
    let all = package(alone.engine.factory(INSTANCE).unwrap());
    let last = Some(terms.timeout_height + 1);
    assert!(all.iter().all(|one| (one.part, one.from_block) == (Part::Distribution, last)));
    let way = layout.path(5).into_iter().filter(|node| !layout.coin(*node).unwrap().has_distribution).count();
    assert!(way > 0 && way < layout.path(5).len());
    // Each spends an output of the one before it, down to where there is a distribution.
    for pair in all[..=way].windows(2) {
        assert_eq!(pair[1].input.txid, pair[0].txid, "{} follows on {}", pair[1].name, pair[0].name);
    }
    assert!(all[way].name.starts_with("distribution") && !all[way].pays.is_empty());
}
