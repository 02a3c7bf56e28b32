//! Facts of BIP-327, BIP-341 and BIP-390 against this module.

#![allow(clippy::unwrap_used)]

use super::*;

const KEYS: [&str; 3] = [
    "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
    "03dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659",
    "023590a94e768f8e1815c2f24b4d80a8e3149316c3518ce7b7ad338368d038ca66",
];

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    bitcoin::hex::FromHex::from_hex(hex).unwrap()
}

fn keys<const N: usize>(hex: [&str; N]) -> Vec<PublicKey> {
    hex.iter().map(|key| key.parse().unwrap()).collect()
}

/// BIP-327 without the sorting and without a tweak, as its own vectors want it.
fn unsorted(keys: &[PublicKey]) -> KeyAgg {
    KeyAgg::untweaked(keys.iter().map(|key| (key.serialize(), key)).collect()).unwrap()
}

#[test]
fn key_aggregation_is_bip327() {
    let keys = keys(KEYS);
    assert_eq!(
        unsorted(&keys).output_key().to_string(),
        "90539eede565f5d054f32cc0c220126889ed1e5d193baf15aef344fe59d4610c"
    );
    let reversed: Vec<_> = keys.into_iter().rev().collect();
    assert_eq!(
        unsorted(&reversed).output_key().to_string(),
        "6204de8b083426dc6eaf9502d27024d53fc826bf7d2012148a0575435df54b2b"
    );
}

/// BIP-390's `rawtr(musig(…))` and `tr(musig(…))` of the same keys: sorted, then tweaked without
/// scripts.
#[test]
fn sorting_and_taproot_tweak_are_bip390() {
    let expected_internal = "789d937bade6673538f3e28d8368dda4d0512f94da44cf477a505716d26a1575";
    let expected_output = "79e6c3e628c9bfbce91de6b7fb28e2aec7713d377cf260ab599dcbc40e542312";
    let [a, b, c] = KEYS;
    for order in [[a, b, c], [c, b, a], [b, a, c]] {
        let agg = KeyAgg::new(&keys(order), None).unwrap();
        assert_eq!(agg.internal_key().to_string(), expected_internal);
        assert_eq!(agg.output_key().to_string(), expected_output);
    }
}

/// The tweak with scripts, by the other library's code.
#[test]
fn script_root_tweak_is_bip341() {
    use bitcoin::key::TapTweak;
    use bitcoin::taproot::TapNodeHash;
    let agg = KeyAgg::new(&keys(KEYS), Some([7; 32])).unwrap();
    let root = TapNodeHash::from_byte_array([7; 32]);
    let (tweaked, parity) = agg.internal_key().tap_tweak(secp256k1::SECP256K1, Some(root));
    assert_eq!(tweaked.to_x_only_public_key(), agg.output_key());
    assert_eq!(parity, agg.output_parity());
}

const NONCES: [&str; 4] = [
    "020151c80f435648df67a22b749cd798ce54e0321d034b92b709b567d60a42e66603ba47fbc1834437b3212e89a84d8425e7bf12e0245d98262268ebdcb385d50641",
    "03ff406ffd8adb9cd29877e4985014f66a59f6cd01c0e88caa8e5f3166b1f676a60248c264cdd57d3c24d79990b0f865674eb62a0f9018277a95011b41bfc193b833",
    "020151c80f435648df67a22b749cd798ce54e0321d034b92b709b567d60a42e6660279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    "03ff406ffd8adb9cd29877e4985014f66a59f6cd01c0e88caa8e5f3166b1f676a60379be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
];

#[test]
fn nonce_aggregation_is_bip327() {
    let nonce = NONCES.map(|nonce| PubNonce(bytes(nonce)));
    let both = aggregate_nonces(&nonce[..2]).unwrap();
    assert_eq!(
        both.0,
        bytes(
            "035fe1873b4f2967f52fea4a06ad5a8eccbe9d0fd73068012c894e2e87ccb5804b024725377345bde0e9c33af3c43c0a29a9249f2f2956fa8cfeb55c8573d0262dc8"
        )
    );
    // The second halves cancel out: infinity is 33 zeros.
    let cancelled = aggregate_nonces(&nonce[2..]).unwrap();
    assert_eq!(cancelled.0[..33], both.0[..33]);
    assert_eq!(cancelled.0[33..], [0; 33]);
}

/// S4, S30: whoever sends a malformed nonce is named.
#[test]
fn bad_nonces_are_named() {
    let good = PubNonce(bytes(NONCES[0]));
    for bad in [
        "04ff406ffd8adb9cd29877e4985014f66a59f6cd01c0e88caa8e5f3166b1f676a60248c264cdd57d3c24d79990b0f865674eb62a0f9018277a95011b41bfc193b833",
        "03ff406ffd8adb9cd29877e4985014f66a59f6cd01c0e88caa8e5f3166b1f676a60248c264cdd57d3c24d79990b0f865674eb62a0f9018277a95011b41bfc193b831",
        "03ff406ffd8adb9cd29877e4985014f66a59f6cd01c0e88caa8e5f3166b1f676a602fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc30",
    ] {
        let bad = PubNonce(bytes(bad));
        assert!(bad.check().is_err());
        assert_eq!(aggregate_nonces([&good, &bad]), Err(MusigError::BadNonce { index: 1 }));
    }
    assert_eq!(aggregate_nonces([]), Err(MusigError::NoNonces));
}

