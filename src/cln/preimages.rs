//! Whether a received HTLC that lightningd removes is fulfilled or failed. `listpeerchannels` says of both
//! `SENT_REMOVE_HTLC` and the states after it; the difference is in lightningd's database alone.
//!
//! Once both sides' commitments are without it (`SENT_REMOVE_ACK_REVOCATION`), lightningd wipes how it ended. So of
//! one that ends between the listing and the look at the database neither is told, and its state is read, too.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use factory_engine::types::ChannelId;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::funding_script::Database;
use super::htlcs::Incoming;

/// lightningd holds its lock for milliseconds at a time.
const PATIENCE: Duration = Duration::from_secs(5);

/// lightningd's `SENT_REMOVE_ACK_REVOCATION`, as it is stored: its numbers never change (`common/htlc_state.h`).
const OVER: u32 = 19;

/// Those of these HTLCs of which nothing is to be claimed: lightningd has failed them and has no preimage, or
/// neither side's commitment has them any more. Of whatever the database doesn't tell, the preimage is taken
/// to be known: to leave in vain costs fees, and not to leave the HTLC.
pub async fn nothing_to_claim(database: Database, removing: Vec<Incoming>) -> HashSet<Incoming> {
    let Some(path) = database.path().map(Path::to_owned).filter(|_| !removing.is_empty()) else {
        return HashSet::new();
    };
    let read = tokio::task::spawn_blocking(move || read(&path, &removing)).await;
    match read {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            log::warn!("which HTLCs have failed is not known: {error}");
            HashSet::new()
        }
        Err(error) => {
            log::warn!("which HTLCs have failed is not known: {error}");
            HashSet::new()
        }
    }
}

fn read(path: &Path, removing: &[Incoming]) -> Result<HashSet<Incoming>, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    database.busy_timeout(PATIENCE)?;
    let mut query = database.prepare(
        "SELECT h.hstate = ?3 OR \
             (h.payment_key IS NULL AND (h.failuremsg IS NOT NULL OR IFNULL(h.malformed_onion, 0) != 0)) \
         FROM channel_htlcs h JOIN channels c ON h.channel_id = c.id \
         WHERE c.full_channel_id = ?1 AND h.direction = 0 AND h.channel_htlc_id = ?2",
    )?;
    let mut found = HashSet::new();
    for (ChannelId(channel), id) in removing.iter().copied() {
        let known =
            query.query_row((channel.as_slice(), id, OVER), |row| row.get::<_, bool>(0)).optional()?;
        if known == Some(true) {
            found.insert((ChannelId(channel), id));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    // S35
    #[test]
    fn failed_and_fulfilled_are_told_apart() {
        let directory = std::env::temp_dir().join(format!("cln-factory-preimages-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("lightningd.sqlite3");
        let database = Connection::open(&path).unwrap();
        database
            .execute_batch(
                "CREATE TABLE channels (id INTEGER, full_channel_id BLOB);
                 CREATE TABLE channel_htlcs (channel_id INTEGER, channel_htlc_id INTEGER, direction INTEGER,
                     payment_key BLOB, failuremsg BLOB, malformed_onion INTEGER, hstate INTEGER);
                 INSERT INTO channels VALUES (5, zeroblob(32));
                 INSERT INTO channel_htlcs VALUES
                     (5, 0, 0, x'11', NULL, 0, 18), (5, 1, 0, NULL, x'22', 0, 15), (5, 2, 0, NULL, NULL, 4, 18),
                     (5, 3, 0, NULL, NULL, NULL, 14), (5, 4, 1, NULL, x'22', 0, 6), (5, 5, 0, NULL, NULL, 0, 18),
                     (5, 6, 0, NULL, NULL, 0, 19), (5, 7, 1, NULL, NULL, 0, 9);",
            )
            .unwrap();
        let channel = ChannelId([0; 32]);
        let asked: Vec<Incoming> = (0..9).map(|id| (channel, id)).collect();
        let found = read(&path, &asked).unwrap();
        // Not of an offered one, of one without any end, or of one that isn't there; but of one that neither side
        // has any more, of which lightningd has wiped how it ended.
        assert_eq!(found, HashSet::from([(channel, 1), (channel, 2), (channel, 6)]));
        assert!(read(&path, &[(ChannelId([1; 32]), 1)]).unwrap().is_empty());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
