//! Signing by itself: no engine, no messages, no store. A tree, where each session has other members, and a
//! sale, which all of its members sign.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bitcoin::Amount;
use bitcoin::OutPoint;
use bitcoin::ScriptBuf;
use bitcoin::Txid;
use bitcoin::WPubkeyHash;
use bitcoin::WScriptHash;
use bitcoin::hashes::Hash;

use crate::signing::*;
use crate::terms::ClientIndex;
use crate::terms::Kind;
use crate::terms::Leaf;
use crate::terms::Level;
use crate::terms::Shape;
use crate::terms::Terms;
use crate::tx::layout::Layout;
use crate::tx::layout::SpendRole;
use crate::tx::musig::AggNonce;
use crate::tx::musig::FactoryKey;
use crate::tx::musig::MasterSecret;
use crate::tx::musig::MusigError;
use crate::tx::musig::PartialSig;
use crate::tx::musig::PubNonce;
use crate::tx::musig::PublicKey;
use crate::tx::sale::Sale;
use crate::tx::sale::Stock;
use crate::tx::tree::Member;
use crate::tx::tree::Roster;
use crate::tx::tree::Scope;
use crate::tx::tree::Session;
use crate::tx::tree::Tree;
use crate::types::InstanceId;
use crate::types::NodeId;

const TRANSCRIPT: [u8; 32] = [7; 32];

/// Seeds that differ from each other and from those of any other `member`.
fn seeds(member: u8) -> impl FnMut() -> [u8; 32] {
    let mut numbers = 1u8..;
    move || [member, numbers.next().unwrap()].repeat(16).try_into().unwrap()
}

/// A proposal as a use would send it.
#[derive(Debug, Clone, PartialEq)]
struct Ask {
    nonces: Vec<AggNonce>,
    text: &'static str,
}

impl Request for Ask {
    type Answer = ([u8; 32], Vec<PartialSig>);

    fn nonces(&self) -> &[AggNonce] {
        &self.nonces
    }

    fn answer(&self, transcript: [u8; 32], signatures: Vec<PartialSig>) -> Self::Answer {
        (transcript, signatures)
    }
}

/// Six clients in two leaves of three, and what they sign.
struct Table {
    layout: Layout,
    roster: Roster,
    /// L's, then the clients'.
    keys: Vec<FactoryKey>,
    tree: Arc<Tree>,
    sale: Option<Sale>,
}

fn scripts() -> BTreeMap<ClientIndex, ScriptBuf> {
    (0..6)
        .map(|client| (client, ScriptBuf::new_p2wsh(&WScriptHash::from_byte_array([client as u8; 32]))))
        .collect()
}

