//! bitcoind itself, where the operator gives access: packages of a parent and its child, and what it says of fees.
//! lightningd's own backend knows no packages. Without access everything else goes on.
//!
//! By default with what lightningd's own options say (`bitcoin-rpcuser`, `bitcoin-datadir`, …).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Transaction;
use factory_engine::io::fees::{Feerates, Refused};
use factory_engine::io::sources::{self, LAST_BLOCKS, LOWEST, Source, Took};
use jsonrpc::simple_http::SimpleHttpTransport;
use serde_json::{Value, json};

use super::sent::refused;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Blocks to a confirmation and bitcoind's mode, as lightningd's backend asks.
const TARGETS: [(u32, &str); 4] =
    [(2, "CONSERVATIVE"), (6, "ECONOMICAL"), (12, "ECONOMICAL"), (100, "ECONOMICAL")];
/// Vbytes of a kiloweight.
const PER_KILOWEIGHT: u64 = 250;
/// bitcoind has no such command.
const METHOD_NOT_FOUND: i32 = -32601;

/// The way to bitcoind, if there is one. A cheap clone.
#[derive(Clone, Default)]
pub struct Bitcoind(Option<Arc<Access>>);

#[derive(PartialEq, Eq)]
struct Access {
    /// Host and port.
    address: String,
    auth: Auth,
    /// Whether the operator asked for it: then it is a fault if it doesn't work.
    wanted: bool,
}

#[derive(PartialEq, Eq)]
enum Auth {
    User(String, String),
    /// A file that bitcoind writes at each of its starts.
    Cookie(PathBuf),
}

