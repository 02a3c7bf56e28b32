//! Does lightningd's channel really have the leaf's output as its funding (S18)?
//!
//! No command and no hook of stock lightningd shows a fundee the funding keys of its channel, so a
//! client could be led to rely on a channel whose output pays somebody else. lightningd's database
//! has both keys as soon as the channel is committed. It is opened read-only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::opcodes::all::{OP_CHECKMULTISIG, OP_PUSHNUM_2};
use bitcoin::script::Builder;
use bitcoin::{PublicKey, ScriptBuf, TxOut};
use factory_engine::CheckFailure;
use factory_engine::types::{ChannelId, OutPoint, Txid};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::Value;

/// Where lightningd keeps its channels, or why we can't look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database(Result<PathBuf, String>);

impl Database {
    /// From `listconfigs` (its `configs` object) and the node's directory for its network.
    pub fn locate(configs: &Value, network_dir: &Path) -> Self {
        let wallet = configs["wallet"]["value_str"].as_str();
        Self(match wallet {
            None => Ok(network_dir.join("lightningd.sqlite3")),
            Some(dsn) => match dsn.strip_prefix("sqlite3://") {
                // "sqlite3://main[:backup]": the part after the colon is a copy.
                Some(paths) => {
                    let main = paths.split(':').next().unwrap_or(paths);
                    Ok(network_dir.join(main))
                }
                None => {
                    let kind = dsn.split(':').next().unwrap_or(dsn);
                    Err(format!(
                        "lightningd's database is {kind}: funding keys can be checked in SQLite only. \
                         An operator who accepts the risk sets factory-unsafe-skip-funding-check"
                    ))
                }
            },
        })
    }

    /// The file, where it is one that we can read.
    pub(super) fn path(&self) -> Option<&Path> {
        self.0.as_deref().ok()
    }

    /// Compares lightningd's record of a channel with the leaf. Blocks on the disk.
    pub fn check(&self, channel: ChannelId, outpoint: OutPoint, output: &TxOut) -> Result<(), CheckFailure> {
        let path = match &self.0 {
            Ok(path) => path,
            Err(reason) => return Err(CheckFailure::Unavailable(reason.clone())),
        };
        let record = read(path, channel)
            .map_err(|error| CheckFailure::Unavailable(format!("cannot read {}: {error}", path.display())))?;
        record.ok_or(CheckFailure::NotYet)?.compare(outpoint, output)
    }
}

/// The columns that decide which output a channel spends.
#[derive(Debug)]
struct Record {
    txid: Vec<u8>,
    vout: u32,
    satoshi: u64,
    local_key: Vec<u8>,
    remote_key: Vec<u8>,
}

fn read(path: &Path, channel: ChannelId) -> Result<Option<Record>, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    // lightningd holds its lock for milliseconds at a time.
    database.busy_timeout(Duration::from_secs(5))?;
    database
        .query_row(
            "SELECT funding_tx_id, funding_tx_outnum, funding_satoshi, \
             funding_pubkey_local, fundingkey_remote \
             FROM channels WHERE full_channel_id = ?1",
            [channel.0.as_slice()],
            |row| {
                Ok(Record {
                    txid: row.get(0)?,
                    vout: row.get(1)?,
                    satoshi: row.get(2)?,
                    local_key: row.get(3)?,
                    remote_key: row.get(4)?,
                })
            },
        )
        .optional()
}

impl Record {
    fn compare(&self, outpoint: OutPoint, output: &TxOut) -> Result<(), CheckFailure> {
        let mismatch = |text: String| Err(CheckFailure::Mismatch(text));
        let Ok(txid) = Txid::from_slice(&self.txid) else {
            return Err(CheckFailure::Unavailable("funding_tx_id is not a txid".to_owned()));
        };
        let recorded = OutPoint { txid, vout: self.vout };
        if recorded != outpoint {
            return mismatch(format!("the channel spends {recorded}, our leaf is {outpoint}"));
        }
        if self.satoshi != output.value.to_sat() {
            return mismatch(format!(
                "the channel holds {} sat, our leaf {} sat",
                self.satoshi,
                output.value.to_sat()
            ));
        }
        let script = match (key(&self.local_key), key(&self.remote_key)) {
            (Some(local), Some(remote)) => funding_script(local, remote),
            _ => return Err(CheckFailure::Unavailable("no funding keys in the record".to_owned())),
        };
        if script != output.script_pubkey {
            return mismatch(format!(
                "the channel's funding script is {script:x}, our leaf pays {:x}",
                output.script_pubkey
            ));
        }
        Ok(())
    }
}

fn key(bytes: &[u8]) -> Option<PublicKey> {
    PublicKey::from_slice(bytes).ok().filter(|key| key.compressed)
}