impl Table {
    fn creation() -> Self {
        let terms = Terms {
            instance: InstanceId([1; 32]),
            lsp: NodeId([2; 33]),
            shape: Shape {
                levels: vec![Level { arity: 2, kind: Kind::Static }],
                leaf: Leaf { kind: Kind::Static, sub_factories: 1, clients_per_sub: 3 },
            },
            capacities: vec![Amount::from_sat(100_000); 6],
            stock: Amount::from_sat(200_000),
            push_msat: 1_000,
            state_step: 6,
            state_count: 3,
            stock_csv: 144,
            tree_feerate: 253,
            timeout_height: 100_000,
            dying_blocks: 2_016,
            confirm_blocks: 6,
            margin_blocks: 12,
            funding_confirmations: 3,
        };
        let key = |who| FactoryKey::derive(&MasterSecret::new([who; 32]), terms.instance, 1);
        let keys: Vec<FactoryKey> = (1..=7).map(key).collect();
        let payout = || ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([9; 20]));
        let clients = keys[1..].iter().map(|key| Member { key: key.public(), payout: payout() }).collect();
        let roster = Roster { lsp_key: keys[0].public(), clients };
        let layout = Layout::new(&terms).unwrap();
        let none = BTreeMap::new();
        let tree = Tree::build(&layout, &roster, funding(), Scope::All, &scripts(), &none).unwrap();
        Self { layout, roster, keys, tree: Arc::new(tree), sale: None }
    }

    /// A channel for client 1 out of the stock that it shares with 0 and 2.
    fn sale() -> Self {
        let mut table = Self::creation();
        let coin = table.layout.stock_coin(1).unwrap();
        let stock = Stock {
            coin,
            outpoint: table.tree.coin_outpoint(coin).unwrap(),
            value: table.layout.coin(coin).unwrap().value,
        };
        let (agg, script) = (table.tree.key_agg(coin).unwrap(), &scripts()[&1]);
        let amount = Amount::from_sat(50_000);
        let sale = Sale::build(&table.layout, &table.roster, agg, stock, 1, 1, amount, script).unwrap();
        table.sale = Some(sale);
        table
    }

    fn members(&self) -> Range<ClientIndex> {
        self.tree.clients(self.sale.as_ref().map_or(0, |sale| sale.sessions[0].id.coin))
    }

    /// What a member has rebuilt; None is L.
    fn plan(&self, who: Option<ClientIndex>) -> Plan {
        let tree = who.map_or_else(|| self.tree.clone(), |client| Arc::new(self.client_tree(client)));
        match &self.sale {
            Some(sale) => Plan::new(tree, &sale.sessions),
            None => Plan::new(tree.clone(), tree.sessions()),
        }
    }

    fn client_tree(&self, client: ClientIndex) -> Tree {
        let foreign = Tree::foreign_coins(&self.layout, client);
        let keys = foreign.iter().map(|coin| (*coin, self.tree.output_key(*coin).unwrap())).collect();
        let scope = Scope::Client(client);
        Tree::build(&self.layout, &self.roster, funding(), scope, &scripts(), &keys).unwrap()
    }

    fn key(&self, client: ClientIndex) -> Option<PublicKey> {
        self.roster.clients.get(client as usize).map(|member| member.key)
    }
}

fn funding() -> OutPoint {
    OutPoint { txid: Txid::from_byte_array([3; 32]), vout: 1 }
}

/// A signing under way: L has signed, and every member has been asked.
struct Meeting {
    table: Table,
    coordinator: Coordinator,
    signers: BTreeMap<ClientIndex, Signer<Ask>>,
    asks: BTreeMap<ClientIndex, Arc<Ask>>,
}

impl Meeting {
    fn new(table: Table) -> Self {
        Self::tampered(table, |_, _| {})
    }

    /// What members send as their nonces is `tamper`ed with.
    fn tampered(table: Table, tamper: impl Fn(ClientIndex, &mut Vec<PubNonce>)) -> Self {
        let mut coordinator = Coordinator::new(table.members());
        let mut signers = BTreeMap::new();
        let last = table.members().last().unwrap();
        let mut newest = vec![];
        for client in table.members() {
            assert!(coordinator.lacks(client));
            assert_eq!(coordinator.lacks_only(client), client == last);
            let key = &table.keys[client as usize + 1];
            let sessions = table.plan(Some(client)).sessions();
            let (signer, mut public) = Signer::fresh(sessions, key, seeds(client as u8 + 100));
            tamper(client, &mut public);
            newest = Coordinator::check_nonces(&public, sessions).unwrap();
            signers.insert(client, signer);
            // The last one's count in the step that brings them.
            if client != last {
                coordinator.join(client, newest.clone());
                assert!(!coordinator.lacks(client) && !coordinator.lacks_only(client));
            }
        }
        let mut seed = 0;
        let fresh = || {
            seed += 1;
            [seed; 32]
        };
        let opened =
            coordinator.open(table.plan(None), Some((last, &newest)), &table.keys[0], fresh).unwrap();
        coordinator.join(last, newest);
        assert_eq!(opened.nonces().len(), opened.plan().sessions());
        let shares = opened.plan().shares(opened.nonces());
        let ask = |(client, nonces)| (client, Arc::new(Ask { nonces, text: "sign this" }));
        let asks = shares.into_iter().map(ask).collect();
        coordinator.sign(opened, TRANSCRIPT, &table.keys[0]).unwrap();
        Self { table, coordinator, signers, asks }
    }

