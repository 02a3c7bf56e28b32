//! lightningd's own database, which is read and never written: in SQLite, or in PostgreSQL by the very DSN that
//! lightningd has (`wallet`). Nobody else knows which of the two it is.
//!
//! What can't be read is refused with what to do. Such a refusal is stored and goes to the operator, so it names no
//! address, role or path; those are in this node's log. The password is in neither (S7).

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use factory_engine::types::ChannelId;
use serde_json::Value as Json;
use tokio::sync::watch;
use zeroize::Zeroizing;

mod dsn;
mod postgres;
mod sqlite;

/// lightningd holds a lock for milliseconds at a time.
const BUSY: Duration = Duration::from_secs(5);
/// What a server has for all of it, from the look-up of its name to the last answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The DSN of another server than a file.
const POSTGRES: &str = "postgres://";

/// A channel's funding, by its full id.
const FUNDING: &str = "SELECT funding_tx_id, funding_tx_outnum, funding_satoshi, \
     funding_pubkey_local, fundingkey_remote \
     FROM channels WHERE full_channel_id = $1";

/// A received HTLC, by its channel and its number in it, if there is nothing to claim of it. 19 is lightningd's
/// `SENT_REMOVE_ACK_REVOCATION`, as it is stored: its numbers never change (`common/htlc_state.h`). A peer that opens a
/// second channel on the output of a first gives both one id: of those nothing is told, or what fails on one of them
/// would be taken for what is to be claimed on the other.
const WITHOUT_CLAIM: &str = "SELECT h.channel_htlc_id \
     FROM channel_htlcs h JOIN channels c ON h.channel_id = c.id \
     WHERE c.full_channel_id = $1 AND h.direction = 0 AND h.channel_htlc_id = $2 \
         AND (SELECT COUNT(*) FROM channels WHERE full_channel_id = $1) = 1 AND (h.hstate = 19 OR \
         (h.payment_key IS NULL AND (h.failuremsg IS NOT NULL OR COALESCE(h.malformed_onion, 0) <> 0)))";

/// Where lightningd keeps its channels, or why we can't look.
#[derive(Clone)]
pub struct WalletDb(Arc<Known>);

struct Known {
    source: Source,
    /// Why the last look failed, if it did.
    trouble: watch::Sender<Option<Unreadable>>,
}

// S7: can't be printed, since a DSN has a password.
enum Source {
    Sqlite(PathBuf),
    Postgres(Zeroizing<String>),
    Other(Unreadable),
}

/// The columns that decide which output a channel spends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Funding {
    /// Of the funding transaction, as it is hashed.
    pub txid: Vec<u8>,
    /// Which of its outputs.
    pub vout: u32,
    /// What it holds.
    pub satoshi: u64,
    /// This node's key, or nothing where lightningd has stored none.
    pub local_key: Vec<u8>,
    /// Its peer's key.
    pub remote_key: Vec<u8>,
}

/// Why lightningd's database can't be read, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// For whomever it concerns.
    what: String,
    /// For this node's log alone.
    detail: String,
}

impl Unreadable {
    fn new(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), detail: detail.into() }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// A statement that both kinds of database understand, and what stands for its `$1`, `$2`. Those come in this order
/// in its text: to SQLite they are names.
struct Query {
    sql: &'static str,
    params: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(i64),
    Bytes(Vec<u8>),
}

/// The columns of a row: nothing for a NULL.
type Row = Vec<Option<Value>>;

impl WalletDb {
    /// From `listconfigs` (its `configs` object) and the node's directory for its network.
    pub fn locate(configs: &Json, network_dir: &Path) -> Self {
        let source = match configs["wallet"]["value_str"].as_str() {
            None => Source::Sqlite(network_dir.join("lightningd.sqlite3")),
            Some(dsn) if dsn.starts_with(POSTGRES) => Source::Postgres(Zeroizing::new(dsn.to_owned())),
            Some(dsn) => match dsn.strip_prefix("sqlite3://") {
                // "sqlite3://main[:backup]": the part after the colon is a copy.
                Some(paths) => {
                    let main = paths.split(':').next().unwrap_or(paths);
                    Source::Sqlite(network_dir.join(main))
                }
                None => {
                    let kind = dsn.split(':').next().unwrap_or(dsn);
                    let what = format!(
                        "lightningd's database is {kind}, and this plugin reads SQLite and PostgreSQL"
                    );
                    Source::Other(Unreadable::new(what, "wallet= says so"))
                }
            },
        };
        Self::at(source)
    }

