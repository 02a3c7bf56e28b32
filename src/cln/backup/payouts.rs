//! Scripts of this node's wallet that its factories pay.
//!
//! A lightningd that begins anew with an old `hsm_secret` has the key to each of them, but sees only what is
//! paid to its first 50 addresses, and to 50 beyond the last that it has given out (`keyscan_gap`). What a
//! node of some years was paid to isn't among them, so it gives out addresses until every script has come up.

use std::collections::BTreeSet;

use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, ScriptBuf};
use factory_engine::{Attempt, Factory, Role};
use serde_json::{Value, json};

use crate::cln::client::{Call, CallError, field};

/// Most addresses that are asked for at once: each is a commit of lightningd's database.
pub const MOST: usize = 10_000;
/// Whoever waits is told after so many how far it is.
const STEP: usize = 100;
/// And the log after so many.
const TELL: usize = 1_000;

/// How far the search for payouts is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Search {
    /// Addresses that were asked for.
    pub addresses: usize,
    /// Scripts that haven't come up yet.
    pub left: usize,
}

/// Scripts that a factory pays this node, whichever attempt is on chain in the end; an operator's is stock.
pub fn of(factory: &Factory) -> impl Iterator<Item = ScriptBuf> {
    let attempts = factory.past().iter().chain([&factory.current]);
    attempts.filter_map(of_attempt).chain(factory.stock_payout.clone())
}

/// A client's, as it was proposed to all; a cooperative close pays the same one.
fn of_attempt(attempt: &Attempt) -> Option<ScriptBuf> {
    let Role::Client { index, .. } = attempt.role else { return None };
    let place = usize::try_from(index).ok()?;
    let (_, payout) = attempt.proposal.as_deref()?.clients.get(place)?;
    Some(payout.clone())
}

/// Has lightningd's wallet see what is paid to these, and tells how far it is. Which of them it doesn't see all the same:
/// another call goes on where this one has stopped, or has been stopped, since lightningd knows what it has given out.
pub async fn learn<C: Call>(
    rpc: &C,
    mut wanted: BTreeSet<ScriptBuf>,
    tell: impl FnMut(Search) + Send,
) -> BTreeSet<ScriptBuf> {
    if let Err(error) = give_out(rpc, &mut wanted, tell).await {
        log::warn!("lightningd's wallet doesn't learn the payouts of restored factories: {error}");
    }
    wanted
}

/// What comes up isn't wanted any more.
async fn give_out<C: Call>(
    rpc: &C,
    wanted: &mut BTreeSet<ScriptBuf>,
    mut tell: impl FnMut(Search) + Send,
) -> Result<(), CallError> {
    if wanted.is_empty() {
        return Ok(());
    }
    // What it has given out already doesn't come up again.
    let listed = rpc.call("listaddresses", json!({})).await?;
    let listed: Vec<Value> = field("listaddresses", &listed, "addresses")?;
    listed.iter().for_each(|address| strike(wanted, address));
    for made in 1..=MOST {
        if wanted.is_empty() {
            return Ok(());
        }
        let before = made.saturating_sub(1);
        if before.is_multiple_of(STEP) {
            tell(Search { addresses: before, left: wanted.len() });
        }
        // Payouts are `p2tr`. Of an address that it gives out as that alone, lightningd would no longer see
        // what an older node was paid to the same key as `bech32`.
        let address = rpc.call("newaddr", json!({"addresstype": "all"})).await?;
        strike(wanted, &address);
        if made.is_multiple_of(TELL) {
            let left = wanted.len();
            log::info!("restored factories: {made} addresses, {left} payout scripts haven't come up yet");
        }
    }
    Ok(())
}

fn strike(wanted: &mut BTreeSet<ScriptBuf>, address: &Value) {
    for kind in ["p2tr", "bech32"] {
        let parsed = address[kind].as_str().and_then(|text| text.parse::<Address<NetworkUnchecked>>().ok());
        if let Some(parsed) = parsed {
            // lightningd made it for its own network.
            wanted.remove(&parsed.assume_checked().script_pubkey());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use bitcoin::Network;

    use super::*;

    /// The script of a wallet's address with this number.
    pub fn script(number: u32) -> ScriptBuf {
        ScriptBuf::from_bytes([vec![0x51, 0x20], number.to_be_bytes().to_vec(), vec![7; 28]].concat())
    }

    /// That address as lightningd gives it out.
    pub fn address(number: u32) -> Value {
        json!({"p2tr": Address::from_script(&script(number), Network::Regtest).unwrap().to_string()})
    }

    /// A wallet that has given out so many addresses, and may give out so many in all.
    #[derive(Clone)]
    struct Wallet(Arc<Mutex<u32>>, u32);

    impl Wallet {
        fn new(given: u32, most: u32) -> Self {
            Self(Arc::new(Mutex::new(given)), most)
        }

        fn given(&self) -> u32 {
            *self.0.lock().unwrap()
        }
    }

    impl Call for Wallet {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            let mut given = self.0.lock().unwrap();
            match method {
                "listaddresses" => Ok(json!({"addresses": (1..=*given).map(address).collect::<Vec<_>>()})),
                "newaddr" if *given < self.1 => {
                    assert_eq!(params, json!({"addresstype": "all"}));
                    *given += 1;
                    Ok(address(*given))
                }
                _ => Err(CallError::new(method, "Keys exhausted")),
            }
        }
    }

    fn scripts<const N: usize>(numbers: [u32; N]) -> BTreeSet<ScriptBuf> {
        numbers.into_iter().map(script).collect()
    }

    /// S39: addresses are given out until the last script has come up, and none for what is known.
    #[tokio::test]
    async fn the_wallet_learns_what_an_older_one_was_paid_to() {
        let wallet = Wallet::new(3, u32::MAX);
        assert_eq!(learn(&wallet, scripts([2, 61]), |_| ()).await, scripts([]));
        assert_eq!(wallet.given(), 61);
        for known in [scripts([]), scripts([1, 40, 61])] {
            assert_eq!(learn(&wallet, known, |_| ()).await, scripts([]));
            assert_eq!(wallet.given(), 61);
        }
    }

    /// One that is somebody else's, or too far away, ends in an answer; the next call goes on from there.
    #[tokio::test]
    async fn the_search_has_an_end() {
        let wallet = Wallet::new(0, u32::MAX);
        let found = learn(&wallet, scripts([5, 10_000, 10_001]), |_| ()).await;
        assert_eq!(found, scripts([10_001]));
        assert_eq!(wallet.given(), 10_000);
        assert_eq!(learn(&wallet, scripts([10_001]), |_| ()).await, scripts([]));
    }

    /// S39: whoever waits is told how far it is; wherever it ends, the next call asks for no address again.
    #[tokio::test]
    async fn a_search_that_was_cut_off_goes_on() {
        let mut told = vec![];
        let mut wallet = Wallet::new(0, 250);
        let wanted = scripts([5, 420]);
        assert_eq!(learn(&wallet, wanted.clone(), |search| told.push(search)).await, scripts([420]));
        let at = |addresses, left| Search { addresses, left };
        assert_eq!(told, [at(0, 2), at(100, 1), at(200, 1)]);
        // The same wallet, which gives out more again.
        wallet.1 = u32::MAX;
        told.clear();
        assert_eq!(learn(&wallet, wanted, |search| told.push(search)).await, scripts([]));
        assert_eq!((told, wallet.given()), (vec![at(0, 1), at(100, 1)], 420));
    }
}