    fn answer(&mut self, client: ClientIndex) -> ([u8; 32], Vec<PartialSig>) {
        let plan = self.table.plan(Some(client));
        let (ask, key) = (self.asks[&client].clone(), &self.table.keys[client as usize + 1]);
        self.signers.get_mut(&client).unwrap().sign(&plan, ask, TRANSCRIPT, key).unwrap()
    }

    /// Everybody signs; what members send is `tamper`ed with.
    fn finish(
        &mut self,
        tamper: impl Fn(ClientIndex, &mut Vec<PartialSig>),
    ) -> Result<Vec<[u8; 64]>, Failure> {
        let last = self.table.members().last().unwrap();
        for client in self.table.members() {
            let (transcript, mut signatures) = self.answer(client);
            tamper(client, &mut signatures);
            self.coordinator.check(client, &transcript, &signatures).unwrap();
            assert_eq!(self.coordinator.lacks_only(client), client == last);
            if client == last {
                let key = |client| self.table.key(client);
                return self.coordinator.finish(Some((client, &signatures)), key);
            }
            self.coordinator.signed(client, signatures);
        }
        unreachable!()
    }
}

/// S4: every finished signature verifies, and a member whose share of them is wrong sees it.
fn verify(table: &Table, signatures: &[[u8; 64]]) {
    let plan = table.plan(None);
    assert_eq!(check_finished(&plan, signatures), Ok(()));
    let shares = plan.shares(signatures);
    assert!(shares.keys().copied().eq(table.members()));
    for (client, mut share) in shares {
        let plan = table.plan(Some(client));
        assert_eq!(check_finished(&plan, &share), Ok(()));
        let ids: Vec<_> = plan.by_session(&share).into_keys().collect();
        share[0][3] ^= 1;
        assert_eq!(check_finished(&plan, &share), Err(Unfinished::Invalid(ids[0])));
        let expected = plan.sessions();
        let wrong = |given| Err(Unfinished::Count { given, expected });
        assert_eq!(check_finished(&plan, &share[1..]), wrong(expected - 1));
        share.push(share[0]);
        assert_eq!(check_finished(&plan, &share), wrong(expected + 1));
    }
}

/// Each session of a tree is signed by L and the clients below it, nobody else; of each a member has its own
/// sessions in the order in which they travel.
#[test]
fn a_tree_is_signed_by_whom_it_concerns() {
    let mut meeting = Meeting::new(Table::creation());
    let signatures = meeting.finish(|_, _| {}).unwrap();
    verify(&meeting.table, &signatures);

    let (table, plan) = (&meeting.table, meeting.table.plan(None));
    let ids: Vec<_> = table.tree.sessions().iter().map(|session| session.id).collect();
    let shares = plan.shares(&ids);
    assert!((0..6).all(|client| shares[&client] == table.layout.sessions(Some(client))));
    assert_eq!(meeting.coordinator.shares(&ids), shares);
    let longest = shares.values().map(Vec::len).max().unwrap();
    assert!(longest < plan.sessions(), "everybody signs everything: the tree tests nothing");
}

#[test]
fn a_sale_is_signed_by_its_whole_sub_factory() {
    let mut meeting = Meeting::new(Table::sale());
    let signatures = meeting.finish(|_, _| {}).unwrap();
    verify(&meeting.table, &signatures);
    assert_eq!(meeting.table.members(), 0..3);
    assert_eq!(signatures.len(), 2, "the sale, and the distribution of its rest");
    assert!(meeting.coordinator.shares(&signatures).values().all(|share| *share == signatures));
}