/// What bitcoind, or the way to it, said instead of a result.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    code: Option<i32>,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Bitcoind {
    /// What the option `factory-bitcoin-rpc` says: `auto`, `off`, or `[user:password@]host:port`. What it
    /// leaves open is lightningd's (`configs`, of `listconfigs`), and then bitcoind's usual.
    ///
    /// # Errors
    /// When the option can't be read.
    pub fn locate(option: &str, configs: &Value, network: &str, home: Option<&Path>) -> Result<Self, String> {
        let text = |name: &str| configs[name]["value_str"].as_str().map(str::to_owned);
        let (auth, address) = match option {
            "off" => return Ok(Self(None)),
            "auto" => (None, None),
            option => match option.rsplit_once('@') {
                Some((auth, address)) => (Some(auth), Some(address)),
                None => (None, Some(option)),
            },
        };
        let wrong = |what: &str| {
            format!("factory-bitcoin-rpc: expected auto, off or [user:password@]host:port, {what}")
        };
        let address = match address {
            Some(address) => {
                let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                port.ok_or_else(|| wrong(&format!("got no port in '{address}'")))?;
                address.to_owned()
            }
            None => {
                let host = text("bitcoin-rpcconnect").unwrap_or_else(|| "127.0.0.1".to_owned());
                let port = &configs["bitcoin-rpcport"];
                let port = port["value_int"].as_u64().map(|port| port.to_string());
                let port =
                    port.or_else(|| text("bitcoin-rpcport")).unwrap_or_else(|| usual(network).0.to_owned());
                format!("{host}:{port}")
            }
        };
        let own = text("bitcoin-rpcuser").zip(text("bitcoin-rpcpassword"));
        let auth = match (auth, own) {
            (Some(auth), _) => {
                let (user, password) =
                    auth.split_once(':').ok_or_else(|| wrong("got a user without a password"))?;
                Auth::User(user.to_owned(), password.to_owned())
            }
            (None, Some((user, password))) => Auth::User(user, password),
            (None, None) => {
                let datadir = text("bitcoin-datadir").map(PathBuf::from);
                let Some(datadir) = datadir.or_else(|| Some(home?.join(".bitcoin"))) else {
                    return Ok(Self(None));
                };
                Auth::Cookie(datadir.join(usual(network).1).join(".cookie"))
            }
        };
        Ok(Self(Some(Arc::new(Access { address, auth, wanted: option != "auto" }))))
    }

    /// Whether there is a way at all.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// For `factory-status`: where it is, and why it can't be used, if so; and whether that was asked for.
    pub async fn look(&self) -> (Value, Option<String>) {
        let Some(access) = &self.0 else { return (json!({"packages": false}), None) };
        let mut answer = json!({"address": access.address, "packages": true});
        // Its help is all that a call without a package gives.
        let problem = match self.call("submitpackage", json!([])).await {
            Err(failure) if failure.code == Some(METHOD_NOT_FOUND) => {
                Some("it is too old for packages".to_owned())
            }
            Err(failure) if failure.code.is_none() => Some(failure.message),
            _ => None,
        };
        if let Some(problem) = &problem {
            answer["packages"] = false.into();
            answer["problem"] = problem.as_str().into();
        }
        (answer, problem.filter(|_| access.wanted))
    }

    /// Hands over a parent together with the child that pays for both.
    ///
    /// # Errors
    /// Why it is not taken.
    pub async fn submit(&self, parent: &Transaction, child: &Transaction) -> Result<(), Refused> {
        let hex = |tx| bitcoin::consensus::encode::serialize_hex(tx);
        // No limit of bitcoind's own on the fee: it is what is at stake (S26).
        let params = json!([[hex(parent), hex(child)], 0]);
        match self.call("submitpackage", params).await {
            Ok(answer) => outcome(&answer, parent, child),
            Err(failure) if failure.code.is_none() => Err(Refused::Backend(failure.message)),
            Err(failure) => refused(&failure.message).map_or(Ok(()), Err),
        }
    }

    /// What its mempool asks for at least and what it thinks a confirmation takes; and what the last blocks took.
    pub async fn feerates(&self) -> Vec<(Source, Feerates)> {
        if self.0.is_none() {
            return vec![];
        }
        let mempool = self.call("getmempoolinfo", json!([])).await;
        let mempool = mempool.inspect_err(|failure| log::debug!("cannot ask bitcoind for fees: {failure}"));
        let floors = ["mempoolminfee", "minrelaytxfee"]
            .map(|name| mempool.as_ref().ok().and_then(|mempool| per_kw(&mempool[name])));
        let Some(floor) = floors.into_iter().flatten().max() else { return vec![] };
        let more = async { (self.estimates().await, sources::of_blocks(&self.last_blocks().await)) };
        // HTLCs wait for it: one that has become slow is not asked for long.
        let (estimates, blocks) = tokio::time::timeout(PATIENCE, more).await.unwrap_or_default();
        let own = (Source::Bitcoind, Feerates { floor, estimates });
        [Some(own), blocks.map(|blocks| (Source::Blocks, blocks))].into_iter().flatten().collect()
    }

    async fn estimates(&self) -> BTreeMap<u32, u32> {
        let mut estimates = BTreeMap::new();
        for (blocks, mode) in TARGETS {
            let Ok(answer) = self.call("estimatesmartfee", json!([blocks, mode])).await else { continue };
            let feerate = per_kw(&answer["feerate"]).map(|feerate| feerate.max(LOWEST));
            estimates.extend(feerate.map(|feerate| (blocks, feerate)));
        }
        estimates
    }

    /// What the last blocks took, the newest first, up to the first that had room. A node that has pruned what one
    /// spent doesn't know.
    async fn last_blocks(&self) -> Vec<Took> {
        let mut blocks = vec![];
        let tip = self.call("getblockcount", json!([])).await;
        let Some(tip) = tip.ok().and_then(|tip| tip.as_u64()) else { return blocks };
        for height in (0..LAST_BLOCKS).filter_map(|before| tip.checked_sub(before)) {
            let what = json!([height, ["feerate_percentiles", "total_weight"]]);
            let stats = self.call("getblockstats", what).await;
            let Some(took) = stats.ok().as_ref().and_then(took) else { break };
            blocks.push(took);
            if !took.is_full() {
                break;
            }
        }
        blocks
    }

    /// Whether it has a block of its chain and not its header alone; nothing if it can't be asked.
    pub async fn has_block(&self, height: u32) -> Option<bool> {
        let hash = self.call("getblockhash", json!([height])).await.ok()?;
        match self.call("getblock", json!([hash, 0])).await {
            Ok(_) => Some(true),
            // With a code it is bitcoind's own answer.
            Err(failure) => failure.code.map(|_| false),
        }
    }

    async fn call(&self, method: &'static str, params: Value) -> Result<Value, Failure> {
        let Some(access) = self.0.clone() else {
            return Err(Failure { code: None, message: "there is no access to bitcoind".to_owned() });
        };
        // Its HTTP client blocks.
        let called = tokio::task::spawn_blocking(move || access.call(method, &params)).await;
        called.unwrap_or_else(|error| Err(Failure { code: None, message: error.to_string() }))
    }
}

