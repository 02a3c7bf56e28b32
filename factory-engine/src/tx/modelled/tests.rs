//! `RUSTFLAGS='--cfg modelled_signatures' CARGO_TARGET_DIR=target/fast cargo test -p cln-factory --lib modelled`

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use super::*;

struct Session {
    keys: Vec<FactoryKey>,
    agg: KeyAgg,
    public: Vec<PubNonce>,
    secret: Vec<SecNonce>,
}

fn session(members: u8) -> Session {
    let keys: Vec<_> = (1..=members).map(|number| FactoryKey::from_secret(&[number; 32])).collect();
    let agg = KeyAgg::new(&keys.iter().map(FactoryKey::public).collect::<Vec<_>>(), None).unwrap();
    let (secret, public) = keys.iter().map(|key| new_nonce([9; 32], key)).unzip();
    Session { keys, agg, public, secret }
}

fn partials(session: &mut Session, sighash: [u8; 32]) -> (Round, Vec<PartialSig>) {
    let checked: Vec<_> = session.public.iter().map(|nonce| nonce.checked().unwrap()).collect();
    let (sum, round) = Round::start(&session.agg, &checked, &sighash).unwrap();
    let again = Round::new(&session.agg, &sum, &sighash).unwrap();
    assert_eq!(format!("{again:?}"), format!("{round:?}"));
    let nonces = std::mem::take(&mut session.secret);
    let sign = |(key, nonce)| round.sign(key, nonce, &session.agg).unwrap();
    (round, session.keys.iter().zip(nonces).map(sign).collect())
}

#[test]
fn parts_of_all_make_a_signature_for_the_output_key_and_this_message() {
    let mut session = session(4);
    let (round, partials) = partials(&mut session, [1; 32]);
    let signature = round.finish(&session.agg, &partials).unwrap();
    let key = session.agg.output_key();
    assert!(verify_alone(&signature, &[1; 32], &key));
    assert!(!verify_alone(&signature, &[2; 32], &key));
    assert!(!verify_alone(&signature, &[1; 32], &session.agg.internal_key()));
    assert_eq!(output_key(session.agg.internal_key(), None), key);
    for bit in 0..512 {
        let mut other = signature;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(!verify_alone(&other, &[1; 32], &key), "bit {bit}");
    }
}

// S4
#[test]
fn whoever_sends_a_bad_part_is_named() {
    let mut session = session(3);
    let (round, mut partials) = partials(&mut session, [1; 32]);
    partials[1].0[31] ^= 1;
    assert_eq!(round.finish(&session.agg, &partials), Err(MusigError::BadSignature));
    for (at, partial) in partials.iter().enumerate() {
        let (signer, nonce) = (session.keys[at].public(), &session.public[at]);
        assert_eq!(round.verify(&session.agg, signer, nonce, partial).is_ok(), at != 1);
    }
    partials[1].0[0] = 1;
    assert_eq!(round.finish(&session.agg, &partials), Err(MusigError::BadScalar { index: 1 }));
    assert!(matches!(round.finish(&session.agg, &partials[2..]), Err(MusigError::WrongCount { .. })));
}

// S6
#[test]
fn a_part_for_another_sum_or_message_fits_nothing() {
    let (mut one, mut other) = (session(2), session(2));
    let (round, good) = partials(&mut one, [1; 32]);
    let (_, replayed) = partials(&mut other, [2; 32]);
    assert!(round.verify(&one.agg, one.keys[0].public(), &one.public[0], &good[0]).is_ok());
    assert!(round.verify(&one.agg, one.keys[0].public(), &one.public[0], &replayed[0]).is_err());
    assert!(round.verify(&one.agg, one.keys[0].public(), &one.public[1], &good[0]).is_err());
    assert!(round.verify(&one.agg, one.keys[1].public(), &one.public[0], &good[0]).is_err());
    assert!(Round::new(&one.agg, &AggNonce([2; 66]), &[1; 32]).is_err());
    assert!(PubNonce([0; 66]).check().is_err());
}

// S5
#[test]
fn a_key_counts_once_and_only_its_owner_signs() {
    let key = FactoryKey::from_secret(&[1; 32]);
    let twice = KeyAgg::new(&[key.public(), key.public()], None);
    assert_eq!(twice, Err(MusigError::DuplicateKey(key.public())));
    let alone = sign_alone(&key, &[1; 32], [0; 32]);
    assert!(verify_alone(&alone, &[1; 32], &key.public().x_only_public_key().0));
    let other = FactoryKey::from_secret(&[2; 32]);
    assert!(!verify_alone(&alone, &[1; 32], &other.public().x_only_public_key().0));
    let session = session(2);
    let (nonce, _) = new_nonce([1; 32], &other);
    let (_, round) = Round::start(&session.agg, &[session.public[0].checked().unwrap()], &[1; 32]).unwrap();
    assert_eq!(round.sign(&session.keys[0], nonce, &session.agg), Err(MusigError::NonceOfAnotherKey));
}

// S22
#[test]
fn only_the_receiver_opens_a_sealed_key_and_only_as_what_it_is() {
    let [member, lsp, other] = [3, 4, 5].map(|number| FactoryKey::from_secret(&[number; 32]));
    let context: [&[u8]; 2] = [&[1; 32], &[2; 4]];
    let sealed = seal(&member, lsp.public(), &context, [7; 32]).unwrap();
    let opened = open(&sealed, &lsp, &context, member.public()).unwrap();
    assert_eq!(opened.public(), member.public());
    assert!(open(&sealed, &other, &context, member.public()).is_err());
    assert!(open(&sealed, &lsp, &context, other.public()).is_err());
    assert!(open(&sealed, &lsp, &context[..1], member.public()).is_err());
    let again = seal(&member, lsp.public(), &context, [8; 32]).unwrap();
    assert_ne!(again.sealed, sealed.sealed);
    for bit in 0..256 {
        let mut changed = sealed;
        changed.sealed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&changed, &lsp, &context, member.public()).is_err(), "bit {bit}");
    }
}