/// S8: what the ledger is asked and told is what is signed.
#[test]
fn the_ledger_gets_what_is_signed() {
    for table in [Table::creation(), Table::sale()] {
        let sessions = table.sale.as_ref().map_or(table.tree.sessions(), |sale| &sale.sessions);
        let same = |(entry, session): (&crate::record::event::LedgerEntry, &Session)| {
            (entry.outpoint, entry.session, entry.sighash) == (session.outpoint, session.id, session.sighash)
        };
        let ledger = table.plan(None).ledger();
        assert_eq!(ledger.len(), sessions.len());
        assert!(ledger.iter().zip(sessions).all(same));
    }
    let roles: Vec<SpendRole> =
        Table::sale().plan(None).ledger().iter().map(|entry| entry.session.role).collect();
    assert_eq!(roles, [SpendRole::Sale, SpendRole::Distribution]);
}

/// S4: whoever sends a bad partial signature is named, and for what, wherever in its path it is.
#[test]
fn a_bad_partial_signature_is_named() {
    for table in [Table::creation, Table::sale] {
        for culprit in table().members() {
            let ids: Vec<_> =
                table().plan(Some(culprit)).ledger().iter().map(|entry| entry.session).collect();
            for (at, session) in ids.into_iter().enumerate() {
                // A wrong scalar, and none at all.
                for bad in [[1; 32], [0xff; 32]] {
                    let failed = Meeting::new(table()).finish(|client, signatures| {
                        if client == culprit {
                            signatures[at] = PartialSig(bad);
                        }
                    });
                    assert_eq!(failed, Err(Failure::Culprit { client: culprit, session }));
                }
            }
        }
    }
}

/// S4: a nonce that its sender has no secret half of makes the sender's signature a bad one.
#[test]
fn a_bad_nonce_is_named() {
    for table in [Table::creation(), Table::sale()] {
        let swapped = |client, nonces: &mut Vec<PubNonce>| {
            if client == 2 {
                nonces.swap(0, 1);
            }
        };
        let failed = Meeting::tampered(table, swapped).finish(|_, _| {}).unwrap_err();
        assert!(matches!(failed, Failure::Culprit { client: 2, .. }), "{failed}");
    }
}

/// S4: where every part is good nobody is named.
#[test]
fn nobody_is_named_for_what_nobody_did() {
    let mut meeting = Meeting::new(Table::sale());
    let (_, first) = meeting.answer(0);
    // Client 1 has sent nothing, which the count of those who have would have shown.
    meeting.coordinator.signed(0, first);
    let (_, last) = meeting.answer(2);
    let failed = meeting.coordinator.finish(Some((2, &last)), |client| meeting.table.key(client));
    assert_eq!(failed, Err(Failure::Nobody(MusigError::WrongCount { keys: 4, partials: 3 })));
}

#[test]
fn nonces_are_counted_and_looked_at() {
    let table = Table::sale();
    let (_, mut nonces) = Signer::<Ask>::fresh(2, &table.keys[1], seeds(0));
    let count = |given| BadNonces::Count { given, expected: 2 };
    assert!(Coordinator::check_nonces(&nonces, 2).is_ok());
    assert_eq!(Coordinator::check_nonces(&nonces[1..], 2).unwrap_err(), count(1));
    nonces.push(nonces[0]);
    assert_eq!(Coordinator::check_nonces(&nonces, 2).unwrap_err(), count(3));
    nonces[1] = PubNonce([0; 66]);
    let bad = BadNonces::Nonce(MusigError::BadNonce { index: 0 });
    assert_eq!(Coordinator::check_nonces(&nonces[..2], 2).unwrap_err(), bad);
}

