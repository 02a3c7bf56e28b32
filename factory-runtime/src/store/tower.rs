//! What is watched for peers (S40), and the penalties of this node's own channels, over a [`KeyValue`].
//!
//! What is sealed of an appointment is at `["cln-factory", "sealed", <peer>, <tag>-<locator>]`, and what is known of it at
//! `["cln-factory", "watch", <peer>, <tag>-<locator>]`, so that a start needn't read it all: its sum (32 bytes), its bytes
//! (u32), the last height that it is needed at (u32), the number of its client's records (u32), the txid of the transaction that it waited for (32 bytes) and that
//! one's height (u32), 0 while it waits. The second is written last and deleted first: without it there is no
//! appointment. A penalty is at `["cln-factory", "revoked", <channel_id>, <txid of the commitment>]`. What a tower of this
//! node's has signed last of a factory is at `["cln-factory", "receipt", <factory_instance>, <tower>]`: the signature, a
//! line's end, and the text.

use bitcoin::hashes::Hash;
use bitcoin::hex::{DisplayHex, FromHex};
use bitcoin::{Transaction, Txid};
use factory_engine::io::{Kept, SignedReceipt};
use factory_engine::memory::watching::Name;
use factory_engine::record::appointment::{Appointment, Locator};
use factory_engine::types::{ChannelId, Height, InstanceId};

use super::key_value::{Key, KeyError, KeyValue};

const ROOT: &str = "cln-factory";
const WATCH: &str = "watch";
const SEALED: &str = "sealed";
const REVOKED: &str = "revoked";
const RECEIPT: &str = "receipt";

/// Appointments of peers, and this node's own penalties.
#[derive(Debug, Clone)]
pub struct TowerStore<K> {
    keys: K,
}

/// A penalty of this node's: the channel, the commitment transaction, and what punishes it.
pub type Penalty = (ChannelId, Txid, Transaction);

/// What is there at a start.
#[derive(Debug)]
pub struct Found<T> {
    /// What could be read.
    pub found: Vec<T>,
    /// Keys whose value isn't as it was written.
    pub unreadable: Vec<String>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { found: vec![], unreadable: vec![] }
    }
}

impl<K: KeyValue> TowerStore<K> {
    /// Over these keys.
    pub fn new(keys: K) -> Self {
        Self { keys }
    }

    /// Keeps an appointment, in place of the one with its name. What that had waited for stays known.
    ///
    /// # Errors
    /// When it isn't kept. The one before may be.
    pub async fn put(&self, name: Name, kept: &Kept, sealed: &[u8]) -> Result<(), KeyError> {
        let before = self.read(&key(WATCH, name)).await?;
        let trigger = before.as_deref().and_then(parse).and_then(|before| before.trigger);
        let kept = Kept { trigger: kept.trigger.or(trigger), ..*kept };
        self.keys.replace(&key(SEALED, name), sealed).await?;
        self.keys.replace(&key(WATCH, name), &head(&kept)).await
    }

    /// Notes that what an appointment waits for is there, and gives what is sealed; nothing of one that there isn't.
    ///
    /// # Errors
    /// When it can't be read or noted: then nobody has heard of it.
    pub async fn due(&self, name: Name, trigger: (Txid, Height)) -> Result<Option<Appointment>, KeyError> {
        let known = self.read(&key(WATCH, name)).await?;
        let sealed = self.read(&key(SEALED, name)).await?;
        let (Some(kept), Some(sealed)) = (known.as_deref().and_then(parse), sealed) else { return Ok(None) };
        if kept.trigger != Some(trigger) {
            let kept = Kept { trigger: Some(trigger), ..kept };
            self.keys.replace(&key(WATCH, name), &head(&kept)).await?;
        }
        Ok(Some(Appointment { locator: name.2, sealed }))
    }

    /// Deletes an appointment.
    ///
    /// # Errors
    /// When it is still there, or a part of it.
    pub async fn forget(&self, name: Name) -> Result<(), KeyError> {
        self.keys.delete(&key(WATCH, name)).await?;
        self.keys.delete(&key(SEALED, name)).await
    }

    /// A commitment of one of this node's channels was revoked: what punishes its use is stored once this returns.
    ///
    /// # Errors
    /// When it is not.
    pub async fn revoked(
        &self,
        channel: ChannelId,
        commitment: Txid,
        penalty: &Transaction,
    ) -> Result<(), KeyError> {
        let key = penalty_key(channel, commitment);
        self.keys.replace(&key, &bitcoin::consensus::serialize(penalty)).await
    }

    /// Deletes a penalty that nobody needs any more.
    ///
    /// # Errors
    /// When it is still there.
    pub async fn forget_penalty(&self, channel: ChannelId, commitment: Txid) -> Result<(), KeyError> {
        self.keys.delete(&penalty_key(channel, commitment)).await
    }

    /// Keeps what a tower has signed, in place of what it had signed before.
    ///
    /// # Errors
    /// When it isn't kept.
    pub async fn keep_receipt(&self, signed: &SignedReceipt) -> Result<(), KeyError> {
        let mut key = receipt_root(Some(signed.instance));
        key.push(signed.tower.to_string());
        self.keys.replace(&key, format!("{}\n{}", signed.zbase, signed.text).as_bytes()).await
    }

