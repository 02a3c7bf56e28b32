//! `listpeerchannels`, kept: all of it at the start and now and then, and in between those channels that have
//! changed. In full it costs a large node megabytes, and it is wanted at every block and at each cap on dust.
//!
//! lightningd numbers every change of an HTLC (`listhtlcs` by `updated`), and says when a channel changes its state;
//! balances change only with HTLCs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex as Quick, PoisonError};

use factory_engine::types::ChannelId;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::channels::Channels;
use super::client::{Call, CallError, field};

/// After as many looks at changes all is read again, should any have been missed.
const LOOKS: u32 = 144;
/// Of more channels than these, all are read at once.
const SEVERAL: usize = 32;
/// Changes of HTLCs that one look takes; with more, all channels are read.
const CHANGES: usize = 1_000;

/// This node's channels as lightningd showed them last.
#[derive(Debug, Default)]
pub struct Mirror {
    kept: Mutex<Kept>,
    /// Channels of which lightningd has said that they changed.
    touched: Quick<BTreeSet<ChannelId>>,
}

#[derive(Debug, Default)]
struct Kept {
    channels: Vec<Value>,
    /// Where a channel is among them.
    places: HashMap<ChannelId, usize>,
    /// The next number of `listhtlcs`, by creation and by change.
    next: [u64; 2],
    /// Looks until all is read again.
    left: u32,
}

const INDEXES: [&str; 2] = ["created", "updated"];

impl Mirror {
    /// lightningd says something of a channel: it is read at the next look.
    pub fn touch(&self, channel: ChannelId) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(channel);
    }

    /// Channels as they are now, in `listpeerchannels`' form, and whether all were read. `known` follows.
    ///
    /// # Errors
    /// When lightningd doesn't answer; the next look then reads everything.
    pub async fn look<C: Call, T>(
        &self,
        rpc: &C,
        known: &Channels,
        read: impl FnOnce(&[Value], bool) -> T,
    ) -> Result<T, CallError> {
        let mut kept = self.kept.lock().await;
        let touched = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        let left = std::mem::take(&mut kept.left);
        let changed = if left == 0 { None } else { kept.changed(rpc, known, touched).await? };
        match &changed {
            Some(changed) => {
                for channel in changed {
                    kept.read_one(rpc, known, *channel).await?;
                }
                kept.left = left.saturating_sub(1);
            }
            None => {
                kept.read_all(rpc, known).await?;
                kept.left = LOOKS;
            }
        }
        Ok(read(&kept.channels, changed.is_none()))
    }

    /// Channels as of the last look.
    pub async fn last<T>(&self, read: impl FnOnce(&[Value]) -> T) -> T {
        read(&self.kept.lock().await.channels)
    }
}

impl Kept {
    /// Channels to be read; nothing if they are too many to read one by one.
    async fn changed<C: Call>(
        &mut self,
        rpc: &C,
        known: &Channels,
        mut touched: BTreeSet<ChannelId>,
    ) -> Result<Option<BTreeSet<ChannelId>>, CallError> {
        for (index, next) in INDEXES.into_iter().zip(&mut self.next) {
            let params = json!({"index": index, "start": *next, "limit": CHANGES});
            let answer = rpc.call("listhtlcs", params).await?;
            let list: Vec<Value> = field("listhtlcs", &answer, "htlcs")?;
            if list.len() >= CHANGES {
                return Ok(None);
            }
            let last = list.iter().filter_map(|htlc| htlc[format!("{index}_index")].as_u64()).max();
            *next = last.map_or(*next, |last| last.saturating_add(1));
            for htlc in &list {
                // A channel that isn't known, or by another name.
                let Some(channel) = htlc["short_channel_id"].as_str().and_then(|scid| known.get(scid)) else {
                    return Ok(None);
                };
                touched.insert(channel);
            }
        }
        let all: HashSet<ChannelId> = known.list().iter().map(|channel| channel.channel_id).collect();
        touched.extend(all.iter().filter(|id| !self.places.contains_key(*id)));
        touched.extend(self.places.keys().filter(|id| !all.contains(*id)));
        Ok((touched.len() <= SEVERAL).then_some(touched))
    }

    async fn read_one<C: Call>(
        &mut self,
        rpc: &C,
        known: &Channels,
        channel: ChannelId,
    ) -> Result<(), CallError> {
        let answer = rpc.call("listpeerchannels", json!({"channel_id": channel.to_string()})).await?;
        let list: Vec<Value> = field("listpeerchannels", &answer, "channels")?;
        // Its state, too: what was said while all were read may have been overwritten.
        known.take_some(&list);
        match (list.into_iter().next(), self.places.get(&channel).copied()) {
            (Some(value), Some(place)) => {
                if let Some(old) = self.channels.get_mut(place) {
                    *old = value;
                }
            }
            (Some(value), None) => {
                self.places.insert(channel, self.channels.len());
                self.channels.push(value);
            }
            (None, Some(place)) => {
                self.channels.swap_remove(place);
                self.places.remove(&channel);
                // The last one stands there now.
                if let Some(moved) = self.channels.get(place).and_then(id_of) {
                    self.places.insert(moved, place);
                }
            }
            (None, None) => {}
        }
        Ok(())
    }

