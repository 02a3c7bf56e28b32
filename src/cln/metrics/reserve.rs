//! What the wallet has, for a page: lightningd is asked for it seldom, and never again before it has answered.

use std::future::Future;
use std::time::Duration;

use factory_engine::types::Height;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cln::error::RpcError;
use crate::cln::methods::fees::Reserve;

/// It is asked for again at each block, and after so long; after so long alone if it wasn't told, or not soon.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a page waits for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// What was asked for longer ago counts no more.
const STALE: Duration = Duration::from_secs(600);

/// What the wallet has, as it was told last.
#[derive(Default)]
pub struct Wallet {
    told: Option<(Instant, Reserve)>,
    last: Option<Attempt>,
}

/// The last time that lightningd was asked.
struct Attempt {
    at: Instant,
    height: Height,
    /// Until it has ended.
    asking: Option<JoinHandle<Result<Reserve, RpcError>>>,
    /// Whether it was told soon.
    prompt: bool,
}

impl Wallet {
    /// What it has, at this height: by `ask` if it is time for that, and otherwise what was told before; nothing if
    /// that is too long ago.
    pub async fn look<F>(&mut self, height: Height, ask: impl FnOnce() -> F) -> Option<Reserve>
    where
        F: Future<Output = Result<Reserve, RpcError>> + Send + 'static,
    {
        self.wait().await;
        if self.is_time(height) {
            let asking = Some(tokio::spawn(ask()));
            self.last = Some(Attempt { at: Instant::now(), height, asking, prompt: false });
            self.wait().await;
        }
        let told = self.told.filter(|(at, _)| at.elapsed() < STALE);
        told.map(|(_, reserve)| reserve)
    }

    fn is_time(&self, height: Height) -> bool {
        self.last.as_ref().is_none_or(|last| {
            let is_new = last.prompt && last.height != height;
            last.asking.is_none() && (is_new || last.at.elapsed() >= AGAIN)
        })
    }

    /// For the answer, if one is under way and has some time left.
    async fn wait(&mut self) {
        let Some(attempt) = &mut self.last else { return };
        let Some(asking) = &mut attempt.asking else { return };
        let left = PATIENCE.saturating_sub(attempt.at.elapsed());
        let ended = tokio::time::timeout(left, asking).await;
        match ended {
            Ok(Ok(Ok(reserve))) => {
                attempt.prompt = attempt.at.elapsed() < PATIENCE;
                self.told = Some((attempt.at, reserve));
            }
            Ok(Ok(Err(error))) => log::debug!("the reserve can't be told: {error}"),
            Ok(Err(error)) => log::error!("the reserve can't be told, please report it as a bug: {error}"),
            Err(_) => {
                log::debug!("lightningd takes long to say what the wallet has");
                return;
            }
        }
        attempt.asking = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use factory_engine::fees::ExitCoins;
    use factory_engine::types::Amount;
    use tokio::sync::oneshot;

    fn of(sat: u64) -> Reserve {
        let (wallet, nothing) = (Amount::from_sat(sat), Amount::ZERO);
        let coins = ExitCoins::default();
        Reserve { feerate: 253, needed: nothing, channels: nothing, coins, wallet, kept: nothing, ready: 0 }
    }

    /// What a look gives, in satoshi, and whether lightningd was asked.
    async fn look<F>(wallet: &mut Wallet, height: Height, answer: F) -> (Option<u64>, bool)
    where
        F: Future<Output = Result<Reserve, RpcError>> + Send + 'static,
    {
        let asked = Cell::new(false);
        let ask = || {
            asked.set(true);
            answer
        };
        let seen = wallet.look(height, ask).await;
        (seen.map(|reserve| reserve.wallet.to_sat()), asked.get())
    }

    async fn told(sat: u64) -> Result<Reserve, RpcError> {
        Ok(of(sat))
    }

    async fn refused() -> Result<Reserve, RpcError> {
        Err(RpcError::from(factory_engine::Refusal::Stopping))
    }

    fn age(wallet: &mut Wallet, by: Duration) {
        if let Some(last) = &mut wallet.last {
            last.at -= by;
        }
        if let Some((at, _)) = &mut wallet.told {
            *at -= by;
        }
    }

    #[tokio::test]
    async fn once_a_block_and_once_a_minute() {
        let mut wallet = Wallet::default();
        assert_eq!(look(&mut wallet, 100, told(1)).await, (Some(1), true));
        assert_eq!(look(&mut wallet, 100, told(2)).await, (Some(1), false));
        assert_eq!(look(&mut wallet, 101, told(3)).await, (Some(3), true));
        age(&mut wallet, AGAIN);
        assert_eq!(look(&mut wallet, 101, told(4)).await, (Some(4), true));
    }

    #[tokio::test]
    async fn what_fails_is_not_tried_at_once_and_what_is_old_is_not_shown() {
        let mut wallet = Wallet::default();
        assert_eq!(look(&mut wallet, 100, told(1)).await, (Some(1), true));
        assert_eq!(look(&mut wallet, 101, refused()).await, (Some(1), true));
        assert_eq!(look(&mut wallet, 101, told(2)).await, (Some(1), false));
        assert_eq!(look(&mut wallet, 102, told(2)).await, (Some(1), false));
        age(&mut wallet, STALE);
        assert_eq!(look(&mut wallet, 102, refused()).await, (None, true));
        assert_eq!(look(&mut wallet, 102, told(2)).await, (None, false));
    }

    /// As long as lightningd has not answered it isn't asked again, and what it says then counts.
    #[tokio::test]
    async fn one_question_at_a_time() {
        let mut wallet = Wallet::default();
        let (answer, later) = oneshot::channel::<u64>();
        let slow = async move { Ok(of(later.await.unwrap_or_default())) };
        // The page doesn't wait for it to the end.
        let page = tokio::time::timeout(Duration::ZERO, look(&mut wallet, 100, slow));
        assert!(page.await.is_err());
        age(&mut wallet, AGAIN);
        assert_eq!(look(&mut wallet, 101, told(2)).await, (None, false));
        answer.send(7).unwrap();
        let is_asking = |wallet: &Wallet| {
            let asking = wallet.last.as_ref().and_then(|last| last.asking.as_ref());
            asking.is_some_and(|asking| !asking.is_finished())
        };
        while is_asking(&wallet) {
            tokio::task::yield_now().await;
        }
        // It is taken, and as it is older than a minute another one follows.
        assert_eq!(look(&mut wallet, 101, refused()).await, (Some(7), true));
        assert_eq!(look(&mut wallet, 102, told(2)).await, (Some(7), false));
    }
}