    /// What towers have signed of a factory.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn receipts(&self, instance: InstanceId) -> Result<Vec<SignedReceipt>, KeyError> {
        let listed = self.keys.list(&receipt_root(Some(instance))).await?;
        let of = |key: &Key, value: Option<Vec<u8>>| {
            let value = String::from_utf8(value?).ok()?;
            let (zbase, text) = value.split_once('\n')?;
            let (text, zbase) = (text.to_owned(), zbase.to_owned());
            Some(SignedReceipt { instance, tower: key.last()?.parse().ok()?, text, zbase })
        };
        Ok(listed.into_iter().filter_map(|listed| of(&listed.key, listed.value)).collect())
    }

    /// Deletes what towers have signed of factories that nobody asks about any more.
    ///
    /// # Errors
    /// When some of it is still there.
    pub async fn forget_receipts(&self, is_over: impl Fn(InstanceId) -> bool) -> Result<(), KeyError> {
        let root = receipt_root(None);
        for of in self.keys.list(&root).await? {
            let instance = of.key.get(root.len()).and_then(|name| name.parse::<InstanceId>().ok());
            if instance.is_some_and(&is_over) {
                for listed in self.keys.list(&of.key).await? {
                    self.keys.delete(&listed.key).await?;
                }
            }
        }
        Ok(())
    }

    /// What is known of every appointment that is there.
    ///
    /// # Errors
    /// When the keys can't be read.
    pub async fn load(&self) -> Result<Found<(Name, Kept)>, KeyError> {
        let read = |owner: &str, name: &str, value: &[u8]| {
            let (tag, locator) = name.split_once('-')?;
            let tag = <[u8; 32]>::from_hex(tag).ok()?;
            Some(((owner.parse().ok()?, tag, Locator::from_hex(locator).ok()?), parse(value)?))
        };
        self.all(WATCH, read).await
    }

    /// Every penalty that is there.
    ///
    /// # Errors
    /// When the keys can't be read.
    pub async fn penalties(&self) -> Result<Found<Penalty>, KeyError> {
        let read = |owner: &str, name: &str, value: &[u8]| {
            let penalty = bitcoin::consensus::deserialize(value).ok()?;
            Some((owner.parse().ok()?, name.parse().ok()?, penalty))
        };
        self.all(REVOKED, read).await
    }

    async fn all<T>(
        &self,
        kind: &str,
        read: impl Fn(&str, &str, &[u8]) -> Option<T>,
    ) -> Result<Found<T>, KeyError> {
        let mut all = Found::default();
        let root: Key = [ROOT, kind].map(str::to_owned).to_vec();
        for of in self.keys.list(&root).await? {
            if of.key.len() <= root.len() {
                continue;
            }
            for listed in self.keys.list(&of.key).await? {
                let (Some(owner), Some(name), Some(value)) =
                    (of.key.last(), listed.key.last(), &listed.value)
                else {
                    continue;
                };
                match read(owner, name, value) {
                    Some(one) => all.found.push(one),
                    None => all.unreadable.push(listed.key.join("/")),
                }
            }
        }
        Ok(all)
    }

    async fn read(&self, key: &Key) -> Result<Option<Vec<u8>>, KeyError> {
        let listed = self.keys.list(key).await?;
        Ok(listed.into_iter().find(|listed| listed.key == *key).and_then(|listed| listed.value))
    }
}

fn key(kind: &str, (peer, tag, locator): Name) -> Key {
    let name = format!("{}-{}", tag.to_lower_hex_string(), locator.to_lower_hex_string());
    [ROOT, kind, &peer.to_string(), &name].map(str::to_owned).to_vec()
}

fn receipt_root(instance: Option<InstanceId>) -> Key {
    let instance = instance.map(|instance| instance.to_string());
    [ROOT, RECEIPT].map(str::to_owned).into_iter().chain(instance).collect()
}

fn penalty_key(channel: ChannelId, commitment: Txid) -> Key {
    [ROOT, REVOKED, &channel.to_string(), &commitment.to_string()].map(str::to_owned).to_vec()
}

fn head(kept: &Kept) -> Vec<u8> {
    let (txid, height) = kept.trigger.unwrap_or((Txid::all_zeros(), 0));
    let mut head = kept.sum.to_vec();
    head.extend(kept.bytes.to_be_bytes());
    head.extend(kept.until.to_be_bytes());
    head.extend(kept.counter.to_be_bytes());
    head.extend(txid.as_byte_array());
    head.extend(height.to_be_bytes());
    head
}

fn parse(value: &[u8]) -> Option<Kept> {
    let (sum, rest) = value.split_first_chunk::<32>()?;
    let (bytes, rest) = rest.split_first_chunk::<4>()?;
    let (until, rest) = rest.split_first_chunk::<4>()?;
    let (counter, rest) = rest.split_first_chunk::<4>()?;
    let (txid, rest) = rest.split_first_chunk::<32>()?;
    let height = Height::from_be_bytes(rest.try_into().ok()?);
    Some(Kept {
        sum: *sum,
        bytes: u32::from_be_bytes(*bytes),
        until: Height::from_be_bytes(*until),
        counter: u32::from_be_bytes(*counter),
        trigger: (height > 0).then_some((Txid::from_byte_array(*txid), height)),
    })
}