impl Access {
    fn call(&self, method: &str, params: &Value) -> Result<Value, Failure> {
        let failure = |message: String| Failure { code: None, message: format!("{method}: {message}") };
        let transport = SimpleHttpTransport::builder().timeout(PATIENCE).url(&self.address);
        let transport = transport.map_err(|error| failure(error.to_string()))?;
        let transport = match &self.auth {
            Auth::User(user, password) => transport.auth(user, Some(password)),
            Auth::Cookie(path) => {
                let cookie = std::fs::read_to_string(path);
                let cookie = cookie.map_err(|error| failure(format!("{}: {error}", path.display())))?;
                transport.cookie_auth(cookie.trim())
            }
        };
        let client = jsonrpc::Client::with_transport(transport.build());
        client.call(method, Some(&jsonrpc::arg(params))).map_err(|error| match error {
            jsonrpc::Error::Rpc(error) => Failure { code: Some(error.code), message: error.message },
            error => failure(error.to_string()),
        })
    }
}

/// bitcoind's port, and the folder of its cookie below its data, in each network.
fn usual(network: &str) -> (&'static str, &'static str) {
    match network {
        "testnet" => ("18332", "testnet3"),
        "testnet4" => ("48332", "testnet4"),
        "signet" => ("38332", "signet"),
        "regtest" => ("18443", "regtest"),
        _ => ("8332", ""),
    }
}

/// What a feerate in BTC/kvB is in sat/kw. Proxies that keep every digit quote it; lightningd reads it either way, too.
fn per_kw(btc: &Value) -> Option<u32> {
    let btc = btc.as_f64().or_else(|| btc.as_str()?.parse().ok())?;
    let sat = bitcoin::Amount::from_btc(btc).ok()?.to_sat();
    Some(u32::try_from(sat.div_ceil(4)).unwrap_or(u32::MAX))
}

/// Of what bitcoind says of a block. Its feerates are in sat/vB, of tenths and quarters of the block's weight.
fn took(stats: &Value) -> Option<Took> {
    let quarter = stats["feerate_percentiles"][1].as_u64()?.saturating_mul(PER_KILOWEIGHT);
    let quarter = u32::try_from(quarter).unwrap_or(u32::MAX);
    Some(Took { weight: stats["total_weight"].as_u64()?, quarter })
}

