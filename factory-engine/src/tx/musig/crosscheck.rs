//! The `musig2` crate as an independent judge: it and this module use each other's nonces, partial
//! signatures and aggregates, in every combination.

#![allow(clippy::unwrap_used)]

use musig2::secp::{MaybeScalar, Point, Scalar};
use musig2::{CompactSignature, KeyAggContext};

use super::*;

const MESSAGE: [u8; 32] = [0x5a; 32];

/// One side's signer: the key in both libraries' types.
struct Signer {
    ours: FactoryKey,
    theirs: Scalar,
}

fn signers(count: u8) -> Vec<Signer> {
    let mut signers: Vec<Signer> = (1..=count)
        .map(|byte| Signer {
            ours: FactoryKey::from_secret(&[byte; 32]).unwrap(),
            theirs: Scalar::from_slice(&[byte; 32]).unwrap(),
        })
        .collect();
    signers.sort_by_key(|signer| signer.ours.public().serialize());
    signers
}

fn ours(signers: &[Signer], root: Option<[u8; 32]>) -> KeyAgg {
    let keys: Vec<_> = signers.iter().rev().map(|signer| signer.ours.public()).collect();
    KeyAgg::new(&keys, root).unwrap()
}

fn theirs(signers: &[Signer], root: Option<[u8; 32]>) -> KeyAggContext {
    let points = signers.iter().map(|signer| signer.theirs.base_point_mul());
    let context = KeyAggContext::new(points).unwrap();
    match root {
        Some(root) => context.with_taproot_tweak(&root),
        None => context.with_unspendable_taproot_tweak(),
    }
    .unwrap()
}

fn judge(signature: &[u8; 64], key: XOnlyPublicKey) -> bool {
    let signature = secp256k1::schnorr::Signature::from_slice(signature).unwrap();
    let message = secp256k1::Message::from_digest(MESSAGE);
    secp256k1::SECP256K1.verify_schnorr(&signature, &message, &key).is_ok()
}

#[test]
fn both_aggregate_the_same_keys() {
    for count in [1, 2, 3, 17, 64] {
        let signers = signers(count);
        for root in [None, Some([7; 32])] {
            let (ours, theirs) = (ours(&signers, root), theirs(&signers, root));
            let tweaked: Point = theirs.aggregated_pubkey();
            let untweaked: Point = theirs.aggregated_pubkey_untweaked();
            assert_eq!(ours.output_key().serialize(), tweaked.serialize_xonly());
            assert_eq!(ours.internal_key().serialize(), untweaked.serialize_xonly());
            assert_eq!(ours.output_parity() == Parity::Odd, tweaked.has_odd_y());
            assert_eq!(ours.signers(), usize::from(count));
        }
    }
}

/// BIP-327 NonceGen: the same seed and key give the same nonce in both.
#[test]
fn both_make_the_same_nonce() {
    for signer in signers(5) {
        for seed in [[0; 32], [1; 32], [0xff; 32]] {
            let (_, public) = new_nonce(seed, &signer.ours);
            let other = musig2::SecNonceBuilder::from_seckey(seed, signer.theirs).build();
            assert_eq!(public.0, other.public_nonce().serialize());
        }
    }
}

/// Every second signer signs with this module, the others with the crate; each side verifies every
/// part and finishes the signature.
#[test]
fn each_accepts_the_others_parts() {
    for (count, root) in [(1, None), (2, None), (3, Some([9; 32])), (8, None), (9, Some([1; 32]))] {
        for first in 0..2 {
            session(&signers(count), root, first);
        }
    }
}

