//! One fixed value for every message and every submessage of the envelope, and one more for each way in which
//! what is optional may be there. Their bytes are frozen in `tests/golden/wire.txt`, and most, by another encoder, in
//! `tests/vectors/wire.json`, so nothing here may change either; new ones may be added.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::secp256k1::{PublicKey, XOnlyPublicKey};
use bitcoin::transaction::Version;
use bitcoin::{Sequence, SignedAmount, TxIn, TxOut, Witness};
use factory_engine::terms::{Kind, Leaf, Level, Shape, Terms};
use factory_engine::tx::musig::{AggNonce, PartialSig, PubNonce, SealedKey};
use factory_engine::types::{
    Amount, ChannelId, InstanceId, NodeId, OutPoint, PaymentHash, PaymentSecret, ProtocolId, ScriptBuf,
    Transaction, Txid,
};
use factory_engine::wire::envelope::{
    Ack, Envelope, FactoryChange, FactoryChangeFunding, FactoryChangeLocked, Frame,
};
use factory_engine::wire::message::*;
use factory_engine::wire::words::Words;

const INSTANCE: InstanceId = InstanceId([0xa1; 32]);
const ATTEMPT: u32 = 3;

/// The points G, 2G and 3G.
fn point(times: usize) -> PublicKey {
    let text = [
        "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
        "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5",
        "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
    ][times - 1];
    text.parse().unwrap()
}

/// An output of a close.
fn paid(sat: u64, byte: u8) -> TxOut {
    TxOut { value: Amount::from_sat(sat), script_pubkey: p2wsh(byte) }
}

fn x_only(times: usize) -> XOnlyPublicKey {
    point(times).x_only_public_key().0
}

fn node(byte: u8) -> NodeId {
    let mut id = [byte; 33];
    id[0] = 2;
    NodeId(id)
}

fn p2wpkh(byte: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x00, 0x14][..], &[byte; 20]].concat())
}

fn p2wsh(byte: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x00, 0x20][..], &[byte; 32]].concat())
}

fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|i| from.wrapping_add(u8::try_from(i).unwrap()))
}

fn txid() -> Txid {
    Txid::from_byte_array(counting(0x40))
}

/// Unsigned: one input, the change, and the factory's output.
fn funding_tx() -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::from_consensus(899_999),
        input: vec![TxIn {
            previous_output: OutPoint { txid: txid(), vout: 3 },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![
            TxOut { value: Amount::from_sat(7_654_321), script_pubkey: p2wpkh(0xdd) },
            TxOut { value: Amount::from_sat(1_000_000), script_pubkey: p2wsh(0xee) },
        ],
    }
}

/// The record that stands in `open_channel`.
pub fn channel_in_factory() -> ChannelInFactory {
    ChannelInFactory { factory_protocol: PROTOCOL_ID, factory_instance: INSTANCE, blocks_early: 432 }
}

/// Terms with every field different.
pub fn terms() -> Terms {
    Terms {
        instance: INSTANCE,
        lsp: node(0x10),
        shape: Shape {
            levels: vec![Level { arity: 4, kind: Kind::Static }, Level { arity: 3, kind: Kind::Stateful }],
            leaf: Leaf { kind: Kind::Static, sub_factories: 2, clients_per_sub: 5 },
        },
        capacities: [100_000, 2_100_000_000_000_000, 20_000].map(Amount::from_sat).to_vec(),
        stock: Amount::from_sat(50_000),
        push_msat: 1_000,
        state_step: 144,
        state_count: 6,
        stock_csv: 2_016,
        tree_feerate: 1_250,
        timeout_height: 950_000,
        dying_blocks: 4_320,
        confirm_blocks: 7,
        margin_blocks: 12,
        funding_confirmations: 8,
    }
}