/// S6: whoever signed something else is found at once; and as many signatures as sessions are wanted, once.
#[test]
fn partial_signatures_that_are_not_taken() {
    let mut meeting = Meeting::new(Table::creation());
    let (transcript, signatures) = meeting.answer(0);
    let coordinator = &mut meeting.coordinator;
    let expected = signatures.len();
    let count = |given| Err(Refused::Count { given, expected });
    assert_eq!(coordinator.check(0, &[8; 32], &signatures), Err(Refused::Transcript));
    assert_eq!(coordinator.check(0, &transcript, &signatures[1..]), count(expected - 1));
    let more = [&signatures[..], &signatures[..1]].concat();
    assert_eq!(coordinator.check(0, &transcript, &more), count(expected + 1));

    assert_eq!(coordinator.check(0, &transcript, &signatures), Ok(()));
    assert!(coordinator.lacks(0));
    coordinator.signed(0, signatures.clone());
    assert!(!coordinator.lacks(0) && coordinator.lacks(1));
    assert_eq!(coordinator.check(0, &transcript, &signatures), Err(Refused::Repeated));
    assert_eq!(coordinator.check(0, &transcript, &more), Err(Refused::Differs));

    let early = Coordinator::new(0..6);
    assert_eq!(early.check(0, &transcript, &signatures), Err(Refused::NotNow));
    let key = |client| meeting.table.key(client);
    assert_eq!(early.finish(Some((0, &signatures)), key), Err(Failure::NotSigned));
}

/// Nonces that are taken back are missing again.
#[test]
fn a_client_that_lost_its_nonces_is_waited_for() {
    let table = Table::sale();
    let mut coordinator = Coordinator::new(table.members());
    let (_, nonces) = Signer::<Ask>::fresh(2, &table.keys[1], seeds(0));
    let nonces = Coordinator::check_nonces(&nonces, 2).unwrap();
    coordinator.join(0, nonces.clone());
    coordinator.join(1, nonces);
    assert!(coordinator.lacks_only(2) && !coordinator.lacks(1));
    coordinator.unjoin(1);
    assert!(coordinator.lacks(1) && !coordinator.lacks_only(2));
}

/// S2: the proposal that was signed gets the same answer, another none; nonces sign once.
#[test]
fn a_second_proposal() {
    let mut meeting = Meeting::new(Table::creation());
    let ask = meeting.asks[&3].clone();
    let other = Ask { text: "sign that", ..Ask::clone(&ask) };
    assert_eq!(meeting.signers[&3].asked(&ask), Asked::First);
    assert!(!meeting.signers[&3].has_signed());
    let answer = meeting.answer(3);

    let (plan, key) = (meeting.table.plan(Some(3)), &meeting.table.keys[4]);
    let signer = meeting.signers.get_mut(&3).unwrap();
    assert!(signer.has_signed());
    for _ in 0..2 {
        assert_eq!(signer.asked(&ask), Asked::Again(Some(&answer)));
        assert_eq!(signer.asked(&other), Asked::Other);
        assert!(signer.sign(&plan, Arc::new(other.clone()), TRANSCRIPT, key).is_err(), "S2: signed twice");
    }
}

/// S2: who fails to sign has used its nonces, and answers nothing.
#[test]
fn whoever_cannot_sign_is_done() {
    let meeting = Meeting::new(Table::creation());
    let (plan, key) = (meeting.table.plan(Some(3)), &meeting.table.keys[4]);
    let good = meeting.asks[&3].clone();
    let fewer = Ask { nonces: good.nonces[1..].to_vec(), text: "" };
    let none = Ask { nonces: vec![AggNonce([0xff; 66]); good.nonces.len()], text: "" };
    for bad in [fewer, none] {
        let (mut signer, _) = Signer::fresh(plan.sessions(), key, seeds(0));
        assert!(signer.sign(&plan, Arc::new(bad.clone()), TRANSCRIPT, key).is_err());
        assert_eq!(signer.asked(&bad), Asked::Again(None));
        assert_eq!(signer.asked(&good), Asked::Other);
        assert!(signer.sign(&plan, good.clone(), TRANSCRIPT, key).is_err());
    }
    // Nonces for another plan, and a key that is in no coin of it.
    let (mut signer, _) = Signer::fresh(plan.sessions() - 1, key, seeds(0));
    let error = signer.sign(&plan, good.clone(), TRANSCRIPT, key).unwrap_err();
    assert!(matches!(error, SignError::Count), "{error}");
    let stranger = FactoryKey::derive(&MasterSecret::new([99; 32]), InstanceId([1; 32]), 1);
    let (mut signer, _) = Signer::fresh(plan.sessions(), &stranger, seeds(0));
    let error = signer.sign(&plan, good, TRANSCRIPT, &stranger).unwrap_err();
    assert!(matches!(error, SignError::Musig(MusigError::NotAMember)), "{error}");
}

