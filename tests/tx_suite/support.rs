//! Terms, members, and a ceremony in which everybody is honest.
//!
//! No scenario of the lab: there are no engines here, only keys and trees, in shapes that no planner chooses and
//! with unequal capacities.

use std::collections::BTreeMap;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Amount, OutPoint, ScriptBuf, TxOut, Txid, WPubkeyHash, WScriptHash};
use factory_engine::terms::{ClientIndex, Kind, Leaf, Level, Shape, Terms};
use factory_engine::tx::layout::{CoinIndex, Layout, SessionId};
use factory_engine::tx::musig::{
    AggNonce, FactoryKey, MasterSecret, PubNonce, SecNonce, aggregate, aggregate_nonces, new_nonce,
    sign_partial,
};
use factory_engine::tx::plan::{Delays, Profile, shape_for};
use factory_engine::tx::tree::{Member, Roster, Scope, Session, Tree, funding_script};
use factory_engine::types::{InstanceId, NodeId};

pub const TIMEOUT: u32 = 100_000;

pub fn hash(text: &str) -> [u8; 32] {
    sha256::Hash::hash(text.as_bytes()).to_byte_array()
}

pub fn level(arity: u16, kind: Kind) -> Level {
    Level { arity, kind }
}

pub fn leaf(kind: Kind, sub_factories: u16, clients_per_sub: u16) -> Leaf {
    Leaf { kind, sub_factories, clients_per_sub }
}

/// Terms with unequal capacities, so that a mix-up of clients shows.
pub fn terms(clients: u32, shape: Shape, stock: u64) -> Terms {
    let capacity = |client: u32| Amount::from_sat(100_000 + 1_001 * u64::from(client));
    Terms {
        instance: InstanceId(hash("instance")),
        lsp: NodeId([2; 33]),
        shape,
        capacities: (0..clients).map(capacity).collect(),
        stock: Amount::from_sat(stock),
        push_msat: 1_000,
        state_step: 6,
        state_count: 3,
        stock_csv: 144,
        tree_feerate: 253,
        timeout_height: TIMEOUT,
        dying_blocks: 2_016,
        confirm_blocks: 6,
        margin_blocks: 12,
        funding_confirmations: 3,
    }
}

/// Terms with the planner's delays, in the shape that it chooses.
pub fn planned(clients: u32, profile: Profile, stock: u64) -> Terms {
    let delays = Delays::default();
    Terms {
        state_step: delays.state_step,
        state_count: delays.state_count,
        confirm_blocks: delays.confirm_blocks,
        margin_blocks: delays.margin_blocks,
        ..terms(clients, shape_for(clients, profile).unwrap(), stock)
    }
}

/// Every kind of tree that the builder knows, by name.
pub fn shapes() -> Vec<(&'static str, Shape, u64)> {
    use Kind::{Stateful, Static};
    vec![
        ("static, arity 4", Shape { levels: vec![level(4, Static); 3], leaf: leaf(Static, 2, 2) }, 50_001),
        (
            "stateful, arity 2",
            Shape { levels: vec![level(2, Stateful); 5], leaf: leaf(Static, 2, 2) },
            20_000,
        ),
        ("stateful leaves", Shape { levels: vec![level(3, Stateful); 4], leaf: leaf(Stateful, 1, 3) }, 7_777),
        ("binary without stock", Shape { levels: vec![level(2, Static); 6], leaf: leaf(Static, 1, 1) }, 0),
        (
            "mixed",
            Shape {
                levels: vec![level(2, Stateful), level(5, Static), level(8, Stateful)],
                leaf: leaf(Stateful, 3, 1),
            },
            1_000_000,
        ),
        ("flat", Shape { levels: vec![], leaf: leaf(Static, 32, 2) }, 10_000),
    ]
}

/// A signed factory, with everything that its members hold.
pub struct Factory {
    pub layout: Layout,
    pub roster: Roster,
    /// L's, then the clients'.
    pub keys: Vec<FactoryKey>,
    pub funding: OutPoint,
    pub channel_scripts: BTreeMap<ClientIndex, ScriptBuf>,
    pub tree: Tree,
    pub nonces: BTreeMap<SessionId, AggNonce>,
    pub signatures: BTreeMap<SessionId, [u8; 64]>,
}

