//! A key of a wallet or a channel: a real one, or in fast mode a modelled one.

use factory_engine::tx::musig::XOnlyPublicKey;

#[cfg(not(modelled_signatures))]
mod made {
    use bitcoin::ecdsa::Signature;
    use bitcoin::key::{TapTweak, UntweakedKeypair};
    use bitcoin::secp256k1::{Keypair, Message, SECP256K1};
    use bitcoin::sighash::EcdsaSighashType;

    use super::XOnlyPublicKey;

    /// A secret key on secp256k1.
    #[derive(Debug, Clone, Copy)]
    pub struct Key(Keypair);

    impl Key {
        /// The key with these bytes, if they are one.
        pub fn new(bytes: &[u8; 32]) -> Option<Self> {
            Keypair::from_seckey_slice(SECP256K1, bytes).ok().map(Self)
        }

        /// Its public key, compressed.
        pub fn public(&self) -> [u8; 33] {
            self.0.public_key().serialize()
        }

        /// An ECDSA signature with SIGHASH_ALL behind it.
        pub fn ecdsa(&self, sighash: &[u8; 32]) -> Vec<u8> {
            let signature = SECP256K1.sign_ecdsa(&Message::from_digest(*sighash), &self.0.secret_key());
            Signature { signature, sighash_type: EcdsaSighashType::All }.to_vec()
        }

        /// The key in a Taproot output without scripts.
        pub fn taproot_output(&self) -> XOnlyPublicKey {
            self.tweaked().x_only_public_key().0
        }

        /// A BIP-340 signature by [`Key::taproot_output`].
        pub fn taproot(&self, sighash: &[u8; 32]) -> [u8; 64] {
            SECP256K1.sign_schnorr_no_aux_rand(&Message::from_digest(*sighash), &self.tweaked()).serialize()
        }

        fn tweaked(&self) -> Keypair {
            UntweakedKeypair::from(self.0).tap_tweak(SECP256K1, None).to_keypair()
        }
    }
}

#[cfg(modelled_signatures)]
mod made {
    use super::XOnlyPublicKey;
    use factory_engine::tx::musig::{FactoryKey, sign_alone};

    /// Where a key comes from; it is made where it signs.
    #[derive(Debug, Clone, Copy)]
    pub struct Key([u8; 32]);

    impl Key {
        /// The key with these bytes.
        pub fn new(bytes: &[u8; 32]) -> Option<Self> {
            Some(Self(*bytes))
        }

        /// Its public key, as a modelled one is written: 33 bytes.
        pub fn public(&self) -> [u8; 33] {
            FactoryKey::from_secret(&self.0).public().serialize()
        }

        /// A modelled signature with SIGHASH_ALL behind it.
        pub fn ecdsa(&self, sighash: &[u8; 32]) -> Vec<u8> {
            let mut signature = sign_alone(&FactoryKey::from_secret(&self.0), sighash, [0; 32]).to_vec();
            signature.push(1);
            signature
        }

        /// The key in a Taproot output without scripts.
        pub fn taproot_output(&self) -> XOnlyPublicKey {
            FactoryKey::from_secret(&self.0).tweaked().public().x_only_public_key().0
        }

        /// A modelled BIP-340 signature by [`Key::taproot_output`].
        pub fn taproot(&self, sighash: &[u8; 32]) -> [u8; 64] {
            sign_alone(&FactoryKey::from_secret(&self.0).tweaked(), sighash, [0; 32])
        }
    }
}

pub use made::Key;