/// BOLT 3: P2WSH of the 2-of-2 of both funding keys, the lexicographically lesser first.
fn funding_script(one: PublicKey, other: PublicKey) -> ScriptBuf {
    let (first, second) = if one.to_bytes() <= other.to_bytes() { (one, other) } else { (other, one) };
    Builder::new()
        .push_opcode(OP_PUSHNUM_2)
        .push_key(&first)
        .push_key(&second)
        .push_opcode(OP_PUSHNUM_2)
        .push_opcode(OP_CHECKMULTISIG)
        .into_script()
        .to_p2wsh()
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use bitcoin::Amount;
    use serde_json::json;

    const LOCAL: &str = "023da092f6980e58d2c037173180e9a465476026ee50f96695963e8efe436f54eb";
    const REMOTE: &str = "030e9f7b623d2ccc7c9bd44d66d5ce21ce504c0acf6385a132cec6d3c39fa711c1";
    /// BOLT 3, appendix B: the funding output of these two keys.
    const SCRIPT: &str = "0020c015c4a6be010e21657068fc2e6a9d02b27ebe4d490a25846f7237f104d1a3cd";

    fn output() -> TxOut {
        TxOut { value: Amount::from_sat(500_000), script_pubkey: ScriptBuf::from_hex(SCRIPT).unwrap() }
    }

    fn outpoint() -> OutPoint {
        OutPoint { txid: Txid::from_byte_array([7; 32]), vout: 1 }
    }

    fn database(scratch: &Scratch, local: &str) -> (Database, ChannelId) {
        let path = scratch.path().join("lightningd.sqlite3");
        let channel = ChannelId::of(outpoint());
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE channels (full_channel_id BLOB, funding_tx_id BLOB, funding_tx_outnum INTEGER, \
                 funding_satoshi BIGINT, funding_pubkey_local BLOB, fundingkey_remote BLOB)",
            )
            .unwrap();
        let bytes = |hex: &str| hex.parse::<PublicKey>().unwrap().to_bytes();
        connection
            .execute(
                "INSERT INTO channels VALUES (?1, ?2, 1, 500000, ?3, ?4)",
                rusqlite::params![channel.0.as_slice(), [7u8; 32].as_slice(), bytes(local), bytes(REMOTE)],
            )
            .unwrap();
        let configs = json!({"wallet": {"value_str": format!("sqlite3://{}:/backup", path.display())}});
        (Database::locate(&configs, Path::new("/nowhere")), channel)
    }

    #[test]
    fn bolt3_vector_in_either_order() {
        let (local, remote) = (LOCAL.parse().unwrap(), REMOTE.parse().unwrap());
        assert_eq!(funding_script(local, remote), output().script_pubkey);
        assert_eq!(funding_script(remote, local), output().script_pubkey);
    }

    // S18
    #[test]
    fn a_true_record_passes_and_any_difference_is_named() {
        let scratch = Scratch::new();
        let (database, channel) = database(&scratch, LOCAL);
        assert_eq!(database.check(channel, outpoint(), &output()), Ok(()));

        let other = OutPoint { vout: 2, ..outpoint() };
        assert!(matches!(database.check(channel, other, &output()), Err(CheckFailure::Mismatch(_))));

        let mut less = output();
        less.value -= Amount::ONE_SAT;
        assert!(matches!(database.check(channel, outpoint(), &less), Err(CheckFailure::Mismatch(_))));

        let unknown = ChannelId([9; 32]);
        assert_eq!(database.check(unknown, outpoint(), &output()), Err(CheckFailure::NotYet));
    }

    // S18
    #[test]
    fn a_foreign_key_is_a_mismatch() {
        let scratch = Scratch::new();
        let (database, channel) = database(&scratch, REMOTE);
        let result = database.check(channel, outpoint(), &output());
        assert!(matches!(result, Err(CheckFailure::Mismatch(text)) if text.contains("funding script")));
    }

    // S18
    #[test]
    fn what_cannot_be_read_is_refused_with_a_reason() {
        let postgres = json!({"wallet": {"value_str": "postgres://user@host/db"}});
        let database = Database::locate(&postgres, Path::new("/nowhere"));
        let result = database.check(ChannelId([9; 32]), outpoint(), &output());
        assert!(matches!(result, Err(CheckFailure::Unavailable(text)) if text.contains("postgres")));

        let missing = Database::locate(&json!({}), Path::new("/nowhere"));
        let result = missing.check(ChannelId([9; 32]), outpoint(), &output());
        assert!(
            matches!(result, Err(CheckFailure::Unavailable(text)) if text.contains("/nowhere/lightningd.sqlite3"))
        );
    }
}