/// What became of a package of two. The child's own error says more, unless it lacks its parent.
fn outcome(answer: &Value, parent: &Transaction, child: &Transaction) -> Result<(), Refused> {
    if answer["package_msg"] == "success" {
        return Ok(());
    }
    let of = |tx: &Transaction| {
        answer["tx-results"][tx.compute_wtxid().to_string()]["error"].as_str().and_then(refused)
    };
    let unclear = |refused: &Refused| matches!(refused, Refused::MissingInputs | Refused::Other(_));
    let (child, parent) = (of(child), of(parent));
    let said = child.clone().filter(|refused| !unclear(refused)).or(parent).or(child);
    let whole = || refused(answer["package_msg"].as_str().unwrap_or_default());
    said.or_else(whole).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(option: &str, configs: &Value) -> Access {
        let found = Bitcoind::locate(option, configs, "regtest", Some(Path::new("/home/op"))).unwrap();
        Arc::into_inner(found.0.unwrap()).unwrap()
    }

    #[test]
    fn what_lightningds_options_say_is_the_default() {
        let usual = located("auto", &json!({}));
        assert_eq!(usual.address, "127.0.0.1:18443");
        assert!(usual.auth == Auth::Cookie("/home/op/.bitcoin/regtest/.cookie".into()) && !usual.wanted);
        let configs = json!({
            "bitcoin-rpcuser": {"value_str": "u"}, "bitcoin-rpcpassword": {"value_str": "p"},
            "bitcoin-rpcconnect": {"value_str": "node"}, "bitcoin-rpcport": {"value_int": 99},
        });
        let own = located("auto", &configs);
        assert_eq!(own.address, "node:99");
        assert!(own.auth == Auth::User("u".into(), "p".into()));
        let other = located("a:b:c@10.0.0.1:7", &configs);
        assert_eq!(other.address, "10.0.0.1:7");
        assert!(other.auth == Auth::User("a".into(), "b:c".into()) && other.wanted);
        let cookie = located("10.0.0.1:7", &json!({"bitcoin-datadir": {"value_str": "/d"}}));
        assert!(cookie.auth == Auth::Cookie("/d/regtest/.cookie".into()));
        let at = |option| Bitcoind::locate(option, &json!({}), "bitcoin", None);
        assert!(!at("off").unwrap().is_there() && !at("auto").unwrap().is_there());
        for bad in ["localhost", "", "user@host:1", "host:70000"] {
            let error = at(bad).err().unwrap();
            assert!(error.contains("factory-bitcoin-rpc") && error.contains("auto, off"), "{bad}: {error}");
        }
    }

    #[test]
    fn feerates_in_btc() {
        assert_eq!(per_kw(&json!(0.00001)), Some(250));
        assert_eq!(per_kw(&json!(0.0005)), Some(12_500));
        assert_eq!(per_kw(&json!("0.00050000")), Some(12_500));
        assert_eq!(per_kw(&json!(null)), None);
    }

    // S26
    #[test]
    fn what_a_block_took() {
        let stats = json!({"feerate_percentiles": [1, 7, 9, 30, 120], "total_weight": 3_991_234});
        assert_eq!(took(&stats), Some(Took { weight: 3_991_234, quarter: 1_750 }));
        // Nothing but its reward, and one that isn't known any more.
        let empty = json!({"feerate_percentiles": [0, 0, 0, 0, 0], "total_weight": 0});
        assert_eq!(took(&empty), Some(Took { weight: 0, quarter: 0 }));
        assert_eq!(took(&json!(null)), None);
    }

    /// What Bitcoin Knots 29 answers to `submitpackage`.
    #[test]
    fn packages() {
        let tx = |lock| Transaction {
            version: bitcoin::transaction::Version(3),
            lock_time: bitcoin::absolute::LockTime::from_consensus(lock),
            input: vec![],
            output: vec![],
        };
        let (parent, child) = (tx(1), tx(2));
        let answer = |parent_error: &str, child_error: &str| {
            let mut results = serde_json::Map::new();
            results.insert(parent.compute_wtxid().to_string(), json!({"error": parent_error}));
            results.insert(child.compute_wtxid().to_string(), json!({"error": child_error}));
            json!({"package_msg": "transaction failed", "tx-results": results})
        };
        let told = |parent_error, child_error| outcome(&answer(parent_error, child_error), &parent, &child);
        assert_eq!(outcome(&json!({"package_msg": "success"}), &parent, &child), Ok(()));
        let low = "mempool min fee not met, 110 < 543";
        assert_eq!(told(low, "bad-txns-inputs-missingorspent"), Err(Refused::FeeTooLow(low.into())));
        let spent = told("bad-txns-inputs-missingorspent", "bad-txns-inputs-missingorspent");
        assert_eq!(spent, Err(Refused::MissingInputs));
        let unclear = json!({"package_msg": "package-not-child-with-unconfirmed-parents"});
        assert!(matches!(outcome(&unclear, &parent, &child), Err(Refused::Other(_))));
    }
}
