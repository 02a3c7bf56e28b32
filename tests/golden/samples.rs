//! One value of every kind of event, spelled out: what the frozen hex must mean for ever.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use bitcoin::{TxIn, TxOut};
use factory_engine::record::Proposal;
use factory_engine::record::ended::Ended;
use factory_engine::record::event::*;
use factory_engine::record::reclaimed::ReclaimedInput;
use factory_engine::terms::{Kind, Leaf, Level, Shape, Terms};
use factory_engine::tx::close::Share;
use factory_engine::tx::layout::{SessionId, SpendRole};
use factory_engine::tx::musig::{PublicKey, SealedKey};
use factory_engine::types::*;

fn node(of: u8) -> NodeId {
    NodeId([of; 33])
}

fn sat(sat: u64) -> Amount {
    Amount::from_sat(sat)
}

fn script(of: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([&[0, 20][..], &[of; 20]].concat())
}

fn outpoint(of: u8, vout: u32) -> OutPoint {
    OutPoint { txid: Txid::from_byte_array([of; 32]), vout }
}

fn terms() -> Terms {
    Terms {
        instance: InstanceId([0x11; 32]),
        lsp: node(2),
        shape: Shape {
            levels: vec![Level { arity: 2, kind: Kind::Static }, Level { arity: 3, kind: Kind::Stateful }],
            leaf: Leaf { kind: Kind::Static, sub_factories: 2, clients_per_sub: 2 },
        },
        capacities: vec![sat(100_000), sat(100_000), sat(70_000)],
        stock: sat(20_000),
        push_msat: 1_000,
        state_step: 144,
        state_count: 4,
        stock_csv: 720,
        tree_feerate: 1_000,
        timeout_height: 5_000,
        dying_blocks: 2_016,
        confirm_blocks: 6,
        margin_blocks: 12,
        funding_confirmations: 3,
    }
}

/// The generator, and twice the generator.
fn keys() -> [PublicKey; 2] {
    [
        "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
        "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5",
    ]
    .map(|key| key.parse().unwrap())
}

fn proposal() -> Proposal {
    let [one, two] = keys();
    Proposal {
        lsp_key: one,
        clients: vec![(two, script(1)), (one, script(2))].into(),
        funding_tx: Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn { previous_output: outpoint(7, 1), ..TxIn::default() }],
            output: vec![TxOut { value: sat(300_000), script_pubkey: script(3) }],
        },
        funding_vout: 0,
        channel_scripts: vec![(0, script(4)), (1, script(5))],
        foreign_keys: vec![(3, two.x_only_public_key().0)],
    }
}

fn ledger() -> Vec<LedgerEntry> {
    let entry = |coin, role| LedgerEntry {
        outpoint: outpoint(8, coin),
        session: SessionId { coin, role },
        sighash: [9; 32],
    };
    vec![entry(0, SpendRole::State), entry(1, SpendRole::Distribution), entry(2, SpendRole::Sale)]
}

fn created(prices_msat: Option<Vec<u64>>) -> Created {
    Created { terms: terms(), clients: vec![node(3), node(4)], protocol: PROTOCOL_ID, prices_msat }
}

fn attempt_started(prices_msat: Option<Vec<u64>>) -> AttemptStarted {
    AttemptStarted {
        attempt: 2,
        terms: terms(),
        clients: vec![node(3)],
        reason: "no answer".into(),
        left_out: vec![node(4)],
        caused: vec![node(5)],
        prices_msat,
    }
}