/// S22: L signs with the keys of members that have handed theirs over, in their place; only the others are waited for,
/// and whoever of these is bad is named.
#[test]
fn whoever_has_handed_over_is_signed_for() {
    for bad in [false, true] {
        let table = Table::sale();
        let mut coordinator = Coordinator::new([0]);
        let key = &table.keys[1];
        let (mut signer, nonces) = Signer::<Ask>::fresh(2, key, seeds(0));
        let nonces = Coordinator::check_nonces(&nonces, 2).unwrap();
        assert!(coordinator.lacks_only(0) && coordinator.lacks(0));
        // Clients 1 and 2.
        let instance = InstanceId([1; 32]);
        let held = || [3, 4].map(|who| FactoryKey::derive(&MasterSecret::new([who; 32]), instance, 1));
        let mut seed = 100;
        let fresh = || {
            seed += 1;
            [seed; 32]
        };
        let opened = coordinator
            .open_with(table.plan(None), Some((0, &nonces)), &table.keys[0], &held(), fresh)
            .unwrap();
        coordinator.join(0, nonces);
        let ask = Arc::new(Ask { nonces: opened.nonces().to_vec(), text: "sign this" });
        coordinator.sign_with(opened, TRANSCRIPT, &table.keys[0], &held()).unwrap();
        let (transcript, mut signatures) = signer.sign(&table.plan(Some(0)), ask, TRANSCRIPT, key).unwrap();
        if bad {
            signatures[1] = PartialSig([1; 32]);
        }
        coordinator.check(0, &transcript, &signatures).unwrap();
        let finished = coordinator.finish(Some((0, &signatures)), |client| table.key(client));
        match bad {
            false => assert_eq!(check_finished(&table.plan(None), &finished.unwrap()), Ok(())),
            true => assert!(matches!(finished, Err(Failure::Culprit { client: 0, .. }))),
        }
    }
}

/// An operator that could not sign itself blames nobody.
#[test]
fn an_operator_that_cannot_sign() {
    let mut meeting = Meeting::new(Table::sale());
    let table = Table::sale();
    let mut alone = Coordinator::new(table.members());
    for client in table.members() {
        let key = &table.keys[client as usize + 1];
        let (_, nonces) = Signer::<Ask>::fresh(2, key, seeds(0));
        alone.join(client, Coordinator::check_nonces(&nonces, 2).unwrap());
    }
    let opened = alone.open(table.plan(None), None, &table.keys[0], || [5; 32]).unwrap();
    assert!(alone.sign(opened, TRANSCRIPT, &table.keys[1]).is_err(), "its nonces are of another key");
    for client in [0, 1] {
        let (_, signatures) = meeting.answer(client);
        alone.signed(client, signatures);
    }
    let (_, last) = meeting.answer(2);
    assert_eq!(alone.finish(Some((2, &last)), |client| table.key(client)), Err(Failure::NotSigned));
}

/// S1, S7: for a type that has the trait both impls fit, and the line doesn't compile.
macro_rules! never {
    ($type:ty: $($bound:path),+) => {
        $(const _: () = {
            trait Ambiguous<Marker> {
                const OK: () = ();
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + $bound> Ambiguous<u8> for T {}
            <$type as Ambiguous<_>>::OK
        };)+
    };
}

/// S1, S7: what holds secret nonces can't be copied or printed. Where it could this wouldn't compile.
#[test]
fn what_holds_nonces_cannot_be_copied_or_printed() {
    never!(Signer<Ask>: Clone, std::fmt::Debug);
    never!(Opened: Clone, std::fmt::Debug);
    never!(SignJob<Ask>: Clone, std::fmt::Debug);
}
