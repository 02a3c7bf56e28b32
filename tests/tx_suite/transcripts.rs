//! S3, S6: every member builds the same transactions and looks at the same ceremony.

use std::collections::BTreeMap;

use bitcoin::OutPoint;
use bitcoin::hex::DisplayHex;
use factory_engine::tx::layout::{CoinIndex, SessionId};
use factory_engine::tx::musig::AggNonce;
use factory_engine::tx::transcript::{coin_hashes, transcript};
use factory_engine::tx::tree::{Roster, Scope, Tree, TreeError};
use factory_engine::tx::verify::verify_input;

use crate::support::{Factory, channel_script, shapes, terms};

const TERMS: &[u8] = b"the terms as they travel";
/// Of three clients under the first of the shapes.
const FROZEN: &str = "2f94bd8ebe464073139e08ae0f8260c22fa9c9772b62e01ff73c6cfdb29480a8";

type Hashes = BTreeMap<CoinIndex, [u8; 32]>;
type Nonces = BTreeMap<SessionId, AggNonce>;

fn foreign_hashes(factory: &Factory, client: u32, hashes: &Hashes) -> Hashes {
    Tree::foreign_coins(&factory.layout, client).into_iter().map(|coin| (coin, hashes[&coin])).collect()
}

/// What a client has been sent: the nonces of its own sessions only.
fn client_nonces(factory: &Factory, client: u32) -> Nonces {
    let own = factory.layout.sessions(Some(client));
    own.into_iter().map(|id| (id, factory.nonces[&id])).collect()
}

/// S3, S6: a client's part of the tree is L's, transaction by transaction, and so is its transcript.
#[test]
fn all_members_see_the_same() {
    for (name, shape, stock) in shapes() {
        for clients in [1, 3, 10, 27] {
            let factory = Factory::signed(&terms(clients, shape.clone(), stock));
            let (layout, roster, nonces) = (&factory.layout, &factory.roster, &factory.nonces);
            let none = BTreeMap::new();
            let all = transcript(TERMS, layout, roster, &factory.tree, nonces, &none).unwrap();
            let hashes = coin_hashes(layout, &factory.tree, nonces).unwrap();
            assert_eq!(hashes.len(), layout.coins().len());
            for client in 0..clients {
                let tree = factory.client_tree(client);
                let ids: Vec<_> = tree.sessions().iter().map(|session| session.id).collect();
                assert_eq!(ids, layout.sessions(Some(client)));
                for session in tree.sessions() {
                    assert_eq!(factory.tree.session(session.id), Some(session), "{name}");
                }
                let place = factory.tree.channel_outpoint(client);
                assert!(place.is_some() && tree.channel_outpoint(client) == place);
                let given = foreign_hashes(&factory, client, &hashes);
                let own_nonces = client_nonces(&factory, client);
                let own = transcript(TERMS, layout, roster, &tree, &own_nonces, &given).unwrap();
                assert_eq!(own, all, "{name}: client {client} of {clients}");
            }
        }
    }
}

/// S6: the hash itself is part of `superscalar/1`: two versions of this plugin make the same one.
#[test]
fn the_hash_is_frozen() {
    let (name, shape, stock) = shapes().into_iter().next().unwrap();
    let factory = Factory::signed(&terms(3, shape, stock));
    let (layout, roster, nonces) = (&factory.layout, &factory.roster, &factory.nonces);
    let hash = transcript(TERMS, layout, roster, &factory.tree, nonces, &BTreeMap::new()).unwrap();
    assert_eq!(hash.to_lower_hex_string(), FROZEN, "{name}");
}