/// In the order of their numbers.
pub fn samples() -> Vec<Event> {
    let (payment_hash, channel_id) = (PaymentHash([0x31; 32]), ChannelId([0x32; 32]));
    vec![
        created(None).into(),
        attempt_started(None).into(),
        Invited {
            attempt: 1,
            terms: terms(),
            client: 1,
            price_msat: 5_000,
            height: 800,
            protocol: PROTOCOL_ID,
        }
        .into(),
        Accepted { from: None }.into(),
        Declined { reason: "too dear".into(), height: 802 }.into(),
        Signing { attempt: 1, proposal: proposal(), ledger: ledger(), salt: Some([6; 32]) }.into(),
        Signed { signatures: vec![[0x41; 64], [0x42; 64]] }.into(),
        AllStored {}.into(),
        ChannelCommitted { client: 1, channel_id }.into(),
        ChannelChecked { client: 1, channel_id }.into(),
        FundingReleased { height: 801 }.into(),
        Confirmed {
            txid: Txid::from_byte_array([7; 32]),
            height: 802,
            spends: vec![outpoint(8, 0)],
            pays: Some(sat(1_234)),
        }
        .into(),
        Reorged { height: 801 }.into(),
        ExitStarted { height: 900, reason: "an HTLC".into(), clients: vec![0, 2] }.into(),
        Aborted { reason: "never mind".into(), height: 803 }.into(),
        Forgotten { reason: "nothing was signed".into() }.into(),
        OpenAccepted { attempt: 1 }.into(),
        FundingReserved {
            attempt: 1,
            tx: proposal().funding_tx,
            prevouts: vec![TxOut { value: sat(150_000), script_pubkey: script(9) }],
            reclaims: None,
        }
        .into(),
        EvictionStarted { height: 4_000, reason: "the timeout".into(), clients: vec![1] }.into(),
        StockPayout { script: script(6) }.into(),
        ChannelResolved { client: 2 }.into(),
        ChannelEnded { channel_id, how: Ended::Failed }.into(),
        HandedOver { height: 4_100 }.into(),
        HandoverStored {}.into(),
        KeyReceived { client: 1, key: SealedKey { ephemeral: keys()[1], sealed: [0x61; 32] }, height: 4_101 }
            .into(),
        SaleOpening {
            coin: 3,
            number: 1,
            buyer: 0,
            amount: sat(15_000),
            script: script(7),
            price_msat: 2_000,
        }
        .into(),
        SaleDropped { coin: 3, number: 1 }.into(),
        SaleOpenAccepted { number: 1, amount: sat(15_000), price_msat: 2_000 }.into(),
        SaleSigning {
            coin: 3,
            number: 1,
            buyer: 0,
            amount: sat(15_000),
            script: script(7),
            price_msat: 2_000,
            ledger: ledger(),
            height: 811,
        }
        .into(),
        SaleSigned { coin: 3, number: 1, signatures: vec![[0x43; 64]] }.into(),
        SaleStored { coin: 3, number: 1 }.into(),
        Restored { reason: "an older copy".into() }.into(),
        SaleResolved { channel_id }.into(),
        SaleDue {
            payment_hash,
            buyer: 0,
            amount_msat: 2_000,
            label: Some("cln-factory-1".into()),
            back: false,
        }
        .into(),
        SaleDueEnded { payment_hash, paid: true, height: 812 }.into(),
        SaleJit { buyer: 0, amount: sat(15_000), price_msat: 2_000, height: Some(810) }.into(),
        SaleJitFailed { buyer: 0, height: 813 }.into(),
        SaleJitOpened {
            buyer: 0,
            amount: sat(15_000),
            price_msat: 2_000,
            channel_id,
            outpoint: Some(outpoint(0x33, 1)),
        }
        .into(),
        SaleVoid { coin: 3, number: 1, blamed: vec![1], height: 820 }.into(),
        SaleJitAgreed { amount: sat(15_000), price_msat: 2_000 }.into(),
        MoveWanted { from: channel_id, to: ChannelId([0x45; 32]), amount_msat: Some(5_000_000), height: 821 }
            .into(),
        MoveStarted { payment_hash, from: channel_id, amount_msat: 3_000_000 }.into(),
        MoveEnded { payment_hash, arrived: true, height: 822 }.into(),
        MoveOver { from: channel_id, reason: Some("the operator refuses".into()) }.into(),
        CloseSigning {
            outputs: vec![TxOut { value: sat(61_234), script_pubkey: script(9) }],
            shares: vec![Share { client: 0, balance: sat(61_234), script: script(9) }],
            ledger: ledger(),
            height: 823,
        }
        .into(),
        CloseSigned { signature: [0x46; 64] }.into(),
        CloseGivenUp { reason: "not everybody has signed it in time".into(), height: 967 }.into(),
        Rung { number: 3, opens: 4_180, more: true }.into(),
        Woken { height: 4_200, clients: vec![0, 2] }.into(),
        LeaveWanted { height: 830, stays_msat: 546_000, max_price_msat: 700_000, to: Some(channel_id) }
            .into(),
        LeaveOver { height: 831, reason: "the operator opens no channel".into() }.into(),
        LeaveOpened { channel_id, price_msat: 616_000, height: 832 }.into(),
        LeaveOpening { client: 1, amount: sat(111_200), price_msat: 616_000, height: 830 }.into(),
        LeaveFunded { client: 1, channel_id: Some(channel_id), height: 831 }.into(),
        RenewalPaid { client: 1, of: InstanceId([0x12; 32]), msat: 6_000 }.into(),
        Renewed { of: InstanceId([0x12; 32]), msat: 6_000 }.into(),
        Recovered { reason: "the machine is lost".to_owned() }.into(),
    ]
}