    fn at(source: Source) -> Self {
        Self(Arc::new(Known { source, trouble: watch::Sender::new(None) }))
    }

    /// Of a plugin that knows nothing of its node yet.
    pub fn unknown() -> Self {
        let what = "it isn't known yet where lightningd's database is";
        Self::at(Source::Other(Unreadable::new(what, "the plugin hasn't started")))
    }

    /// A channel's funding as lightningd has stored it; nothing if it has no such channel (yet).
    ///
    /// # Errors
    /// Why the database can't be read.
    pub async fn funding(&self, channel: ChannelId) -> Result<Option<Funding>, Unreadable> {
        let row = self.ask(vec![funding_of(channel)]).await?.into_iter().next().flatten();
        row.map(|row| read_funding(row).ok_or_else(|| strange("channels"))).transpose()
    }

    /// Those of these received HTLCs of which nothing is to be claimed: lightningd has failed them and has no
    /// preimage, or neither side's commitment has them any more.
    ///
    /// # Errors
    /// Why the database can't be read.
    pub async fn without_claim(
        &self,
        htlcs: &[(ChannelId, u64)],
    ) -> Result<HashSet<(ChannelId, u64)>, Unreadable> {
        let asked: Vec<(ChannelId, u64, Query)> = htlcs
            .iter()
            .filter_map(|(channel, id)| {
                Some((*channel, *id, without_claim(*channel, i64::try_from(*id).ok()?)))
            })
            .collect();
        let (names, queries): (Vec<_>, Vec<_>) =
            asked.into_iter().map(|(channel, id, query)| ((channel, id), query)).unzip();
        let found = self.ask(queries).await?;
        Ok(names.into_iter().zip(found).filter(|(_, row)| row.is_some()).map(|(name, _)| name).collect())
    }

    /// Whether all of it that is ever asked for can be read.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn look(&self) -> Result<(), Unreadable> {
        let none = ChannelId([0; 32]);
        self.ask(vec![funding_of(none), without_claim(none, 0)]).await.map(drop)
    }

    /// Why it can't be read, if the last look failed and another one does, too.
    pub async fn trouble(&self) -> Option<Unreadable> {
        let failed = self.0.trouble.borrow().is_some();
        if failed { self.look().await.err() } else { None }
    }

    /// The first row of each, or nothing where there is none.
    async fn ask(&self, queries: Vec<Query>) -> Result<Vec<Option<Row>>, Unreadable> {
        let found = match &self.0.source {
            Source::Sqlite(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || sqlite::ask(&path, &queries)).await.unwrap_or_else(
                    |error| Err(Unreadable::new("the plugin's look at it failed", error.to_string())),
                )
            }
            Source::Postgres(dsn) => postgres::ask(dsn.clone(), &queries).await,
            Source::Other(reason) => Err(reason.clone()),
        };
        let trouble = found.as_ref().err().cloned();
        let before = self.0.trouble.send_replace(trouble.clone());
        match &trouble {
            Some(reason) if trouble != before => {
                log::warn!("lightningd's database can't be read: {reason} [{}]", reason.detail);
            }
            None if before.is_some() => log::info!("lightningd's database can be read again"),
            _ => {}
        }
        found
    }
}

fn funding_of(channel: ChannelId) -> Query {
    Query { sql: FUNDING, params: vec![Value::Bytes(channel.0.to_vec())] }
}

fn without_claim(channel: ChannelId, id: i64) -> Query {
    Query { sql: WITHOUT_CLAIM, params: vec![Value::Bytes(channel.0.to_vec()), Value::Number(id)] }
}

fn read_funding(row: Row) -> Option<Funding> {
    let mut cells = row.into_iter();
    let mut next = || cells.next();
    Some(Funding {
        txid: bytes(next()?)?,
        vout: number(next()?)?.try_into().ok()?,
        satoshi: number(next()?)?.try_into().ok()?,
        local_key: bytes(next()?)?,
        remote_key: bytes(next()?)?,
    })
}

