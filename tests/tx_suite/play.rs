//! Every transaction of every kind of factory, on a chain: accepted when due, refused before, and
//! refused when anything in it is altered (S19, S20).

use bitcoin::{Amount, ScriptBuf, Transaction, TxOut, Witness};
use factory_engine::terms::Shape;
use factory_engine::tx::layout::{NodeKind, SessionId, SpendRole};
use factory_engine::tx::musig::{FactoryKey, sign_alone};
use factory_engine::tx::verify::verify_input;

use crate::chain::{Chain, Refusal};
use crate::support::{Factory, TIMEOUT, hash, shapes, terms};

const CLIENTS: [u32; 13] = [1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 31, 47, 64];

/// S19, S20: for each node's coin, its node transaction at its time, or its distribution at its own.
fn play(clients: u32, shape: &Shape, stock: u64) {
    let factory = Factory::signed(&terms(clients, shape.clone(), stock));
    let (layout, tree) = (&factory.layout, &factory.tree);
    let signed = |coin, role| {
        let id = SessionId { coin, role };
        tree.signed(id, factory.signatures.get(&id)?)
    };
    let mut chain = Chain::with(800, factory.funding, factory.funding_output());
    for (coin, spec) in (0..).zip(layout.coins()) {
        let outpoint = tree.coin_outpoint(coin).unwrap();
        assert!(chain.has(&outpoint), "coin {coin} is not where the tree says");
        let distribution = signed(coin, SpendRole::Distribution).unwrap();
        assert_eq!(chain.check(&distribution), Err(Refusal::LockTime));
        let mut late = chain.clone();
        late.height = TIMEOUT - 1;
        assert_eq!(late.check(&distribution), Err(Refusal::LockTime), "a block too early");
        late.mine(1);
        late.include(&distribution).unwrap();
        if spec.stock {
            take_stock(&factory, coin, &mut chain);
            continue;
        }
        let node = &layout.nodes()[coin as usize];
        let tx = signed(coin, SpendRole::State).unwrap();
        assert_eq!(late.check(&tx), Err(Refusal::NoCoin), "spent by the distribution");
        if node.kind == NodeKind::State {
            // BIP-68: step 6, 3 states, counted from the kickoff, which is the last block.
            assert_eq!((node.sequence, node.parent), (12, Some((coin - 1, 0))));
            assert_eq!(chain.check(&tx), Err(Refusal::Sequence));
            chain.mine(12 - 2);
            assert_eq!(chain.check(&tx), Err(Refusal::Sequence), "a block too early");
            chain.mine(1);
        }
        chain.include(&tx).unwrap();
        assert_eq!(chain.check(&distribution), Err(Refusal::NoCoin));
    }
    for client in 0..clients {
        assert!(chain.has(&tree.channel_outpoint(client).unwrap()));
        let output = tree.channel_output(client).unwrap();
        assert_eq!(output.value, layout.terms().capacities[client as usize]);
        assert_eq!(output.script_pubkey, factory.channel_scripts[&client]);
    }
    for session in tree.sessions() {
        let tx = tree.signed(session.id, &factory.signatures[&session.id]).unwrap();
        alterations_are_refused(&tx, &session.prevout);
    }
}