/// Every message, by the name of its vector.
pub fn messages() -> Vec<(&'static str, Message)> {
    let (instance, attempt) = (INSTANCE, ATTEMPT);
    let channel_id = ChannelId([0xcc; 32]);
    let (from, to) = (ChannelId([0x31; 32]), ChannelId([0x32; 32]));
    let tag = [0xa2; 32];
    let abort = Abort {
        instance,
        attempt,
        phase: 5,
        reason: "client 7 sent a bad partial signature – twice".into(),
        blames: Some(node(0x77)),
        retry: 1,
    };
    let jit = JitOpened {
        instance,
        attempt,
        amount: Amount::from_sat(50_000),
        price_msat: 1_250,
        channel_id: ChannelId([0xcc; 32]),
        outpoint: Some(OutPoint { txid: txid(), vout: 1 }),
    };
    let offer = SaleOffer {
        instance,
        attempt,
        number: 2,
        buyer: 1,
        amount: Amount::from_sat(50_000),
        price_msat: 1_500,
        push_msat: 1_000,
        channel_script: None,
        round: None,
        channel_in_factory: channel_in_factory(),
    };
    let join = SaleJoin {
        instance,
        attempt,
        number: 2,
        nonces: vec![PubNonce(counting(9)), PubNonce(counting(0x90))],
        round: None,
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
        (
            "buy",
            Message::Buy(Buy {
                instance,
                attempt,
                amount: Amount::from_sat(50_000),
                max_price_msat: 1_500,
                jit: None,
            }),
        ),
        ("sale_offer", Message::SaleOffer(offer.clone())),
        (
            "sale_offer_again",
            Message::SaleOffer(SaleOffer { channel_script: Some(p2wsh(0x5a)), ..offer.clone() }),
        ),
        (
            "sale_offer_round",
            Message::SaleOffer(SaleOffer { round: Some(0x1122_3344_5566_7788), ..offer.clone() }),
        ),
        (
            "sale_offer_again_round",
            Message::SaleOffer(SaleOffer {
                channel_script: Some(p2wsh(0x5a)),
                round: Some(0x1122_3344_5566_7788),
                ..offer
            }),
        ),
        ("sale_join", Message::SaleJoin(join.clone())),
        ("sale_join_round", Message::SaleJoin(SaleJoin { round: Some(0x1122_3344_5566_7788), ..join })),
        (
            "sale_committed",
            Message::SaleCommitted(SaleCommitted {
                instance,
                attempt,
                number: 2,
                channel_script: p2wsh(0x5a),
            }),
        ),
        ("sale_checked", Message::SaleChecked(SaleChecked { instance, attempt, number: 2, round: None })),
        (
            "sale_checked_round",
            Message::SaleChecked(SaleChecked {
                instance,
                attempt,
                number: 2,
                round: Some(0x1122_3344_5566_7788),
            }),
        ),
        (
            "sale_propose",
            Message::SalePropose(SalePropose {
                instance,
                attempt,
                number: 2,
                channel_script: p2wsh(0x5a),
                nonces: vec![AggNonce(counting(7)), AggNonce([0; 66])],
            }),
        ),
        (
            "sale_partial_signatures",
            Message::SalePartialSignatures(SalePartialSignatures {
                instance,
                attempt,
                number: 2,
                transcript: counting(0x70),
                signatures: vec![PartialSig([0x53; 32])],
            }),
        ),
        (
            "sale_ready",
            Message::SaleReady(SaleReady { instance, attempt, number: 2, signatures: vec![[0x64; 64]] }),
        ),
        ("sale_stored", Message::SaleStored(SaleStored { instance, attempt, number: 2 })),
        (
            "sale_abort",
            Message::SaleAbort(SaleAbort {
                instance,
                attempt,
                number: 2,
                reason: "client 1 is away – try again".into(),
            }),
        ),
        ("ask_price", Message::AskPrice(AskPrice { instance, attempt, amount: Amount::from_sat(50_000) })),
        (
            "price",
            Message::Price(Price {
                instance,
                attempt,
                amount: Amount::from_sat(50_000),
                price_msat: 1_250,
                away: 1,
            }),
        ),
        (
            "sale_invoice",
            Message::SaleInvoice(SaleInvoice {
                instance,
                attempt,
                number: 2,
                amount_msat: 1_250,
                payment_hash: PaymentHash(counting(0x20)),
                payment_secret: PaymentSecret(counting(0x40)),
                min_final_cltv_expiry: 66,
            }),
        ),
        (
            "buy_or_jit",
            Message::Buy(Buy {
                instance,
                attempt,
                amount: Amount::from_sat(50_000),
                max_price_msat: 1_500,
                jit: Some(true),
            }),
        ),
        ("sale_wait", Message::SaleWait(SaleWait { instance, attempt, away: 1, seconds: 60 })),
        (
            "jit_offer",
            Message::JitOffer(JitOffer {
                instance,
                attempt,
                amount: Amount::from_sat(50_000),
                price_msat: 1_250,
                reason: "client 1 is away – no".into(),
            }),
        ),
        ("jit_accept", Message::JitAccept(JitAccept { instance, attempt })),
        ("jit_opened", Message::JitOpened(jit.clone())),
        ("jit_opened_found", Message::JitOpened(JitOpened { outpoint: None, ..jit })),
        ("sale_void", Message::SaleVoid(SaleVoid { instance, attempt, number: 2 })),
        (
            "credit_back",
            Message::CreditBack(CreditBack {
                instance,
                attempt,
                amount_msat: 1_250,
                payment_hash: PaymentHash(counting(0x20)),
                payment_secret: PaymentSecret(counting(0x40)),
                min_final_cltv_expiry: 18,
            }),
        ),
        ("sale_missing", Message::SaleMissing(SaleMissing { instance, attempt, number: 2 })),
        (
            "sale_shown",
            Message::SaleShown(SaleShown {
                instance,
                attempt,
                number: 2,
                buyer: 1,
                amount: Amount::from_sat(50_000),
                channel_script: p2wsh(0x5a),
                signatures: vec![[0x64; 64]],
            }),
        ),
        (
            "handover",
            Message::Handover(Handover {
                instance,
                attempt,
                key: SealedKey { ephemeral: point(2), sealed: counting(0x70) },
            }),
        ),
        ("handover_stored", Message::HandoverStored(HandoverStored { instance, attempt })),
        (
            "handover_refused",
            Message::HandoverRefused(HandoverRefused { instance, attempt, reason: "not yours".into() }),
        ),
        ("move_ask", Message::MoveAsk(MoveAsk { instance, attempt, from, to, amount_msat: Some(5_000_000) })),
        ("move_ask_all", Message::MoveAsk(MoveAsk { instance, attempt, from, to, amount_msat: None })),
        ("move_ready", Message::MoveReady(MoveReady { instance, attempt, from, to, cltv_delta: 34 })),
        (
            "move_refused",
            Message::MoveRefused(MoveRefused { instance, attempt, from, to, reason: Words::new("not now") }),
        ),
        ("close_ask", Message::CloseAsk(CloseAsk { instance, attempt, round: 7 })),
        (
            "close_join",
            Message::CloseJoin(CloseJoin {
                instance,
                attempt,
                round: 7,
                nonces: vec![PubNonce(counting(0x20))],
                balance: Amount::from_sat(61_234),
                script: p2wsh(0x5b),
            }),
        ),
        (
            "close_propose",
            Message::ClosePropose(ClosePropose {
                instance,
                attempt,
                round: 7,
                outputs: vec![paid(61_234, 0x5b), paid(40_000, 0x5c)],
                nonces: vec![AggNonce(counting(0x30))],
            }),
        ),
        (
            "close_partial_signatures",
            Message::ClosePartialSignatures(ClosePartialSignatures {
                instance,
                attempt,
                round: 7,
                transcript: [0x65; 32],
                signatures: vec![PartialSig([0x66; 32])],
            }),
        ),
        (
            "close_ready",
            Message::CloseReady(CloseReady {
                instance,
                attempt,
                outputs: vec![paid(61_234, 0x5b), paid(40_000, 0x5c)],
                signature: [0x67; 64],
            }),
        ),
        (
            "close_abort",
            Message::CloseAbort(CloseAbort { instance, attempt, round: 7, reason: Words::new("not now") }),
        ),
        (
            "leave_ask",
            Message::LeaveAsk(LeaveAsk {
                instance,
                attempt,
                amount: Amount::from_sat(60_000),
                max_price_msat: Some(700_000),
            }),
        ),
        (
            "leave_ask_price",
            Message::LeaveAsk(LeaveAsk {
                instance,
                attempt,
                amount: Amount::from_sat(60_000),
                max_price_msat: None,
            }),
        ),
        (
            "leave_price",
            Message::LeavePrice(LeavePrice {
                instance,
                attempt,
                amount: Amount::from_sat(60_000),
                price_msat: 616_000,
            }),
        ),
        (
            "leave_opened",
            Message::LeaveOpened(LeaveOpened { instance, attempt, price_msat: 616_000, channel_id: to }),
        ),
        (
            "leave_refused",
            Message::LeaveRefused(LeaveRefused {
                instance,
                attempt,
                reason: Words::new("not here"),
                retry: None,
            }),
        ),
        (
            "leave_refused_now",
            Message::LeaveRefused(LeaveRefused {
                instance,
                attempt,
                reason: Words::new("not now"),
                retry: Some(true),
            }),
        ),
        ("ask_copies", Message::AskCopies(AskCopies { most: 64 })),
        (
            "copies",
            Message::Copies(Copies {
                list: vec![(tag, (7, counting(3))), ([0xa3; 32], (65_536, [0xa4; 24]))],
            }),
        ),
        ("keep", Message::Keep(Keep { tag, counter: 7, sealed: counting::<40>(1).to_vec() })),
        ("kept", Message::Kept(Kept { tag, counter: 7, refused: None })),
        ("kept_not", Message::Kept(Kept { tag, counter: 7, refused: Some(Words::new("no room")) })),
        ("ask_copy", Message::AskCopy(AskCopy { tag })),
        ("copy_back", Message::CopyBack(CopyBack { tag, counter: 7, sealed: counting::<40>(1).to_vec() })),
        ("forget_copy", Message::ForgetCopy(ForgetCopy { tag })),
        ("ask_appointments", Message::AskAppointments(AskAppointments { tag: [0; 32] })),
        ("ask_appointments_of", Message::AskAppointments(AskAppointments { tag })),
        (
            "appointments",
            Message::Appointments(Appointments {
                height: 800_001,
                pays_sat: 0,
                list: vec![(tag, (7, counting(3))), ([0xa3; 32], (65_536, [0xa4; 32]))],
            }),
        ),
        (
            "locators",
            Message::Locators(Locators {
                tag,
                list: vec![(counting(5), counting(3)), ([0xa3; 16], [0xa4; 32])],
            }),
        ),
        ("watch", Message::Watch(watch(tag, None))),
        ("watch_since", Message::Watch(watch(tag, Some(799_999)))),
        (
            "watch_trigger",
            Message::Watch(Watch { trigger: Some(txid()), ..watch(tag, Some(799_999)) }),
        ),
        ("watched", Message::Watched(Watched { tag, locator: counting(5), sum: [0xa5; 32], refused: None })),
        (
            "watched_not",
            Message::Watched(Watched {
                tag,
                locator: counting(5),
                sum: [0xa5; 32],
                refused: Some(Words::new("no room")),
            }),
        ),
        ("unwatch", Message::Unwatch(Unwatch { tag, locators: vec![counting(5), [0xa3; 16]] })),
        ("unwatch_all", Message::Unwatch(Unwatch { tag, locators: vec![] })),
        ("ask_receipt", Message::AskReceipt(AskReceipt { tag, count: 7, sum: counting(3) })),
        (
            "receipt",
            Message::Receipt(Receipt {
                tag,
                count: 7,
                sum: counting(3),
                height: 800_001,
                signature: b"d6tqaeuonjhi98mmont9m4wag7gg4krg1f4txonug3h31e9h6p6k6nbwjondnj46dkyausobstnk7fhyy998bhgc1yr98cbckhhhjm11".to_vec(),
            }),
        ),
    ]
}

