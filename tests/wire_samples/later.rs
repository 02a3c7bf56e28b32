//! What members say to each other about a factory that is there: sales, renewals, closes, leaves, copies, towers.

use bitcoin::TxOut;
use factory_engine::tx::musig::{AggNonce, PartialSig, PubNonce, SealedKey};
use factory_engine::types::{Amount, ChannelId, OutPoint, PaymentHash, PaymentSecret};
use factory_engine::wire::message::*;
use factory_engine::wire::words::Words;

use super::{ATTEMPT, INSTANCE, channel_in_factory, counting, p2wsh, point, txid};

/// Those of a life, from the first sale on.
pub(super) fn messages() -> Vec<(&'static str, Message)> {
    let (instance, attempt) = (INSTANCE, ATTEMPT);
    let (from, to) = (ChannelId([0x31; 32]), ChannelId([0x32; 32]));
    let tag = [0xa2; 32];
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

/// An output of a close.
fn paid(sat: u64, byte: u8) -> TxOut {
    TxOut { value: Amount::from_sat(sat), script_pubkey: p2wsh(byte) }
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
