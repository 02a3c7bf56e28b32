//! lightningd's static channel backups of a factory's channels, kept beside the factory's copy.
//!
//! With one lightningd asks a channel's peer to close (`recoverchannel`), and takes what that pays. It is kept as it
//! was when it was seen first, soon after the channel was opened: of a newer one, which has the peer's revoked
//! secrets, lightningd v26.06 takes the peer's commitment for one that it knows, and stumbles over it.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::hex::{DisplayHex, FromHex};
use factory_engine::backup::Copy;
use factory_engine::types::{ChannelId, InstanceId};
use serde_json::{Value, json};

use crate::cln::client::{Call, CallError, field};

/// Where lightningd's `modern_scb_chan` has the channel_id: after a number of 8 bytes.
const CHANNEL_ID: std::ops::Range<usize> = 8..40;

/// Static channel backups, by channel.
pub type Statics = BTreeMap<ChannelId, Vec<u8>>;

pub use factory_engine::backup::copy::statics_name as name;

/// Copies of records, and the static channel backups that are among them, by factory.
pub fn split(copies: Vec<Copy>) -> (Vec<Copy>, BTreeMap<InstanceId, Vec<Vec<u8>>>) {
    let names: BTreeMap<InstanceId, InstanceId> =
        copies.iter().map(|copy| (name(copy.instance), copy.instance)).collect();
    let (mut factories, mut statics) = (vec![], BTreeMap::new());
    for copy in copies {
        match names.get(&copy.instance) {
            Some(of) => drop(statics.insert(*of, copy.records)),
            None => factories.push(copy),
        }
    }
    (factories, statics)
}

/// The channel that one is of.
pub fn channel_of(scb: &[u8]) -> Option<ChannelId> {
    Some(ChannelId(scb.get(CHANNEL_ID)?.try_into().ok()?))
}

/// Those of these channels, as lightningd has them now.
pub async fn read<C: Call>(rpc: &C, channels: &BTreeSet<ChannelId>) -> Result<Statics, CallError> {
    let answer = rpc.call("staticbackup", json!({})).await?;
    let list: Vec<Value> = field("staticbackup", &answer, "scb")?;
    let one = |value: &Value| {
        let scb = Vec::from_hex(value.as_str()?).ok()?;
        Some((channel_of(&scb)?, scb))
    };
    Ok(list.iter().filter_map(one).filter(|(id, _)| channels.contains(id)).collect())
}

/// Has lightningd ask for these to be closed. How many it took.
pub async fn recover<C: Call>(rpc: &C, scbs: &[Vec<u8>]) -> Result<usize, CallError> {
    let scbs: Vec<String> = scbs.iter().map(|scb| scb.to_lower_hex_string()).collect();
    let answer = rpc.call("recoverchannel", json!({"scb": scbs})).await?;
    let stubs: Vec<Value> = field("recoverchannel", &answer, "stubs")?;
    Ok(stubs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factorys_backups_are_found_beside_it() {
        let copy = |instance, byte| Copy { instance, records: vec![vec![byte]] };
        let (first, second) = (InstanceId([1; 32]), InstanceId([2; 32]));
        let (factories, statics) = split(vec![copy(name(second), 3), copy(first, 1), copy(second, 2)]);
        assert_eq!(factories, [copy(first, 1), copy(second, 2)]);
        assert_eq!(statics, BTreeMap::from([(second, vec![vec![3]])]));
        let mut scb = vec![0; 8];
        scb.extend([7; 32]);
        assert_eq!(channel_of(&scb), Some(ChannelId([7; 32])));
        assert_eq!(channel_of(&scb[..39]), None);
    }
}
