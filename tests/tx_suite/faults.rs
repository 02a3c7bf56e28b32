//! Bad keys, bad nonces, bad partial signatures; and what the secret types must not be able to do.

use std::collections::BTreeMap;

use factory_engine::tx::layout::{Layout, SessionId, SpendRole};
use factory_engine::tx::musig::{
    FactoryKey, KeyAgg, MasterSecret, MusigError, PartialSig, SecNonce, aggregate, aggregate_nonces,
    new_nonce, sign_partial, verify_partial,
};
use factory_engine::tx::tree::{Scope, Tree, TreeError, funding_script};
use factory_engine::types::InstanceId;

use crate::support::{Factory, factory_keys, hash, roster, shapes, terms};

fn factory() -> Factory {
    let (_, shape, stock) = shapes().remove(0);
    Factory::unsigned(&terms(6, shape, stock))
}

/// S4: whoever sends a bad partial signature has a name, and the rest of the session doesn't hang on
/// it: nothing invalid comes out, and a retry with fresh nonces succeeds.
#[test]
fn a_bad_partial_signature_is_named() {
    let factory = factory();
    for session in factory.tree.sessions() {
        let agg = factory.tree.key_agg(session.id.coin).unwrap();
        let nonces = factory.session_nonces(session.id, 0);
        let public: Vec<_> = nonces.iter().map(|(who, _, public)| (*who, *public)).collect();
        let sum = aggregate_nonces(public.iter().map(|(_, public)| public)).unwrap();
        let mut partials: Vec<PartialSig> = nonces
            .into_iter()
            .map(|(who, nonce, _)| {
                sign_partial(&factory.keys[who], nonce, agg, &sum, &session.sighash).unwrap()
            })
            .collect();
        assert!(aggregate(agg, &sum, &session.sighash, &partials).is_ok());
        let culprit = partials.len() / 2;
        partials[culprit].0[31] ^= 1;
        assert_eq!(aggregate(agg, &sum, &session.sighash, &partials), Err(MusigError::BadSignature));
        for (place, (who, nonce)) in public.iter().enumerate() {
            let key = factory.keys[*who].public();
            let verdict = verify_partial(agg, &sum, &session.sighash, key, nonce, &partials[place]);
            let expected = if place == culprit { Err(MusigError::BadPartial) } else { Ok(()) };
            assert_eq!(verdict, expected);
        }
        partials[culprit] = PartialSig([0xff; 32]);
        let named = aggregate(agg, &sum, &session.sighash, &partials);
        assert_eq!(named, Err(MusigError::BadScalar { index: culprit }));
        partials.pop();
        partials.truncate(culprit);
        let count = MusigError::WrongCount { keys: agg.signers(), partials: culprit };
        assert_eq!(aggregate(agg, &sum, &session.sighash, &partials), Err(count));
        let (_, signature) = factory.sign(session, 1);
        assert!(factory.tree.signed(session.id, &signature).is_some());
    }
}

/// S4: signing another transaction than everybody else is as bad as a broken signature.
#[test]
fn a_partial_signature_for_something_else_is_named() {
    let factory = factory();
    let session = &factory.tree.sessions()[0];
    let agg = factory.tree.key_agg(session.id.coin).unwrap();
    let mut nonces = factory.session_nonces(session.id, 0);
    let public: Vec<_> = nonces.iter().map(|(_, _, public)| *public).collect();
    let sum = aggregate_nonces(&public).unwrap();
    let (who, nonce, _) = nonces.remove(3);
    let key = &factory.keys[who];
    let other = sign_partial(key, nonce, agg, &sum, &hash("another transaction")).unwrap();
    let verdict = verify_partial(agg, &sum, &session.sighash, key.public(), &public[3], &other);
    assert_eq!(verdict, Err(MusigError::BadPartial));
    // S30: nor does anybody sign for a coin that isn't theirs, or with another's nonce.
    let stranger = FactoryKey::derive(&MasterSecret::new([9; 32]), InstanceId([9; 32]), 0);
    let (nonce, _) = new_nonce([1; 32], &stranger);
    let result = sign_partial(&stranger, nonce, agg, &sum, &session.sighash);
    assert_eq!(result, Err(MusigError::NotAMember));
    let (nonce, _) = new_nonce([1; 32], &stranger);
    let result = sign_partial(key, nonce, agg, &sum, &session.sighash);
    assert_eq!(result, Err(MusigError::NonceOfAnotherKey));
    let verdict = verify_partial(agg, &sum, &session.sighash, stranger.public(), &public[3], &other);
    assert_eq!(verdict, Err(MusigError::NotAMember));
}

