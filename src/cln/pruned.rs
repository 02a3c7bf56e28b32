//! A block of the chain that the backend's node has pruned.
//!
//! lightningd's own backend then asks the node's peers for it, for a minute (`bitcoin-retry-timeout`), in which it
//! does nothing else: neither a new block nor a transaction of lightningd's gets through. lightningd itself ends
//! where a block that it wants is not given. So what is asked for once isn't asked for again before bitcoind has
//! it, or, where bitcoind can't be asked, for a long time.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use factory_engine::types::Height;

use super::client::CallError;

/// Blocks that bitcoind keeps however much it prunes (its `MIN_BLOCKS_TO_KEEP`).
const KEPT: u32 = 288;

/// Between two looks at bitcoind.
const LOOK: Duration = Duration::from_secs(5);
/// Between two questions to the backend where bitcoind doesn't say that it has the block. Peers may have come
/// meanwhile that give it.
const SELDOM: Duration = Duration::from_secs(1800);

/// Whether this is how lightningd's backend says that it can't get a block whose hash it knows (since v26.06;
/// before, it gave none).
pub fn says(error: &CallError) -> bool {
    error.message.starts_with("getblock ") && error.message.contains(" timed out after ")
}

/// Whether bitcoind can have pruned a block at all: what doesn't come of the last ones is merely late.
pub fn can_be(height: Height, tip: Height) -> bool {
    tip.saturating_sub(height) >= KEPT
}

/// Until it is worth asking the backend again. `has_it`: whether bitcoind has the block; nothing if it can't be
/// asked.
pub async fn until_there<F: Future<Output = Option<bool>>>(has_it: impl Fn() -> F) {
    until(LOOK, SELDOM, has_it).await;
}

async fn until<F: Future<Output = Option<bool>>>(look: Duration, seldom: Duration, has_it: impl Fn() -> F) {
    let again = Instant::now() + seldom;
    while Instant::now() < again {
        sleep(look).await;
        if has_it().await == Some(true) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    // S25: a slow bitcoind is not waited for as long as one that has pruned.
    #[test]
    fn the_last_blocks_are_never_pruned() {
        assert!(!can_be(1_000, 1_000) && !can_be(713, 1_000) && can_be(712, 1_000));
    }

    #[test]
    fn what_the_backend_says() {
        let error = |text: &str| CallError::new("getrawblockbyheight", text);
        let hash = "00".repeat(32);
        assert!(says(&error(&format!("getblock {hash} timed out after 60 seconds"))));
        assert!(!says(&error("bitcoin-cli getblockhash 5: bad JSON: bad blockhash")));
        assert!(!says(&error("no answer within 60 s")));
    }

    // S33
    #[tokio::test]
    async fn bitcoind_is_asked_often_and_the_backend_seldom() {
        let (look, seldom) = (Duration::from_millis(1), Duration::from_millis(50));
        let looks = AtomicU32::new(0);
        let had_at = |number: u32| {
            let looks = &looks;
            move || async move { Some(looks.fetch_add(1, Ordering::Relaxed) + 1 == number) }
        };
        until(look, Duration::from_secs(600), had_at(3)).await;
        assert_eq!(looks.load(Ordering::Relaxed), 3, "as soon as it is there");
        for says in [None, Some(false)] {
            let began = Instant::now();
            until(look, seldom, || async { says }).await;
            assert!(began.elapsed() >= seldom, "{says:?}");
        }
    }
}