/// S6: whatever differs between two members' views, their transcripts differ.
#[test]
fn transcripts_cover_everything() {
    let (_, shape, stock) = shapes().remove(0);
    let factory = Factory::signed(&terms(10, shape.clone(), stock));
    let none = BTreeMap::new();
    let of = |terms: &[u8], roster: &Roster, tree: &Tree, nonces: &Nonces| {
        transcript(terms, &factory.layout, roster, tree, nonces, &none).unwrap()
    };
    let tree = |roster: &Roster, funding: OutPoint, scripts: &BTreeMap<_, _>| {
        Tree::build(&factory.layout, roster, funding, Scope::All, scripts, &BTreeMap::new()).unwrap()
    };
    let base = of(TERMS, &factory.roster, &factory.tree, &factory.nonces);
    let mut seen = vec![base];
    let mut differs = |hash: [u8; 32]| {
        assert!(!seen.contains(&hash));
        seen.push(hash);
    };
    differs(of(b"other terms", &factory.roster, &factory.tree, &factory.nonces));
    for id in factory.layout.sessions(None) {
        let mut nonces = factory.nonces.clone();
        nonces.get_mut(&id).unwrap().0[65] ^= 1;
        differs(of(TERMS, &factory.roster, &factory.tree, &nonces));
    }
    for client in 0..10 {
        let mut scripts = factory.channel_scripts.clone();
        scripts.insert(client, channel_script(100 + client));
        let other = tree(&factory.roster, factory.funding, &scripts);
        differs(of(TERMS, &factory.roster, &other, &factory.nonces));
        let mut roster = factory.roster.clone();
        roster.clients[client as usize].payout = channel_script(200 + client);
        let other = tree(&roster, factory.funding, &factory.channel_scripts);
        differs(of(TERMS, &roster, &other, &factory.nonces));
        let mut roster = factory.roster.clone();
        roster.clients[client as usize].key =
            crate::support::factory_keys(20 + client, terms(10, shape.clone(), stock).instance)
                .pop()
                .unwrap()
                .public();
        let other = tree(&roster, factory.funding, &factory.channel_scripts);
        differs(of(TERMS, &roster, &other, &factory.nonces));
    }
    let mut funding = factory.funding;
    funding.vout ^= 1;
    let other = tree(&factory.roster, funding, &factory.channel_scripts);
    differs(of(TERMS, &factory.roster, &other, &factory.nonces));
}

/// S6: L can't show one client another hash for what it doesn't see.
#[test]
fn foreign_hashes_count() {
    let (_, shape, stock) = shapes().remove(0);
    let factory = Factory::signed(&terms(10, shape, stock));
    let hashes = coin_hashes(&factory.layout, &factory.tree, &factory.nonces).unwrap();
    let tree = factory.client_tree(4);
    let nonces = client_nonces(&factory, 4);
    let of = |given: &Hashes, nonces: &Nonces| {
        transcript(TERMS, &factory.layout, &factory.roster, &tree, nonces, given)
    };
    let given = foreign_hashes(&factory, 4, &hashes);
    let base = of(&given, &nonces).unwrap();
    for coin in given.keys() {
        let mut other = given.clone();
        other.get_mut(coin).unwrap()[0] ^= 1;
        assert_ne!(of(&other, &nonces).unwrap(), base);
        other.remove(coin);
        assert_eq!(of(&other, &nonces), Err(TreeError::NoForeignHash { coin: *coin }));
    }
    for session in nonces.keys() {
        let mut other = nonces.clone();
        other.remove(session);
        assert_eq!(of(&given, &other), Err(TreeError::NoNonce { session: *session }));
    }
}

/// S3: with a wrong key for a coin next to its path, a client signs for transactions that nobody
/// else signs for: no signature over them comes about, and those of the others don't fit.
#[test]
fn tampered_foreign_keys_lead_nowhere() {
    let (_, shape, stock) = shapes().remove(1);
    let factory = Factory::signed(&terms(10, shape, stock));
    let (layout, client) = (&factory.layout, 4);
    for tampered in Tree::foreign_coins(layout, client) {
        let foreign: BTreeMap<_, _> = Tree::foreign_coins(layout, client)
            .into_iter()
            .map(|coin| {
                // Any other valid key.
                let given = if coin == tampered { 0 } else { coin };
                (coin, factory.tree.output_key(given).unwrap())
            })
            .collect();
        let tree = Tree::build(
            layout,
            &factory.roster,
            factory.funding,
            Scope::Client(client),
            &factory.channel_scripts,
            &foreign,
        )
        .unwrap();
        let (maker, _) = layout.coins()[tampered as usize].source.unwrap();
        let mut below = false;
        for session in tree.sessions() {
            let honest = factory.tree.session(session.id).unwrap();
            let makes_it =
                session.id.coin == maker && session.id.role == factory_engine::tx::layout::SpendRole::State;
            if makes_it {
                assert_ne!(session.tx.compute_txid(), honest.tx.compute_txid());
                // The signature that everybody else made.
                let tx = tree.signed(session.id, &factory.signatures[&session.id]).unwrap();
                assert!(verify_input(&tx, &session.prevout).is_err());
                below = true;
            } else if below && session.id.coin > maker {
                assert_ne!(session.sighash, honest.sighash);
            } else {
                assert_eq!(session.sighash, honest.sighash);
            }
        }
        assert!(below);
    }
}