/// S5: nobody joins twice, and nobody with L's key, nor with a key negated.
#[test]
fn duplicate_keys_are_refused() {
    let (_, shape, stock) = shapes().remove(0);
    let terms = terms(6, shape, stock);
    let layout = Layout::new(&terms).unwrap();
    let keys = factory_keys(6, terms.instance);
    let honest = roster(&keys);
    honest.check(&layout).unwrap();
    let mut twice = honest.clone();
    twice.clients[4].key = twice.clients[1].key;
    assert_eq!(twice.check(&layout), Err(TreeError::DuplicateKey { client: 4 }));
    assert!(funding_script(&layout, &twice).is_err());
    let mut lsp = honest.clone();
    lsp.clients[2].key = lsp.lsp_key;
    assert_eq!(lsp.check(&layout), Err(TreeError::DuplicateKey { client: 2 }));
    let mut negated = honest.clone();
    negated.clients[5].key = negated.clients[0].key.negate(secp256k1::SECP256K1);
    assert_eq!(negated.check(&layout), Err(TreeError::DuplicateKey { client: 5 }));
    let key = keys[1].public();
    let duplicate = KeyAgg::new(&[keys[0].public(), key, key], None);
    assert_eq!(duplicate.unwrap_err(), MusigError::DuplicateKey(key));
    assert_eq!(KeyAgg::new(&[], None).unwrap_err(), MusigError::NoKeys);
}

/// S5: one key per factory, member and attempt, always the same one.
#[test]
fn factory_keys_are_derived() {
    let key = |master: u8, instance: u8, attempt: u32| {
        let master = MasterSecret::new([master; 32]);
        FactoryKey::derive(&master, InstanceId([instance; 32]), attempt).public()
    };
    let all = [key(1, 1, 0), key(2, 1, 0), key(1, 2, 0), key(1, 1, 1)];
    for (place, one) in all.iter().enumerate() {
        assert!(!all[..place].contains(one));
    }
    assert_eq!(key(1, 1, 0), key(1, 1, 0));
}

/// S2: another seed, another nonce; S30: and nobody else's nonces cancel it out unseen.
#[test]
fn nonces_follow_their_seed() {
    let keys = factory_keys(1, InstanceId([3; 32]));
    let public = |seed: u8, key: &FactoryKey| new_nonce([seed; 32], key).1;
    assert_eq!(public(1, &keys[0]), public(1, &keys[0]));
    assert_ne!(public(1, &keys[0]), public(2, &keys[0]));
    assert_ne!(public(1, &keys[0]), public(1, &keys[1]));
}