#[cfg(test)]
mod tests {
    use factory_engine::types::NodeId;

    use super::super::fake::{FakeKeys, Fault};
    use super::*;

    const PEER: NodeId = NodeId([2; 33]);

    fn txid(byte: u8) -> Txid {
        Txid::from_byte_array([byte; 32])
    }

    fn name(byte: u8) -> Name {
        (PEER, [5; 32], [byte; 16])
    }

    fn kept(byte: u8) -> Kept {
        Kept { sum: [byte; 32], bytes: 50, until: 900, counter: 7, trigger: None }
    }

    /// S40: what a tower has said that it watches for is there at its next start, and what has come of it.
    #[tokio::test]
    async fn appointments_outlive_a_restart() {
        let keys = FakeKeys::default();
        let store = TowerStore::new(keys.clone());
        for byte in [1, 2, 3] {
            store.put(name(byte), &kept(byte), &[byte; 50]).await.unwrap();
        }
        store.put(name(3), &kept(4), &[4; 50]).await.unwrap();
        let due = store.due(name(1), (txid(1), 800)).await.unwrap();
        assert_eq!(due, Some(Appointment { locator: [1; 16], sealed: vec![1; 50] }));
        // Put again, it is still due.
        store.put(name(1), &kept(1), &[1; 50]).await.unwrap();
        store.forget(name(2)).await.unwrap();
        assert_eq!(store.due(name(2), (txid(1), 800)).await, Ok(None));
        let mut found = TowerStore::new(keys.clone()).load().await.unwrap();
        found.found.sort_by_key(|(name, _)| *name);
        let triggered = Kept { trigger: Some((txid(1), 800)), ..kept(1) };
        assert_eq!(found.found, [(name(1), triggered), (name(3), kept(4))]);
        assert_eq!(found.unreadable, Vec::<String>::new());
        assert_eq!(keys.entries().len(), 4, "nothing of what is forgotten is left");
    }

    /// A disk that fails, at whichever call, leaves the appointment before or the new one, and says so; one that is due
    /// is given only when that is noted.
    #[tokio::test]
    async fn half_an_appointment_is_none() {
        for call in 0..8 {
            for takes_effect in [false, true] {
                let keys = FakeKeys::default();
                let store = TowerStore::new(keys.clone());
                keys.set_fault(Some(Fault { call, takes_effect, for_good: true }));
                let put = store.put(name(1), &kept(1), &[1; 50]).await;
                let due = store.due(name(1), (txid(1), 800)).await;
                keys.set_fault(None);
                let found = TowerStore::new(keys).load().await.unwrap().found;
                assert!(put.is_err() || found.len() == 1, "call {call}");
                let noted = found.first().is_some_and(|(_, kept)| kept.trigger.is_some());
                assert!(!matches!(due, Ok(Some(_))) || noted, "call {call}");
            }
        }
    }

    /// The newest of each tower; those of a factory that is over go with it.
    #[tokio::test]
    async fn receipts_outlive_a_restart() {
        let keys = FakeKeys::default();
        let store = TowerStore::new(keys.clone());
        let signed = |instance, tower, text: &str| SignedReceipt {
            instance: InstanceId([instance; 32]),
            tower: NodeId([tower; 33]),
            text: text.to_owned(),
            zbase: "d6tq".to_owned(),
        };
        for one in
            [signed(1, 2, "older"), signed(1, 2, "newer"), signed(1, 3, "another's"), signed(4, 2, "over")]
        {
            store.keep_receipt(&one).await.unwrap();
        }
        store.forget_receipts(|instance| instance == InstanceId([4; 32])).await.unwrap();
        let store = TowerStore::new(keys.clone());
        let kept = store.receipts(InstanceId([1; 32])).await.unwrap();
        assert_eq!(kept, [signed(1, 2, "newer"), signed(1, 3, "another's")]);
        assert_eq!(keys.entries().len(), 2);
    }

    /// Penalties are there again; a value that isn't as it was written is named, and hides no other.
    #[tokio::test]
    async fn penalties_outlive_a_restart() {
        let keys = FakeKeys::default();
        let store = TowerStore::new(keys.clone());
        let penalty = bitcoin::constants::genesis_block(bitcoin::Network::Regtest).txdata.remove(0);
        let channel = ChannelId([4; 32]);
        for byte in [7, 9] {
            store.revoked(channel, txid(byte), &penalty).await.unwrap();
        }
        keys.replace(&penalty_key(channel, txid(8)), &[1, 2, 3]).await.unwrap();
        store.forget_penalty(channel, txid(9)).await.unwrap();
        let found = store.penalties().await.unwrap();
        assert_eq!(found.found, vec![(channel, txid(7), penalty)]);
        assert_eq!(found.unreadable.len(), 1);
    }
}
