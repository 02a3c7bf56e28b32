//! lightningd's static channel backups of a factory's channels, kept beside the factory's copy.
//!
//! With one lightningd asks a channel's peer to close (`recoverchannel`), and takes what that pays. It is kept as it
//! was when it was seen first, soon after the channel was opened: of a newer one, which has the peer's revoked
//! secrets, lightningd v26.06 takes the peer's commitment for one that it knows, and stumbles over it.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::hex::{DisplayHex, FromHex};
use factory_engine::backup::Copy;
use factory_engine::types::{ChannelId, InstanceId};
use factory_runtime::store::{Store, StoreError};
use serde_json::{Value, json};

use crate::cln::client::{Call, CallError, field};

/// Where lightningd's `modern_scb_chan` has the channel_id: after a number of 8 bytes.
const CHANNEL_ID: std::ops::Range<usize> = 8..40;

/// Name under which the store has those of channels that lightningd should have closed and hasn't taken yet: in pages, the
/// first under this name, the others under it and their number.
const LEFT: &str = "lost-channels";
/// Bytes of a page, unless a single one is larger: a value of the store has 120,000 at most.
const PAGE: usize = 100_000;

/// Static channel backups, by channel.
pub type Statics = BTreeMap<ChannelId, Vec<u8>>;

pub use factory_engine::backup::copy::statics_name as name;

/// Copies of records, and the static channel backups that are among them, by factory.
pub fn split(copies: Vec<Copy>) -> (Vec<Copy>, BTreeMap<InstanceId, Vec<Vec<u8>>>) {
    split_with(copies, &[])
}

/// The same where those of these factories may be there without their records.
pub fn split_with(
    copies: Vec<Copy>,
    known: &[InstanceId],
) -> (Vec<Copy>, BTreeMap<InstanceId, Vec<Vec<u8>>>) {
    let instances = copies.iter().map(|copy| copy.instance).chain(known.iter().copied());
    let names: BTreeMap<InstanceId, InstanceId> =
        instances.map(|instance| (name(instance), instance)).collect();
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

/// The same, each with the channel that it is of.
pub fn by_channel(scbs: impl IntoIterator<Item = Vec<u8>>) -> Statics {
    scbs.into_iter().filter_map(|scb| Some((channel_of(&scb)?, scb))).collect()
}

/// Those that lightningd hasn't taken yet. They are nowhere else once their factory is restored and the peer that had them is
/// gone.
///
/// # Errors
/// When the store can't be read: nothing may be put in the place of what is there then.
pub async fn left<S: Store>(store: &mut S) -> Result<Statics, StoreError> {
    let mut all = Statics::new();
    for number in 0.. {
        let page = store.get(&page_name(number)).await?.unwrap_or_default();
        if page.is_empty() {
            break;
        }
        all.extend(parse(&page));
    }
    Ok(all)
}

/// From now on it hasn't taken these. What can't be stored is with those that gave it back alone.
pub async fn keep<S: Store>(store: &mut S, scbs: &Statics) {
    if let Err(error) = store_pages(store, scbs).await {
        log::warn!("cannot note which lost channels lightningd should take: {error}");
    }
}

/// Where it is interrupted, what is among both the old and the new ones is on one page or another: where some come, the last
/// page is written first, onto which others move; where some go, the first, to which others move.
async fn store_pages<S: Store>(store: &mut S, scbs: &Statics) -> Result<(), StoreError> {
    let before = left(store).await?;
    let mut pages: Vec<(usize, Vec<u8>)> = pages(scbs).into_iter().enumerate().collect();
    if before.keys().all(|id| scbs.contains_key(id)) {
        pages.reverse();
    }
    let count = pages.len();
    for (number, page) in pages {
        store.put(&page_name(number), page).await?;
    }
    // The rest of what there was.
    for number in count.. {
        let name = page_name(number);
        if store.get(&name).await?.is_none_or(|page| page.is_empty()) {
            return Ok(());
        }
        store.put(&name, vec![]).await?;
    }
    Ok(())
}

fn page_name(number: usize) -> String {
    if number == 0 { LEFT.to_owned() } else { format!("{LEFT}-{number}") }
}

/// Each behind its length; one page at least.
fn pages(scbs: &Statics) -> Vec<Vec<u8>> {
    let (mut pages, mut page) = (vec![], vec![]);
    for scb in scbs.values() {
        let Ok(length) = u32::try_from(scb.len()) else { continue };
        let grown = page.len().saturating_add(scb.len()).saturating_add(4);
        if grown > PAGE && !page.is_empty() {
            pages.push(std::mem::take(&mut page));
        }
        page.extend(length.to_be_bytes());
        page.extend(scb);
    }
    pages.push(page);
    pages
}

fn parse(bytes: &[u8]) -> Statics {
    let (mut scbs, mut rest) = (vec![], bytes);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some((scb, after)) = after.split_at_checked(length) else { break };
        scbs.push(scb.to_vec());
        rest = after;
    }
    by_channel(scbs)
}

/// Has lightningd ask the peers of these channels to close them, and keeps what it doesn't take for the next
/// time. How many of them it has then. Without it there is still the timeout.
pub async fn ask_to_close<C: Call, S: Store>(rpc: &C, store: &mut S, scbs: &Statics) -> usize {
    if scbs.is_empty() {
        return 0;
    }
    let taken = recover(rpc, scbs).await.unwrap_or_else(|error| {
        log::warn!("lightningd asks nobody to close the lost channels: {error}");
        BTreeSet::new()
    });
    let missing = scbs.iter().filter(|(id, _)| !taken.contains(*id));
    let missing: Statics = missing.map(|(id, scb)| (*id, scb.clone())).collect();
    keep(store, &missing).await;
    taken.len()
}