/// What a tree can't be built from, each with its name.
#[test]
fn bad_inputs_of_a_tree_are_named() {
    let factory = factory();
    let build = |change: &dyn Fn(&mut Inputs)| {
        let mut inputs = Inputs {
            roster: factory.roster.clone(),
            funding: factory.funding,
            scope: Scope::Client(0),
            scripts: factory.channel_scripts.clone(),
            foreign: Tree::foreign_coins(&factory.layout, 0)
                .into_iter()
                .map(|coin| (coin, factory.tree.output_key(coin).unwrap()))
                .collect(),
        };
        change(&mut inputs);
        Tree::build(
            &factory.layout,
            &inputs.roster,
            inputs.funding,
            inputs.scope,
            &inputs.scripts,
            &inputs.foreign,
        )
        .map(|tree| tree.sessions().len())
    };
    assert!(build(&|_| ()).is_ok());
    let count = TreeError::WrongMemberCount { given: 5, expected: 6 };
    assert_eq!(build(&|inputs| drop(inputs.roster.clients.pop())), Err(count));
    let op_return = bitcoin::ScriptBuf::new_op_return([0; 20]);
    assert_eq!(
        build(&|inputs| inputs.roster.clients[5].payout = op_return.clone()),
        Err(TreeError::Payout { client: 5 })
    );
    let null = bitcoin::OutPoint::null();
    assert_eq!(build(&|inputs| inputs.funding = null), Err(TreeError::Funding));
    assert_eq!(build(&|inputs| inputs.scope = Scope::Client(6)), Err(TreeError::NoSuchClient { client: 6 }));
    assert_eq!(
        build(&|inputs| drop(inputs.scripts.remove(&3))),
        Err(TreeError::NoChannelScript { client: 3 })
    );
    // A client doesn't need the channels of other leaves.
    assert!(build(&|inputs| drop(inputs.scripts.remove(&5))).is_ok());
    assert_eq!(
        build(&|inputs| drop(inputs.scripts.insert(2, op_return.clone()))),
        Err(TreeError::ChannelScript { client: 2 })
    );
    let foreign = Tree::foreign_coins(&factory.layout, 0);
    let (first, own) = (foreign[0], factory.layout.client_coins(0)[1]);
    assert_eq!(
        build(&|inputs| assert!(inputs.foreign.remove(&first).is_some())),
        Err(TreeError::NoForeignKey { coin: first })
    );
    let key = factory.tree.output_key(own).unwrap();
    assert_eq!(
        build(&|inputs| assert!(inputs.foreign.insert(own, key).is_none())),
        Err(TreeError::UnexpectedForeignKey { coin: own })
    );
}

struct Inputs {
    roster: factory_engine::tx::tree::Roster,
    funding: bitcoin::OutPoint,
    scope: Scope,
    scripts: BTreeMap<u32, bitcoin::ScriptBuf>,
    foreign: BTreeMap<u32, secp256k1::XOnlyPublicKey>,
}

/// S8: roles as the ledger writes them.
#[test]
fn roles_have_numbers() {
    for number in 0..=5 {
        match SpendRole::try_from(number) {
            Ok(role) => assert_eq!(role as u8, number),
            Err(unknown) => assert_eq!(unknown, 5),
        }
    }
    let id = |coin, role| SessionId { coin, role };
    assert!(id(1, SpendRole::State) < id(1, SpendRole::Distribution));
    assert!(id(1, SpendRole::Distribution) < id(2, SpendRole::State));
}

/// S1, S7: nothing secret can be copied, printed or stored. For a type that has the trait both impls
/// fit, and the line doesn't compile.
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

/// S1, S7: where one of them had such a trait this wouldn't compile.
#[test]
fn nothing_secret_can_be_copied_printed_or_stored() {
    never!(SecNonce: Clone, std::fmt::Debug, std::fmt::Display, AsRef<[u8]>, serde::Serialize);
    never!(FactoryKey: Clone, std::fmt::Debug, std::fmt::Display, AsRef<[u8]>, serde::Serialize);
    never!(MasterSecret: Clone, std::fmt::Debug, std::fmt::Display, AsRef<[u8]>, serde::Serialize);
    // Each has something to do when it is dropped: its bytes are wiped.
    assert!(std::mem::needs_drop::<SecNonce>());
    assert!(std::mem::needs_drop::<FactoryKey>());
    assert!(std::mem::needs_drop::<MasterSecret>());
}