fn bytes(cell: Option<Value>) -> Option<Vec<u8>> {
    match cell {
        None => Some(vec![]),
        Some(Value::Bytes(bytes)) => Some(bytes),
        Some(Value::Number(_)) => None,
    }
}

fn number(cell: Option<Value>) -> Option<i64> {
    match cell {
        Some(Value::Number(number)) => Some(number),
        None | Some(Value::Bytes(_)) => None,
    }
}

fn strange(table: &str) -> Unreadable {
    Unreadable::new(
        "lightningd's database isn't laid out as this plugin knows it: use the lightningd version that \
         docs/install.md names",
        format!("a row of {table} has values of other kinds"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use serde_json::json;

    fn of(dsn: &str) -> WalletDb {
        WalletDb::locate(&json!({"wallet": {"value_str": dsn}}), Path::new("/nowhere"))
    }

    // S18
    #[tokio::test]
    async fn each_dsn_leads_to_its_database_or_to_a_reason() {
        let path = |database: &WalletDb| match &database.0.source {
            Source::Sqlite(path) => path.display().to_string(),
            _ => "not SQLite".to_owned(),
        };
        assert_eq!(path(&WalletDb::locate(&json!({}), Path::new("/n"))), "/n/lightningd.sqlite3");
        assert_eq!(path(&of("sqlite3:///main.db:/backup.db")), "/main.db");
        assert_eq!(path(&of("sqlite3://main.db")), "/nowhere/main.db");
        assert!(matches!(&of("postgres://user@host/db").0.source, Source::Postgres(_)));
        let other = of("oracle://user:hunter2@host/db").look().await.unwrap_err();
        assert!(other.to_string().contains("is oracle"), "{other}");
        assert!(!format!("{other:?}").contains("hunter2"), "{other:?}");
        WalletDb::unknown().look().await.unwrap_err();
    }

    // S7, S18
    #[tokio::test]
    async fn a_refusal_names_no_place_and_the_log_has_it() {
        let missing = WalletDb::locate(&json!({}), Path::new("/nowhere"));
        let refused = missing.funding(ChannelId([9; 32])).await.unwrap_err();
        assert!(!refused.to_string().contains("/nowhere"), "{refused}");
        assert!(refused.detail.contains("/nowhere/lightningd.sqlite3"), "{refused:?}");
    }

    #[tokio::test]
    async fn a_trouble_goes_when_it_is_mended() {
        let scratch = Scratch::new();
        let database = WalletDb::locate(&json!({}), scratch.path());
        assert_eq!(database.trouble().await, None, "nobody has looked");
        let reason = database.look().await.unwrap_err();
        assert_eq!(database.trouble().await, Some(reason));
        rusqlite::Connection::open(scratch.path().join("lightningd.sqlite3"))
            .unwrap()
            .execute_batch(
                "CREATE TABLE channels (id INTEGER, full_channel_id BLOB, funding_tx_id BLOB,
                     funding_tx_outnum INTEGER, funding_satoshi BIGINT, funding_pubkey_local BLOB, fundingkey_remote BLOB);
                 CREATE TABLE channel_htlcs (channel_id INTEGER, channel_htlc_id INTEGER, direction INTEGER,
                     payment_key BLOB, failuremsg BLOB, malformed_onion INTEGER, hstate INTEGER);",
            )
            .unwrap();
        assert_eq!(database.trouble().await, None);
        database.look().await.unwrap();
    }

    #[test]
    fn a_row_of_other_kinds_is_no_funding() {
        let row = |vout| {
            vec![
                Some(Value::Bytes(vec![7; 32])),
                vout,
                Some(Value::Number(500_000)),
                None,
                Some(Value::Bytes(vec![2; 33])),
            ]
        };
        let read = read_funding(row(Some(Value::Number(1)))).unwrap();
        assert_eq!((read.vout, read.satoshi, read.local_key.len()), (1, 500_000, 0));
        for vout in [None, Some(Value::Number(-1)), Some(Value::Bytes(vec![1]))] {
            assert_eq!(read_funding(row(vout)), None);
        }
        assert_eq!(read_funding(vec![]), None);
    }
}