    async fn read_all<C: Call>(&mut self, rpc: &C, known: &Channels) -> Result<(), CallError> {
        // First the numbers: what changes meanwhile is read twice.
        for (index, next) in INDEXES.into_iter().zip(&mut self.next) {
            let params = json!({"subsystem": "htlcs", "indexname": index, "nextvalue": 0});
            let answer = rpc.call("wait", params).await?;
            *next = answer[index].as_u64().unwrap_or(0).saturating_add(1);
        }
        let answer = rpc.call("listpeerchannels", json!({})).await?;
        self.channels = field("listpeerchannels", &answer, "channels")?;
        known.take(&self.channels);
        self.find_places();
        Ok(())
    }

    fn find_places(&mut self) {
        let places = self.channels.iter().enumerate();
        self.places = places.filter_map(|(place, channel)| Some((id_of(channel)?, place))).collect();
    }
}

fn id_of(channel: &Value) -> Option<ChannelId> {
    channel["channel_id"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// A node of channels with a number that changes, which notes what it is asked.
    #[derive(Clone, Default)]
    struct Node(Arc<Quick<World>>);

    #[derive(Default)]
    struct World {
        channels: Vec<(ChannelId, u64)>,
        /// Channels in the order of changes of their HTLCs.
        htlcs: Vec<usize>,
        asked: Vec<String>,
    }

    fn id(place: usize) -> ChannelId {
        ChannelId([u8::try_from(place).unwrap(); 32])
    }

    impl Node {
        fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
            change(&mut self.0.lock().unwrap())
        }

        fn pay(&self, place: usize, balance: u64) {
            self.with(|world| {
                world.channels[place].1 = balance;
                world.htlcs.push(place);
            });
        }
    }

    impl Call for Node {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            self.with(|world| {
                let shown = |(id, balance): &(ChannelId, u64)| {
                    let scid = format!("1x{}x0", id.0[0]);
                    json!({"channel_id": id.to_string(), "short_channel_id": scid, "to_us_msat": balance,
                        "state": "CHANNELD_NORMAL"})
                };
                let all = |world: &World| world.channels.iter().map(shown).collect::<Vec<_>>();
                Ok(match (method, params["channel_id"].as_str()) {
                    ("wait", _) => json!({"created": 0, "updated": world.htlcs.len()}),
                    ("listhtlcs", _) if params["index"] == "created" => json!({"htlcs": []}),
                    ("listhtlcs", _) => {
                        let start = usize::try_from(params["start"].as_u64().unwrap()).unwrap();
                        let one = |(number, place): (usize, &usize)| {
                            json!({"short_channel_id": format!("1x{place}x0"), "updated_index": number})
                        };
                        let list = (1..).zip(&world.htlcs).filter(|(number, _)| *number >= start);
                        json!({"htlcs": list.map(one).collect::<Vec<_>>()})
                    }
                    (_, Some(id)) => {
                        world.asked.push(id.to_owned());
                        let same: Vec<Value> = all(world).into_iter().filter(|c| c["channel_id"] == id).collect();
                        json!({"channels": same})
                    }
                    _ => {
                        world.asked.push("all".to_owned());
                        json!({"channels": all(world)})
                    }
                })
            })
        }
    }

    #[tokio::test]
    async fn what_changes_is_read_and_nothing_else() {
        let (node, known, mirror) = (Node::default(), Channels::default(), Mirror::default());
        node.with(|world| world.channels = (0..100).map(|place| (id(place), 0)).collect());
        let look = || async {
            let sum = |list: &[Value], whole| {
                (list.iter().filter_map(|c| c["to_us_msat"].as_u64()).sum::<u64>(), whole)
            };
            let seen = mirror.look(&node, &known, sum).await.unwrap();
            (seen, node.with(|world| std::mem::take(&mut world.asked)))
        };
        let all = vec!["all".to_owned()];
        assert_eq!(look().await, ((0, true), all.clone()));
        assert_eq!(look().await, ((0, false), vec![]));
        node.pay(7, 5);
        node.pay(7, 6);
        assert_eq!(look().await, ((6, false), vec![id(7).to_string()]));
        // Many at once, and a channel that nobody knows.
        (0..40).for_each(|place| node.pay(place, 1));
        assert_eq!(look().await, ((40, true), all.clone()));
        node.with(|world| world.channels.push((id(100), 2)));
        node.pay(100, 3);
        assert_eq!(look().await, ((43, true), all.clone()));
        // A channel of which lightningd says something, and one that is gone.
        known.changed(id(3), crate::cln::channel_state::ChannelState::AwaitingUnilateral);
        assert!(!known.is_live(id(3)));
        mirror.touch(id(3));
        assert_eq!(look().await, ((43, false), vec![id(3).to_string()]));
        assert!(known.is_live(id(3)), "what it shows now counts");
        node.with(|world| world.channels.remove(100));
        known.changed(id(100), crate::cln::channel_state::ChannelState::Closed);
        assert_eq!(look().await, ((40, false), vec![id(100).to_string()]));
        for _ in 0..=LOOKS {
            look().await;
        }
        assert_eq!(node.with(|world| world.htlcs.len()), 43);
        assert_eq!(look().await.0, (40, false));
        // One comes as another goes: there are as many as before.
        node.with(|world| world.channels[0] = (id(101), 9));
        known.changed(id(0), crate::cln::channel_state::ChannelState::Closed);
        known.take_some(&[json!({"channel_id": id(101).to_string(), "short_channel_id": "1x101x0"})]);
        assert_eq!(look().await, ((48, false), vec![id(0).to_string(), id(101).to_string()]));
        assert_eq!(look().await, ((48, false), vec![]));
    }
}