/// S20: nobody takes a coin with another transaction, key, value, or without a signature.
fn alterations_are_refused(tx: &Transaction, prevout: &TxOut) {
    assert!(verify_input(tx, prevout).is_ok());
    let refused = |what: &str, change: &dyn Fn(&mut Transaction, &mut TxOut)| {
        let (mut tx, mut prevout) = (tx.clone(), prevout.clone());
        change(&mut tx, &mut prevout);
        assert!(verify_input(&tx, &prevout).is_err(), "{what}");
    };
    refused("no signature", &|tx, _| tx.input[0].witness = Witness::new());
    refused("an empty signature", &|tx, _| tx.input[0].witness = Witness::from_slice(&[[0; 0]]));
    refused("another signature", &|tx, _| {
        let mut signature = tx.input[0].witness.to_vec().remove(0);
        signature[40] ^= 1;
        tx.input[0].witness = Witness::from_slice(&[signature]);
    });
    refused("another value", &|tx, _| tx.output[0].value += Amount::from_sat(1));
    refused("another script", &|tx, _| tx.output[0].script_pubkey = ScriptBuf::new());
    refused("an output less", &|tx, _| drop(tx.output.pop()));
    refused("another timelock", &|tx, _| {
        tx.lock_time = bitcoin::absolute::LockTime::from_consensus(1);
    });
    refused("another sequence", &|tx, _| tx.input[0].sequence.0 -= 1);
    refused("another version", &|tx, _| tx.version.0 = 1);
    refused("another coin", &|tx, _| tx.input[0].previous_output.vout ^= 1);
    refused("a coin of another value", &|_, prevout| prevout.value += Amount::from_sat(1));
    refused("another key", &|_, prevout| {
        let mut bytes = prevout.script_pubkey.to_bytes();
        // The generator's x coordinate: a key that nobody here holds.
        bytes[2..].copy_from_slice(&secp256k1::constants::GENERATOR_X);
        prevout.script_pubkey = ScriptBuf::from_bytes(bytes);
    });
}

/// L takes unsold stock by the script path, not before its time, and nobody else does.
fn take_stock(factory: &Factory, coin: u32, chain: &mut Chain) {
    use bitcoin::hashes::Hash;
    use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
    use bitcoin::taproot::{LeafVersion, TapLeafHash};
    let session = factory.tree.session(SessionId { coin, role: SpendRole::Distribution }).unwrap().clone();
    let path = factory.tree.stock_script(coin).unwrap();
    let csv = u32::from(factory.layout.terms().stock_csv);
    let spend = |key: &FactoryKey, sequence: u32| {
        let mut tx = session.tx.clone();
        tx.lock_time = bitcoin::absolute::LockTime::ZERO;
        tx.input[0].sequence.0 = sequence;
        let leaf = TapLeafHash::from_script(&path.script, LeafVersion::TapScript);
        let sighash = SighashCache::new(&tx)
            .taproot_script_spend_signature_hash(
                0,
                &Prevouts::All(&[&session.prevout]),
                leaf,
                TapSighashType::Default,
            )
            .unwrap()
            .to_byte_array();
        let mut witness = Witness::new();
        witness.push(sign_alone(key, &sighash, hash("aux")));
        witness.push(&path.script);
        witness.push(&path.control_block);
        tx.input[0].witness = witness;
        tx
    };
    let mut later = chain.clone();
    later.mine(csv);
    let tx = spend(&factory.keys[0], csv);
    later.check(&tx).unwrap();
    assert_eq!(later.check(&spend(&factory.keys[0], csv - 1)), Err(Refusal::Script));
    assert_eq!(later.check(&spend(&factory.keys[1], csv)), Err(Refusal::Script));
    assert!(factory.tree.stock_script(0).is_none());
    // From a chain on which the stock is as young as it can be.
    let young = Chain::with(900, session.outpoint, session.prevout.clone());
    let mut mature = young.clone();
    mature.mine(csv - 2);
    assert_eq!(mature.check(&tx), Err(Refusal::Sequence));
    mature.mine(1);
    mature.include(&tx).unwrap();
}

fn play_shape(name: &str) {
    let (_, shape, stock) = shapes().into_iter().find(|(known, ..)| *known == name).unwrap();
    for clients in CLIENTS {
        play(clients, &shape, stock);
    }
}

#[test]
fn static_arity_4() {
    play_shape("static, arity 4");
}

#[test]
fn stateful_arity_2() {
    play_shape("stateful, arity 2");
}

#[test]
fn stateful_leaves() {
    play_shape("stateful leaves");
}

#[test]
fn binary_without_stock() {
    play_shape("binary without stock");
}

#[test]
fn mixed() {
    play_shape("mixed");
}

#[test]
fn flat() {
    play_shape("flat");
}
