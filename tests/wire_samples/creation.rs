//! What members say to each other until a factory is funded, and when that comes to nothing.

use factory_engine::tx::musig::{AggNonce, PartialSig, PubNonce};
use factory_engine::types::{Amount, ChannelId};
use factory_engine::wire::message::*;
use factory_engine::wire::words::Words;

use super::{
    ATTEMPT, INSTANCE, channel_in_factory, counting, funding_tx, node, p2wpkh, p2wsh, point, terms, txid,
    x_only,
};

/// Those of a creation, in the order in which they come.
pub(super) fn messages() -> Vec<(&'static str, Message)> {
    let (instance, attempt) = (INSTANCE, ATTEMPT);
    let channel_id = ChannelId([0xcc; 32]);
    let abort = Abort {
        instance,
        attempt,
        phase: 5,
        reason: "client 7 sent a bad partial signature – twice".into(),
        blames: Some(node(0x77)),
        retry: 1,
    };
    vec![
        (
            "invite",
            Message::Invite(Invite {
                instance,
                attempt,
                terms: terms(),
                client: 2,
                price_msat: 1_234_567,
                channel_in_factory: channel_in_factory(),
            }),
        ),
        (
            "join",
            Message::Join(Join {
                instance,
                attempt,
                factory_key: point(1),
                payout: p2wpkh(0xaa),
                nonces: vec![PubNonce(counting(1)), PubNonce(counting(0x80))],
            }),
        ),
        (
            "expect_channel",
            Message::ExpectChannel(ExpectChannel {
                instance,
                attempt,
                client: 2,
                capacity: Amount::from_sat(20_000),
                push_msat: 1_000,
                channel_in_factory: channel_in_factory(),
            }),
        ),
        ("expecting", Message::Expecting(Expecting { instance, attempt })),
        (
            "propose",
            Message::Propose(Propose {
                instance,
                attempt,
                lsp_key: point(3),
                clients: vec![(point(1), p2wpkh(0xaa)), (point(2), p2wsh(0xbb))].into(),
                funding_tx: funding_tx(),
                funding_vout: 1,
                channel_scripts: vec![(0, p2wsh(0x0c)), (1, p2wsh(0x1c))],
                foreign_keys: vec![(4, x_only(2)), (9, x_only(3))],
                foreign_hashes: vec![(4, counting(0)), (9, counting(0x20))],
                nonces: vec![AggNonce(counting(5)), AggNonce([0; 66])],
            }),
        ),
        (
            "partial_signatures",
            Message::PartialSignatures(PartialSignatures {
                instance,
                attempt,
                transcript: counting(0x60),
                signatures: vec![PartialSig([0x51; 32]), PartialSig([0x52; 32])],
            }),
        ),
        (
            "ready",
            Message::Ready(Ready { instance, attempt, signatures: vec![[0x61; 64], [0x62; 64], [0x63; 64]] }),
        ),
        ("stored", Message::Stored(Stored { instance, attempt })),
        ("channel_committed", Message::ChannelCommitted(ChannelCommitted { instance, attempt, channel_id })),
        ("channel_checked", Message::ChannelChecked(ChannelChecked { instance, attempt, channel_id })),
        (
            "funding_broadcast",
            Message::FundingBroadcast(FundingBroadcast { instance, attempt, txid: txid() }),
        ),
        ("resume", Message::Resume(Resume { instance, attempt, phase: 4 })),
        ("abort", Message::Abort(abort.clone())),
        (
            "abort_blaming_nobody",
            Message::Abort(Abort { reason: Words::default(), blames: None, retry: 0, ..abort }),
        ),
    ]
}
