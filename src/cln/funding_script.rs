//! Does lightningd's channel really have the leaf's output as its funding (S18)?
//!
//! No command and no hook of stock lightningd shows a fundee the funding keys of its channel, so a
//! client could be led to rely on a channel whose output pays somebody else. lightningd's database
//! has both keys as soon as the channel is committed.

use bitcoin::hashes::Hash;
use bitcoin::opcodes::all::{OP_CHECKMULTISIG, OP_PUSHNUM_2};
use bitcoin::script::Builder;
use bitcoin::{PublicKey, ScriptBuf, TxOut};
use factory_engine::CheckFailure;
use factory_engine::types::{ChannelId, OutPoint, Txid};

use super::wallet_db::{Funding, WalletDb};

/// Compares lightningd's record of a channel with the output that pays it.
///
/// # Errors
/// What is wrong; [`CheckFailure::NotYet`] while lightningd has no such channel.
pub async fn check(
    database: &WalletDb,
    channel: ChannelId,
    outpoint: OutPoint,
    output: &TxOut,
) -> Result<(), CheckFailure> {
    let found = database.funding(channel).await;
    let found = found.map_err(|reason| CheckFailure::Unavailable(reason.to_string()))?;
    compare(&found.ok_or(CheckFailure::NotYet)?, outpoint, output)
}

fn compare(recorded: &Funding, outpoint: OutPoint, output: &TxOut) -> Result<(), CheckFailure> {
    let mismatch = |text: String| Err(CheckFailure::Mismatch(text));
    let Ok(txid) = Txid::from_slice(&recorded.txid) else {
        return Err(CheckFailure::Unavailable("funding_tx_id is not a txid".to_owned()));
    };
    let spends = OutPoint { txid, vout: recorded.vout };
    if spends != outpoint {
        return mismatch(format!("the channel spends {spends}, our leaf is {outpoint}"));
    }
    if recorded.satoshi != output.value.to_sat() {
        return mismatch(format!(
            "the channel holds {} sat, our leaf {} sat",
            recorded.satoshi,
            output.value.to_sat()
        ));
    }
    let script = match (key(&recorded.local_key), key(&recorded.remote_key)) {
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
    use rusqlite::Connection;
    use serde_json::json;
    use std::path::Path;

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

    fn database(scratch: &Scratch, local: &str) -> (WalletDb, ChannelId) {
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
        (WalletDb::locate(&configs, Path::new("/nowhere")), channel)
    }

    #[test]
    fn bolt3_vector_in_either_order() {
        let (local, remote) = (LOCAL.parse().unwrap(), REMOTE.parse().unwrap());
        assert_eq!(funding_script(local, remote), output().script_pubkey);
        assert_eq!(funding_script(remote, local), output().script_pubkey);
    }

    // S18
    #[tokio::test]
    async fn a_true_record_passes_and_any_difference_is_named() {
        let scratch = Scratch::new();
        let (database, channel) = database(&scratch, LOCAL);
        assert_eq!(check(&database, channel, outpoint(), &output()).await, Ok(()));

        let other = OutPoint { vout: 2, ..outpoint() };
        let result = check(&database, channel, other, &output()).await;
        assert!(matches!(result, Err(CheckFailure::Mismatch(_))));

        let mut less = output();
        less.value -= Amount::ONE_SAT;
        let result = check(&database, channel, outpoint(), &less).await;
        assert!(matches!(result, Err(CheckFailure::Mismatch(_))));

        let unknown = ChannelId([9; 32]);
        assert_eq!(check(&database, unknown, outpoint(), &output()).await, Err(CheckFailure::NotYet));
    }

    // S18
    #[tokio::test]
    async fn a_foreign_key_is_a_mismatch() {
        let scratch = Scratch::new();
        let (database, channel) = database(&scratch, REMOTE);
        let result = check(&database, channel, outpoint(), &output()).await;
        assert!(matches!(result, Err(CheckFailure::Mismatch(text)) if text.contains("funding script")));
    }

    // S18
    #[tokio::test]
    async fn what_cannot_be_read_is_refused_with_a_reason() {
        let refused = |wallet: serde_json::Value| async move {
            let database = WalletDb::locate(&wallet, Path::new("/nowhere"));
            match check(&database, ChannelId([9; 32]), outpoint(), &output()).await {
                Err(CheckFailure::Unavailable(reason)) => reason,
                other => panic!("{other:?}"),
            }
        };
        let encrypted = json!({"wallet": {"value_str": "postgres://user:hunter2@host/db?sslmode=require"}});
        let reason = refused(encrypted).await;
        assert!(reason.contains("PostgreSQL") && reason.contains("docs/install.md"), "{reason}");
        let reason = refused(json!({"wallet": {"value_str": "oracle://user@host/db"}})).await;
        assert!(reason.contains("oracle"), "{reason}");
        let reason = refused(json!({})).await;
        assert!(reason.contains("can't be read"), "{reason}");
    }
}
