//! What is kept for peers (S40), over a [`KeyValue`]. Of each peer the newest copy with each tag.
//!
//! `["cln-factory", "shelf", <peer>]` lists what there is: of each copy tag, counter (u32), nonce, bytes (u32), so that
//! nobody has to read the copies for it. A copy is below `["cln-factory", "kept", <peer>, <tag>-<nonce>]`, in pieces. It
//! is kept once the list has it; the one before it goes only afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use bitcoin::hex::DisplayHex;
use factory_engine::backup::copy::NONCE;
use factory_engine::backup::{SealedCopy, admit};
use factory_engine::io::{ShelfAnswer, ShelfRequest};
use factory_engine::types::NodeId;
use tokio::sync::Semaphore;

use super::journal::PART;
use super::key_value::{Key, KeyError, KeyValue};

const ROOT: &str = "cln-factory";
const SHELF: &str = "shelf";
const KEPT: &str = "kept";
/// Requests that are served at once, whoever's they are: the database is lightningd's (S28).
const AT_ONCE: usize = 2;
/// Bytes of an entry of a shelf's list.
const ENTRY: usize = 32 + 4 + NONCE + 4;

/// Shelves for peers. Requests about one peer's come one after the other.
#[derive(Debug, Clone)]
pub struct Shelves<K> {
    keys: K,
    turns: Arc<Semaphore>,
}

/// What a list says of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    counter: u32,
    nonce: [u8; NONCE],
    bytes: u32,
}

type Shelf = BTreeMap<[u8; 32], Entry>;