const SIGN_KEY: &str = "7fb9e0e687ada1eebf7ecfe2f21e73ebdb51a7d450948dfe8d76d7f2d1007671";
const SIGN_KEYS: [&str; 3] = [
    "03935f972da013f80ae011890fa89b67a27b7be6ccb24d3274d18b2d4067f261a9",
    "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
    "02dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba661",
];
const SEC_NONCE: &str = "508b81a611f100a6b2b6b29656590898af488bcf2e1f55cf22e5cfb84421fe61fa27fd49b1d50085b481285e1ca205d55c82cc1b31ff5cd54a489829355901f703935f972da013f80ae011890fa89b67a27b7be6ccb24d3274d18b2d4067f261a9";
const PUB_NONCE: &str = "0337c87821afd50a8644d820a8f3e02e499c931865c2360fb43d0a0d20dafe07ea0287bf891d2a6deaebadc909352aa9405d1428c15f4b75f04dae642a95c2548480";
const AGG_NONCE: &str = "028465fcf0bbdbcf443aabcce533d42b4b5a10966ac09a49655e8c42daab8fcd61037496a3cc86926d452cafcfd55d25972ca1675d549310de296bff42f72eeea8c9";
const MESSAGE: &str = "f95466d086770e689964664219266fe5ed215c92ae20bab5c9d79addddf3c0cf";

fn sign_key() -> FactoryKey {
    FactoryKey::from_secret(&bytes(SIGN_KEY)).unwrap()
}

/// The vectors' secret nonce. The library's form of it is 4 bytes that say what it is, both scalars,
/// and the key: a nonce of the same key with other scalars.
fn sec_nonce() -> SecNonce {
    let vector: [u8; 97] = bytes(SEC_NONCE);
    let (mut nonce, _) = new_nonce([1; 32], &sign_key());
    nonce.secret[4..68].copy_from_slice(&vector[..64]);
    assert_eq!(nonce.owner.serialize(), vector[64..]);
    nonce
}

#[test]
fn signing_is_bip327() {
    let (nonces, message) = (AggNonce(bytes(AGG_NONCE)), bytes(MESSAGE));
    for (order, expected) in [
        ([0, 1, 2], "012abbcb52b3016ac03ad82395a1a415c48b93def78718e62a7a90052fe224fb"),
        ([1, 0, 2], "9ff2f7aaa856150cc8819254218d3adeeb0535269051897724f9db3789513a52"),
        ([1, 2, 0], "fa23c359f6fac4e7796bb93bc9f0532a95468c539ba20ff86d7c76ed92227900"),
    ] {
        let agg = unsorted(&keys(order.map(|index| SIGN_KEYS[index])));
        let partial = sign_partial(&sign_key(), sec_nonce(), &agg, &nonces, &message).unwrap();
        assert_eq!(partial.0, bytes::<32>(expected));
    }
}

/// S4: the vectors' wrong signatures, wrong signer, and a scalar beyond the group order.
#[test]
fn partial_verification_is_bip327() {
    let (nonces, message) = (AggNonce(bytes(AGG_NONCE)), bytes(MESSAGE));
    let keys = keys(SIGN_KEYS);
    let agg = unsorted(&keys);
    let nonce = PubNonce(bytes(PUB_NONCE));
    let check = |key: usize, sig: &str| {
        verify_partial(&agg, &nonces, &message, keys[key], &nonce, &PartialSig(bytes(sig)))
    };
    let good = "012abbcb52b3016ac03ad82395a1a415c48b93def78718e62a7a90052fe224fb";
    assert_eq!(check(0, good), Ok(()));
    let negated = "97ac833adcb1afa42ebf9e0725616f3c9a0d5b614f6fe283ceaaa37a8ffaf406";
    assert_eq!(check(0, negated), Err(MusigError::BadPartial));
    let another = "68537cc5234e505bd14061f8da9e90c220a181855fd8bdb7f127bb12403b4d3b";
    assert_eq!(check(1, another), Err(MusigError::BadPartial));
    let beyond = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    assert_eq!(check(0, beyond), Err(MusigError::BadScalar { index: 0 }));
}

/// S2: a used-up nonce is zeros.
#[test]
fn a_wiped_nonce_signs_nothing() {
    use zeroize::Zeroize;
    let mut nonce = sec_nonce();
    nonce.secret.zeroize();
    let agg = unsorted(&keys(SIGN_KEYS));
    let nonces = AggNonce(bytes(AGG_NONCE));
    let result = sign_partial(&sign_key(), nonce, &agg, &nonces, &bytes(MESSAGE));
    assert_eq!(result, Err(MusigError::NonceOfAnotherKey));
}

#[test]
fn bad_aggregate_nonces_are_refused() {
    let agg = unsorted(&keys(SIGN_KEYS));
    for bad in [
        "048465fcf0bbdbcf443aabcce533d42b4b5a10966ac09a49655e8c42daab8fcd61037496a3cc86926d452cafcfd55d25972ca1675d549310de296bff42f72eeea8c9",
        "028465fcf0bbdbcf443aabcce533d42b4b5a10966ac09a49655e8c42daab8fcd61020000000000000000000000000000000000000000000000000000000000000009",
        "028465fcf0bbdbcf443aabcce533d42b4b5a10966ac09a49655e8c42daab8fcd6102fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc30",
    ] {
        let result = sign_partial(&sign_key(), sec_nonce(), &agg, &AggNonce(bytes(bad)), &bytes(MESSAGE));
        assert_eq!(result, Err(MusigError::BadAggNonce));
    }
}