pub fn factory_keys(clients: u32, instance: InstanceId) -> Vec<FactoryKey> {
    (0..=clients)
        .map(|who| {
            let master = MasterSecret::new(hash(&format!("member {who}")));
            FactoryKey::derive(&master, instance, 0)
        })
        .collect()
}

pub fn roster(keys: &[FactoryKey]) -> Roster {
    let payout = |who: usize| match who % 2 {
        0 => ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([who as u8; 20])),
        _ => ScriptBuf::new_p2wsh(&WScriptHash::from_byte_array(hash(&format!("payout {who}")))),
    };
    let clients =
        (1..keys.len()).map(|who| Member { key: keys[who].public(), payout: payout(who) }).collect();
    Roster { lsp_key: keys[0].public(), clients }
}

pub fn channel_script(client: ClientIndex) -> ScriptBuf {
    ScriptBuf::new_p2wsh(&WScriptHash::from_byte_array(hash(&format!("channel {client}"))))
}

impl Factory {
    /// Keys and transactions; nothing signed.
    pub fn unsigned(terms: &Terms) -> Self {
        let layout = Layout::new(terms).unwrap();
        let keys = factory_keys(terms.clients(), terms.instance);
        let roster = roster(&keys);
        let funding = OutPoint { txid: Txid::from_byte_array(hash("funding")), vout: 1 };
        let channel_scripts: BTreeMap<_, _> =
            (0..terms.clients()).map(|client| (client, channel_script(client))).collect();
        let none = BTreeMap::new();
        let tree = Tree::build(&layout, &roster, funding, Scope::All, &channel_scripts, &none).unwrap();
        let (nonces, signatures) = (BTreeMap::new(), BTreeMap::new());
        Self { layout, roster, keys, funding, channel_scripts, tree, nonces, signatures }
    }

    /// Everybody signs everything.
    pub fn signed(terms: &Terms) -> Self {
        let mut factory = Self::unsigned(terms);
        for session in factory.tree.sessions() {
            let (nonce, signature) = factory.sign(session, 0);
            factory.nonces.insert(session.id, nonce);
            factory.signatures.insert(session.id, signature);
        }
        factory
    }

    /// One session among its signers; `round` makes other nonces.
    pub fn sign(&self, session: &Session, round: u32) -> (AggNonce, [u8; 64]) {
        let agg = self.tree.key_agg(session.id.coin).unwrap();
        let mut secret = self.session_nonces(session.id, round);
        let sum = aggregate_nonces(secret.iter().map(|(_, _, public)| public)).unwrap();
        let partials: Vec<_> = secret
            .drain(..)
            .map(|(who, nonce, _)| sign_partial(&self.keys[who], nonce, agg, &sum, &session.sighash).unwrap())
            .collect();
        let signature = aggregate(agg, &sum, &session.sighash, &partials).unwrap();
        (sum, signature)
    }

    /// A nonce of every signer of a session, L's first; members are places in `keys`.
    pub fn session_nonces(&self, id: SessionId, round: u32) -> Vec<(usize, SecNonce, PubNonce)> {
        let signers = self.tree.signers(id.coin);
        let places = signers.into_iter().map(|who| who.map_or(0, |client| client as usize + 1));
        places
            .map(|who| {
                let (secret, public) = new_nonce(hash(&format!("{who} {id:?} {round}")), &self.keys[who]);
                (who, secret, public)
            })
            .collect()
    }

    pub fn funding_output(&self) -> TxOut {
        let script_pubkey = funding_script(&self.layout, &self.roster).unwrap();
        TxOut { value: self.layout.funding_value(), script_pubkey }
    }

    /// The tree as this client builds it, with what L gives it.
    pub fn client_tree(&self, client: ClientIndex) -> Tree {
        let foreign: BTreeMap<CoinIndex, _> = Tree::foreign_coins(&self.layout, client)
            .into_iter()
            .map(|coin| (coin, self.tree.output_key(coin).unwrap()))
            .collect();
        Tree::build(
            &self.layout,
            &self.roster,
            self.funding,
            Scope::Client(client),
            &self.channel_scripts,
            &foreign,
        )
        .unwrap()
    }
}
