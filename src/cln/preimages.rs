//! Whether a received HTLC that lightningd removes is fulfilled or failed. `listpeerchannels` says of both
//! `SENT_REMOVE_HTLC` and the states after it; the difference is in lightningd's database alone.
//!
//! Once both sides' commitments are without it (`SENT_REMOVE_ACK_REVOCATION`), lightningd wipes how it ended. So of
//! one that ends between the listing and the look at the database neither is told, and its state is read, too.

use std::collections::HashSet;

use super::htlcs::Incoming;
use super::wallet_db::WalletDb;

/// Those of these HTLCs of which nothing is to be claimed: lightningd has failed them and has no preimage, or
/// neither side's commitment has them any more. Of whatever the database doesn't tell, the preimage is taken
/// to be known: to leave in vain costs fees, and not to leave the HTLC.
pub async fn nothing_to_claim(database: &WalletDb, removing: &[Incoming]) -> HashSet<Incoming> {
    if removing.is_empty() {
        return HashSet::new();
    }
    database.without_claim(removing).await.unwrap_or_else(|reason| {
        log::warn!("which HTLCs have failed is not known, so all are taken to be claimed: {reason}");
        HashSet::new()
    })
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use factory_engine::types::ChannelId;
    use rusqlite::Connection;
    use serde_json::json;

    // S35
    #[tokio::test]
    async fn failed_and_fulfilled_are_told_apart() {
        let scratch = Scratch::new();
        Connection::open(scratch.path().join("lightningd.sqlite3"))
            .unwrap()
            .execute_batch(
                "CREATE TABLE channels (id INTEGER, full_channel_id BLOB);
                 CREATE TABLE channel_htlcs (channel_id INTEGER, channel_htlc_id INTEGER, direction INTEGER,
                     payment_key BLOB, failuremsg BLOB, malformed_onion INTEGER, hstate INTEGER);
                 INSERT INTO channels VALUES (5, zeroblob(32)), (7, CAST('22222222222222222222222222222222' AS BLOB)),
                     (8, CAST('22222222222222222222222222222222' AS BLOB));
                 INSERT INTO channel_htlcs VALUES
                     (5, 0, 0, x'11', NULL, 0, 18), (5, 1, 0, NULL, x'22', 0, 15), (5, 2, 0, NULL, NULL, 4, 18),
                     (5, 3, 0, NULL, NULL, NULL, 14), (5, 4, 1, NULL, x'22', 0, 6), (5, 5, 0, NULL, NULL, 0, 18),
                     (5, 6, 0, NULL, NULL, 0, 19), (5, 7, 1, NULL, NULL, 0, 9),
                     (7, 0, 0, x'11', NULL, 0, 18), (8, 0, 0, NULL, x'22', 0, 15);",
            )
            .unwrap();
        let database = WalletDb::locate(&json!({}), scratch.path());
        let channel = ChannelId([0; 32]);
        let asked: Vec<Incoming> = (0..9).map(|id| (channel, id)).collect();
        let found = nothing_to_claim(&database, &asked).await;
        // Not of an offered one, of one without any end, or of one that isn't there; but of one that neither side
        // has any more, of which lightningd has wiped how it ended.
        assert_eq!(found, HashSet::from([(channel, 1), (channel, 2), (channel, 6)]));
        assert!(nothing_to_claim(&database, &[(ChannelId([1; 32]), 1)]).await.is_empty());
        // Two channels that a peer has opened on one output: on one of them it is to be claimed.
        assert!(nothing_to_claim(&database, &[(ChannelId([b'2'; 32]), 0)]).await.is_empty());
    }

    // S35
    #[tokio::test]
    async fn what_the_database_does_not_tell_is_claimed() {
        let nowhere = WalletDb::unknown();
        assert!(nothing_to_claim(&nowhere, &[(ChannelId([1; 32]), 1)]).await.is_empty());
    }
}