/// Which of these channels lightningd has then, or had: it takes none twice, and none under a number that it
/// has given to another.
async fn recover<C: Call>(rpc: &C, scbs: &Statics) -> Result<BTreeSet<ChannelId>, CallError> {
    let list: Vec<String> = scbs.values().map(|scb| scb.to_lower_hex_string()).collect();
    rpc.call("recoverchannel", json!({"scb": list})).await?;
    known(rpc, scbs).await
}

/// Which of these channels lightningd has, or had.
///
/// # Errors
/// What lightningd says.
pub async fn known<C: Call>(rpc: &C, scbs: &Statics) -> Result<BTreeSet<ChannelId>, CallError> {
    let mut channels: Vec<Value> = vec![];
    for (method, list) in [("listpeerchannels", "channels"), ("listclosedchannels", "closedchannels")] {
        let answer = rpc.call(method, json!({})).await?;
        channels.extend(field::<Vec<Value>>(method, &answer, list)?);
    }
    let id = |channel: &Value| channel["channel_id"].as_str()?.parse::<ChannelId>().ok();
    Ok(channels.iter().filter_map(id).filter(|id| scbs.contains_key(id)).collect())
}

#[cfg(test)]
mod tests {
    use factory_runtime::store::fake::{FakeKeys, Fault};
    use factory_runtime::store::keyed::Keyed;
    use factory_runtime::store::memory::MemoryStore;

    use super::*;

    #[test]
    fn a_factorys_backups_are_found_beside_it() {
        let copy = |instance, byte| Copy { instance, records: vec![vec![byte]] };
        let (first, second) = (InstanceId([1; 32]), InstanceId([2; 32]));
        let (factories, statics) = split(vec![copy(name(second), 3), copy(first, 1), copy(second, 2)]);
        assert_eq!(factories, [copy(first, 1), copy(second, 2)]);
        assert_eq!(statics, BTreeMap::from([(second, vec![vec![3]])]));
        // Of a factory whose records are here.
        let (factories, statics) = split_with(vec![copy(name(second), 3), copy(first, 1)], &[second]);
        assert_eq!(factories, [copy(first, 1)]);
        assert_eq!(statics, BTreeMap::from([(second, vec![vec![3]])]));
        let mut scb = vec![0; 8];
        scb.extend([7; 32]);
        assert_eq!(channel_of(&scb), Some(ChannelId([7; 32])));
        assert_eq!(channel_of(&scb[..39]), None);
    }

    /// S39: what is noted as left is read as it was; what is cut off is left out.
    #[tokio::test]
    async fn what_lightningd_lacks_is_kept() {
        let scb = |number: u8, more: usize| [vec![0; 8], vec![number; 32], vec![9; more]].concat();
        let mut store = MemoryStore::new();
        assert_eq!(left(&mut store).await.unwrap(), Statics::new());
        for scbs in [vec![scb(1, 0), scb(2, 300)], vec![], vec![scb(3, 5)]] {
            let scbs = by_channel(scbs);
            keep(&mut store, &scbs).await;
            assert_eq!(left(&mut store).await.unwrap(), scbs);
        }
        store.put(LEFT, vec![0, 0, 1, 0, 7]).await.unwrap();
        assert_eq!(left(&mut store).await.unwrap(), Statics::new());
    }

    /// Of the channels of these numbers.
    fn of_channels(numbers: std::ops::Range<u16>) -> Statics {
        let one = |number: u16| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let scb = [vec![0; 8], id.to_vec(), vec![9; 260]].concat();
            (ChannelId(id), scb)
        };
        numbers.map(one).collect()
    }

    /// S39: a thousand channels and more are noted too, and fewer afterwards leave nothing behind.
    #[tokio::test]
    async fn as_many_as_there_are_are_kept() {
        let keys = FakeKeys::default();
        let mut store = Keyed::new(keys.clone());
        for numbers in [0..1_500, 0..2_000, 700..1_900, 1_800..1_801, 0..400] {
            let scbs = of_channels(numbers.clone());
            keep(&mut store, &scbs).await;
            assert_eq!(left(&mut store).await.unwrap(), scbs, "{numbers:?}");
        }
        keep(&mut store, &Statics::new()).await;
        assert_eq!(left(&mut store).await.unwrap(), Statics::new());
        assert!(keys.longest() <= 120_000, "{}", keys.longest());
    }

    /// S39: wherever that is interrupted, nothing is lost that was there before and should be afterwards.
    #[tokio::test]
    async fn what_is_kept_is_never_lost_in_between() {
        for (before, after) in [(0..800, 0..1_500), (400..1_500, 0..1_500), (0..1_500, 900..1_500)] {
            let both = before.start.max(after.start)..before.end.min(after.end);
            for call in 0.. {
                let keys = FakeKeys::default();
                keep(&mut Keyed::new(keys.clone()), &of_channels(before.clone())).await;
                let fault = Fault { call, takes_effect: true, for_good: true };
                keys.set_fault(Some(fault));
                keep(&mut Keyed::new(keys.clone()), &of_channels(after.clone())).await;
                let there = left(&mut Keyed::new(keys.copied())).await.unwrap();
                assert!(of_channels(both.clone()).keys().all(|id| there.contains_key(id)), "call {call}");
                if !keys.is_dead() {
                    assert_eq!(there, of_channels(after.clone()));
                    break;
                }
            }
        }
    }
}