/// What is optional isn't there.
fn bare() -> Vec<(&'static str, Event)> {
    let (payment_hash, channel_id) = (PaymentHash([0x31; 32]), ChannelId([0x32; 32]));
    vec![
        (
            "signing_by_the_operator",
            Signing { attempt: 1, proposal: proposal(), ledger: ledger(), salt: None }.into(),
        ),
        (
            "confirmed_without_a_share",
            Confirmed {
                txid: Txid::from_byte_array([7; 32]),
                height: 802,
                spends: vec![outpoint(8, 0)],
                pays: None,
            }
            .into(),
        ),
        (
            "sale_due_of_a_payer",
            SaleDue { payment_hash, buyer: 0, amount_msat: 2_000, label: None, back: true }.into(),
        ),
        (
            "sale_jit_undated",
            SaleJit { buyer: 0, amount: sat(15_000), price_msat: 2_000, height: None }.into(),
        ),
        (
            "move_wanted_of_all",
            MoveWanted { from: channel_id, to: ChannelId([0x45; 32]), amount_msat: None, height: 821 }.into(),
        ),
        ("move_over_in_order", MoveOver { from: channel_id, reason: None }.into()),
        ("accepted_with_a_channel", Accepted { from: Some(channel_id) }.into()),
        (
            "leave_wanted_without_a_channel",
            LeaveWanted { height: 830, stays_msat: 546_000, max_price_msat: 700_000, to: None }.into(),
        ),
        ("leave_funded_not", LeaveFunded { client: 1, channel_id: None, height: 831 }.into()),
        (
            "sale_jit_opened_found",
            SaleJitOpened { buyer: 0, amount: sat(15_000), price_msat: 2_000, channel_id, outpoint: None }
                .into(),
        ),
    ]
}

/// All of them, each by a name of its own.
pub fn named() -> Vec<(&'static str, Event)> {
    samples().into_iter().map(|event| (event.name(), event)).chain(bare()).chain(later()).collect()
}

/// Events with fields that came later, each with a name for its frozen record. Those without are above.
fn later() -> Vec<(&'static str, Event)> {
    let reclaims =
        vec![ReclaimedInput { instance: InstanceId([0x12; 32]), coin: 0, outpoint: outpoint(7, 1) }];
    vec![
        (
            "funding_reserved/reclaims",
            FundingReserved {
                attempt: 1,
                tx: proposal().funding_tx,
                prevouts: vec![TxOut { value: sat(150_000), script_pubkey: script(9) }],
                reclaims: Some(reclaims),
            }
            .into(),
        ),
        ("created/prices", created(Some(vec![0, 7_000])).into()),
        ("attempt_started/prices", attempt_started(Some(vec![7_000])).into()),
    ]
}