impl<K: KeyValue> Shelves<K> {
    /// Over these keys.
    pub fn new(keys: K) -> Self {
        Self { keys, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// What becomes of a request; nothing is said of a copy that is forgotten.
    pub async fn serve(&self, peer: NodeId, request: ShelfRequest) -> Option<ShelfAnswer> {
        // Nobody closes the semaphore, so there is always one.
        let _turn = self.turns.acquire().await;
        let served = match request {
            ShelfRequest::Put(copy) => return Some(self.put(peer, &copy).await),
            ShelfRequest::List => self.shelf(peer).await.map(|shelf| {
                let list = shelf.into_iter().map(|(tag, entry)| (tag, (entry.counter, entry.nonce)));
                Some(ShelfAnswer::List(list.collect()))
            }),
            ShelfRequest::Get(tag) => self.get(peer, tag).await.map(|copy| Some(ShelfAnswer::Got(tag, copy))),
            ShelfRequest::Forget(tag) => self.forget(peer, tag).await.map(|()| None),
        };
        served.unwrap_or_else(|error| Some(ShelfAnswer::Failed(error.to_string())))
    }

    async fn put(&self, peer: NodeId, copy: &SealedCopy) -> ShelfAnswer {
        let (tag, counter) = (copy.tag, copy.counter);
        let result = match self.write(peer, copy).await {
            Ok(result) => result,
            Err(error) => {
                log::warn!("{peer}: a copy is not kept: {error}");
                Err("this node can't write now".to_owned())
            }
        };
        ShelfAnswer::Put { tag, counter, result }
    }

    async fn write(&self, peer: NodeId, copy: &SealedCopy) -> Result<Result<(), String>, KeyError> {
        let mut shelf = self.shelf(peer).await?;
        let there: Vec<_> = shelf
            .iter()
            .map(|(tag, entry)| (*tag, entry.counter, usize::try_from(entry.bytes).unwrap_or(usize::MAX)))
            .collect();
        let (Some(nonce), Ok(bytes)) = (copy.nonce(), u32::try_from(copy.sealed.len())) else {
            return Ok(Err("it is no copy".to_owned()));
        };
        if let Err(why) = admit(&there, copy) {
            return Ok(Err(why));
        }
        let entry = Entry { counter: copy.counter, nonce, bytes };
        let before = shelf.insert(copy.tag, entry);
        if before == Some(entry) {
            return Ok(Ok(()));
        }
        for (piece, bytes) in copy.sealed.chunks(PART).enumerate() {
            self.keys.replace(&piece_key(peer, copy.tag, nonce, piece), bytes).await?;
        }
        self.list(peer, &shelf).await?;
        if let Some(before) = before {
            self.delete(peer, copy.tag, before).await;
        }
        Ok(Ok(()))
    }

    async fn get(&self, peer: NodeId, tag: [u8; 32]) -> Result<Option<SealedCopy>, KeyError> {
        let Some(entry) = self.shelf(peer).await?.remove(&tag) else { return Ok(None) };
        let pieces = self.keys.list(&copy_key(peer, tag, entry.nonce)).await?;
        let sealed: Vec<u8> = pieces.into_iter().filter_map(|piece| piece.value).flatten().collect();
        Ok(Some(SealedCopy { tag, counter: entry.counter, sealed }))
    }

    async fn forget(&self, peer: NodeId, tag: [u8; 32]) -> Result<(), KeyError> {
        let mut shelf = self.shelf(peer).await?;
        let Some(entry) = shelf.remove(&tag) else { return Ok(()) };
        self.list(peer, &shelf).await?;
        self.delete(peer, tag, entry).await;
        Ok(())
    }

    /// Nobody needs it any more: what is left of it is in nobody's way.
    async fn delete(&self, peer: NodeId, tag: [u8; 32], entry: Entry) {
        let pieces = usize::try_from(entry.bytes).unwrap_or(usize::MAX).div_ceil(PART);
        for piece in (0..pieces).rev() {
            if let Err(error) = self.keys.delete(&piece_key(peer, tag, entry.nonce, piece)).await {
                log::warn!("{peer}: a copy that is replaced is still there: {error}");
            }
        }
    }

    /// Replaces the list of what there is.
    async fn list(&self, peer: NodeId, shelf: &Shelf) -> Result<(), KeyError> {
        let mut bytes = Vec::with_capacity(shelf.len().saturating_mul(ENTRY));
        for (tag, entry) in shelf {
            bytes.extend(tag);
            bytes.extend(entry.counter.to_be_bytes());
            bytes.extend(entry.nonce);
            bytes.extend(entry.bytes.to_be_bytes());
        }
        self.keys.replace(&shelf_key(peer), &bytes).await
    }

    /// What there is. A list that isn't as it was written has what can be read of it.
    async fn shelf(&self, peer: NodeId) -> Result<Shelf, KeyError> {
        let listed = self.keys.list(&shelf_key(peer)).await?;
        let bytes = listed.into_iter().next().and_then(|listed| listed.value).unwrap_or_default();
        Ok(bytes.chunks_exact(ENTRY).filter_map(entry).collect())
    }
}

fn entry(bytes: &[u8]) -> Option<([u8; 32], Entry)> {
    let (tag, rest) = bytes.split_first_chunk::<32>()?;
    let (counter, rest) = rest.split_first_chunk::<4>()?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
    let bytes = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    Some((*tag, Entry { counter: u32::from_be_bytes(*counter), nonce: *nonce, bytes }))
}

fn shelf_key(peer: NodeId) -> Key {
    [ROOT, SHELF, &peer.to_string()].map(str::to_owned).to_vec()
}

fn copy_key(peer: NodeId, tag: [u8; 32], nonce: [u8; NONCE]) -> Key {
    let copy = format!("{}-{}", tag.to_lower_hex_string(), nonce.to_lower_hex_string());
    [ROOT, KEPT, &peer.to_string(), &copy].map(str::to_owned).to_vec()
}

fn piece_key(peer: NodeId, tag: [u8; 32], nonce: [u8; NONCE], piece: usize) -> Key {
    let mut key = copy_key(peer, tag, nonce);
    key.push(format!("{piece:04}"));
    key
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeKeys, Fault};
    use super::*;

    const PEER: NodeId = NodeId([2; 33]);

    fn copy(tag: u8, counter: u32, bytes: usize) -> SealedCopy {
        let byte = u8::try_from(counter % 256).unwrap();
        SealedCopy { tag: [tag; 32], counter, sealed: vec![byte; bytes] }
    }

    async fn put(shelves: &Shelves<FakeKeys>, copy: &SealedCopy) -> Result<(), String> {
        match shelves.serve(PEER, ShelfRequest::Put(copy.clone())).await {
            Some(ShelfAnswer::Put { tag, counter, result }) => {
                assert_eq!((tag, counter), (copy.tag, copy.counter));
                result
            }
            other => panic!("{other:?}"),
        }
    }

    async fn get(shelves: &Shelves<FakeKeys>, tag: u8) -> Option<SealedCopy> {
        match shelves.serve(PEER, ShelfRequest::Get([tag; 32])).await {
            Some(ShelfAnswer::Got(_, copy)) => copy,
            other => panic!("{other:?}"),
        }
    }

    /// S39, S40: each peer finds its newest copies, as it gave them, and nobody else's.
    #[tokio::test]
    async fn a_shelf_is_its_peers() {
        let keys = FakeKeys::default();
        let shelves = Shelves::new(keys.clone());
        let large = SealedCopy { sealed: vec![9; 3 * PART + 7], ..copy(2, 1, 0) };
        for copy in [copy(1, 3, 100), large, copy(1, 4, PART), copy(2, 1, 500), copy(2, 1, 500)] {
            assert_eq!(put(&shelves, &copy).await, Ok(()));
        }
        let again = Shelves::new(keys);
        assert_eq!(get(&again, 1).await, Some(copy(1, 4, PART)));
        assert_eq!(get(&again, 2).await, Some(copy(2, 1, 500)), "of the same counter the last");
        assert_eq!(get(&again, 3).await, None);
        let listed = again.serve(PEER, ShelfRequest::List).await;
        let versions = vec![([1; 32], (4, [4; NONCE])), ([2; 32], (1, [1; NONCE]))];
        assert_eq!(listed, Some(ShelfAnswer::List(versions)));
        let other = again.serve(NodeId([3; 33]), ShelfRequest::List).await;
        assert_eq!(other, Some(ShelfAnswer::List(vec![])));
        assert!(put(&again, &copy(1, 3, 100)).await.is_err_and(|why| why.contains("newer")));
        assert!(put(&again, &copy(1, 5, 3)).await.is_err_and(|why| why.contains("no copy")));
        assert_eq!(again.serve(PEER, ShelfRequest::Forget([1; 32])).await, None);
        assert_eq!(get(&again, 1).await, None);
        assert_eq!(get(&again, 2).await, Some(copy(2, 1, 500)));
    }

    /// S39: a disk that fails in the middle, at whichever call, leaves the copy before or the new one.
    #[tokio::test]
    async fn half_a_copy_is_none() {
        let (older, newer) = (copy(1, 3, 2 * PART), copy(1, 4, 2 * PART + 1));
        let mut said = vec![];
        for call in 0..12 {
            let keys = FakeKeys::default();
            let shelves = Shelves::new(keys.clone());
            assert_eq!(put(&shelves, &older).await, Ok(()));
            keys.set_fault(Some(Fault { call, takes_effect: call % 2 == 0, for_good: true }));
            let put = put(&shelves, &newer).await;
            keys.set_fault(None);
            let found = get(&Shelves::new(keys), 1).await;
            assert!(found == Some(older.clone()) || found == Some(newer.clone()), "call {call}");
            assert!(
                put.is_err() || found == Some(newer.clone()),
                "call {call}: what was said to be kept is gone"
            );
            said.push(put.is_ok());
        }
        assert!(said.contains(&true) && said.contains(&false));
    }
}