fn session(signers: &[Signer], root: Option<[u8; 32]>, first: usize) {
    let (agg, context) = (ours(signers, root), theirs(signers, root));
    enum Secret {
        Ours(SecNonce),
        Theirs(musig2::SecNonce),
    }
    let (secrets, nonces): (Vec<Secret>, Vec<PubNonce>) = signers
        .iter()
        .zip(first..)
        .map(|(signer, at)| {
            let seed = [u8::try_from(at).unwrap() | 0x80; 32];
            if at % 2 == 0 {
                let (secret, public) = new_nonce(seed, &signer.ours);
                return (Secret::Ours(secret), public);
            }
            let secret = musig2::SecNonceBuilder::from_seckey(seed, signer.theirs).build();
            let public = PubNonce(secret.public_nonce().serialize());
            (Secret::Theirs(secret), public)
        })
        .unzip();
    let their_nonces: Vec<_> =
        nonces.iter().map(|nonce| musig2::PubNonce::from_bytes(&nonce.0).unwrap()).collect();
    let sum = aggregate_nonces(&nonces).unwrap();
    let their_sum = musig2::AggNonce::sum(&their_nonces);
    assert_eq!(sum.0, their_sum.serialize());

    let partials: Vec<PartialSig> = signers
        .iter()
        .zip(secrets)
        .map(|(signer, secret)| match secret {
            Secret::Ours(nonce) => sign_partial(&signer.ours, nonce, &agg, &sum, &MESSAGE).unwrap(),
            Secret::Theirs(nonce) => {
                let part: MaybeScalar =
                    musig2::sign_partial(&context, signer.theirs, nonce, &their_sum, MESSAGE).unwrap();
                PartialSig(part.serialize())
            }
        })
        .collect();
    let scalars: Vec<_> = partials.iter().map(|part| MaybeScalar::from_slice(&part.0).unwrap()).collect();
    for (at, signer) in signers.iter().enumerate() {
        let public = signer.ours.public();
        assert_eq!(verify_partial(&agg, &sum, &MESSAGE, public, &nonces[at], &partials[at]), Ok(()));
        let point = signer.theirs.base_point_mul();
        let their_nonce = &their_nonces[at];
        musig2::verify_partial(&context, scalars[at], &their_sum, point, their_nonce, MESSAGE).unwrap();
    }
    let signature = aggregate(&agg, &sum, &MESSAGE, &partials).unwrap();
    let their_signature: CompactSignature =
        musig2::aggregate_partial_signatures(&context, &their_sum, scalars, MESSAGE).unwrap();
    assert_eq!(signature, their_signature.serialize());
    assert!(judge(&signature, agg.output_key()));
}

/// S4: both refuse the same wrong part, and a signature that it is in.
#[test]
fn both_refuse_a_wrong_part() {
    let signers = signers(3);
    let (agg, context) = (ours(&signers, None), theirs(&signers, None));
    let (secrets, nonces): (Vec<_>, Vec<_>) =
        signers.iter().zip(1..).map(|(signer, seed)| new_nonce([seed; 32], &signer.ours)).unzip();
    let sum = aggregate_nonces(&nonces).unwrap();
    let their_sum = musig2::AggNonce::from_bytes(&sum.0).unwrap();
    let mut partials: Vec<PartialSig> = signers
        .iter()
        .zip(secrets)
        .map(|(signer, nonce)| sign_partial(&signer.ours, nonce, &agg, &sum, &MESSAGE).unwrap())
        .collect();
    partials[1].0[31] ^= 1;
    assert_eq!(aggregate(&agg, &sum, &MESSAGE, &partials), Err(MusigError::BadSignature));
    for (at, signer) in signers.iter().enumerate() {
        let result = verify_partial(&agg, &sum, &MESSAGE, signer.ours.public(), &nonces[at], &partials[at]);
        let scalar = MaybeScalar::from_slice(&partials[at].0).unwrap();
        let nonce = musig2::PubNonce::from_bytes(&nonces[at].0).unwrap();
        let point = signer.theirs.base_point_mul();
        let other = musig2::verify_partial(&context, scalar, &their_sum, point, &nonce, MESSAGE);
        assert_eq!(result.is_ok(), other.is_ok());
        assert_eq!(result.is_ok(), at != 1);
    }
}

/// What the library would abort the process for, and what it doesn't look at.
#[test]
fn misuse_is_an_error() {
    let signers = signers(4);
    let (members, outsider) = signers.split_at(3);
    let agg = ours(members, None);
    let (_, public) = new_nonce([1; 32], &members[0].ours);
    let sum = aggregate_nonces([&public]).unwrap();
    let sign = |key: &FactoryKey, owner: &FactoryKey| {
        sign_partial(key, new_nonce([1; 32], owner).0, &agg, &sum, &MESSAGE)
    };
    let another = sign(&members[0].ours, &members[1].ours);
    assert_eq!(another, Err(MusigError::NonceOfAnotherKey));
    assert_eq!(sign(&outsider[0].ours, &outsider[0].ours), Err(MusigError::NotAMember));
    let part = sign(&members[0].ours, &members[0].ours).unwrap();
    let verified = verify_partial(&agg, &sum, &MESSAGE, outsider[0].ours.public(), &public, &part);
    assert_eq!(verified, Err(MusigError::NotAMember));
    let few = aggregate(&agg, &sum, &MESSAGE, [&part]);
    assert_eq!(few, Err(MusigError::WrongCount { keys: 3, partials: 1 }));
    assert_eq!(aggregate(&agg, &sum, &MESSAGE, []), Err(MusigError::WrongCount { keys: 3, partials: 0 }));
    assert!(matches!(KeyAgg::new(&[], None), Err(MusigError::NoKeys)));
    // Both halves infinity: allowed by BIP-327, the session goes on with the generator.
    assert!(
        sign_partial(
            &members[0].ours,
            new_nonce([1; 32], &members[0].ours).0,
            &agg,
            &AggNonce([0; 66]),
            &MESSAGE
        )
        .is_ok()
    );
}