fn watch(tag: [u8; 32], since: Option<u32>) -> Watch {
    let sealed = counting::<40>(1).to_vec();
    Watch {
        tag,
        locator: counting(5),
        until: 860_000,
        height: 800_001,
        sealed,
        since,
        counter: 7,
        trigger: None,
    }
}

/// Every submessage of the envelope, by the name of its vector.
pub fn envelopes() -> Vec<(&'static str, Envelope)> {
    let protocol = PROTOCOL_ID;
    let channel_id = ChannelId([0xcc; 32]);
    let piggyback = |payload, frame, ack| Envelope::Piggyback { protocol, payload, frame, ack };
    let frame = Frame { sequence: 6, fragment: 0, count: 1 };
    let ack = Ack { sequence: 5, fragment: 9 };
    let change = FactoryChange {
        payload: Some(vec![1, 2, 3]),
        channel_id,
        funding_contribution_satoshis: SignedAmount::from_sat(-20_000),
        funding_pubkey: point(2),
    };
    let without = FactoryChange {
        payload: None,
        funding_contribution_satoshis: SignedAmount::from_sat(20_000),
        ..change.clone()
    };
    let funding = FactoryChangeFunding { channel_id, txid: txid(), output_index: 2 };
    let locked = FactoryChangeLocked { channel_id, txid: txid() };
    vec![
        (
            "supported_factory_protocols",
            Envelope::SupportedFactoryProtocols(vec![protocol, ProtocolId([0x99; 32])]),
        ),
        ("supported_factory_protocols_none", Envelope::SupportedFactoryProtocols(vec![])),
        ("factory_piggyback", piggyback(vec![0, 18, 0, 0], None, None)),
        ("factory_piggyback_framed", piggyback(vec![0, 18], Some(frame), None)),
        ("factory_piggyback_framed_with_ack", piggyback(vec![0, 18], Some(frame), Some(ack))),
        ("factory_piggyback_ack_alone", piggyback(vec![], None, Some(ack))),
        ("factory_change_init", Envelope::FactoryChangeInit(change)),
        ("factory_change_ack", Envelope::FactoryChangeAck(without)),
        ("factory_change_funding", Envelope::FactoryChangeFunding(funding)),
        ("factory_change_continue", Envelope::FactoryChangeContinue(funding)),
        ("factory_change_locked", Envelope::FactoryChangeLocked(locked)),
    ]
}
