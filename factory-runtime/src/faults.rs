//! Misbehaviour on request, so that tests on real nodes can meet a member that lies or falls silent.
//! Only the binary `cln-factory-faults` (feature `faults`) has it; no default build does.
//!
//! | option `factory-fault` | what the node does wrong |
//! | --- | --- |
//! | `drop-<message>` | never sends this message of the protocol, such as `stored` |
//! | `drop-first-<message>` | doesn't send it the first time, to each peer |
//! | `vanish-<message>` | hangs up instead of sending it, and says nothing more |
//! | `bad-partial` | its last partial signature is wrong |
//! | `bad-nonce` | its first nonce is no pair of points |
//! | `other-channel` | operator: completes the first client's channel on a transaction that isn't its leaf, and claims that it is |
//! | `panic-engine`, `panic-follower`, `panic-hook` | a bug: the task that owns the engine panics at its next input, the one that follows the chain at the next block, the hook of each HTLC; `panic-hook-twice` also where that is caught |
//! | `end-follower` | the task that follows the chain ends at the next block |
//! | `lax-htlcs` | takes every HTLC, and raises no expiry |
//! | `hold-<step>`, `hold-<step>:2` | stands still at this step for good, or at the second of its kind: a test kills it there |
//!
//! Steps are `send-<message>` (stored, not sent), `got-<message>` (arrived, not looked at), and the names
//! of effects and of their outcomes, such as `complete-channel` and `channel-completed`. `journal` is where
//! a step of several records is stored as a whole, and none of them is in its place; `folded` is where one
//! more of them is (not before the last of them does the journal go).
//!
//! The command `misbehave` asks for another fault while the node runs, or with an empty name for none.

use std::future::pending;
use std::sync::{Mutex, PoisonError};

use factory_engine::types::{ChannelId, NodeId, OutPoint, Transaction, Txid};
use factory_engine::wire::message::Message;
use factory_engine::{Command, Effect, Input};

/// Whether there is a message of this name.
fn is_message(name: &str) -> bool {
    (0..=u16::MAX).any(|kind| Message::name_of(kind) == Some(name))
}

/// Where [`Fault::Hold`] can stand still, beside messages.
const STEPS: [&str; 38] = [
    "journal",
    "folded",
    "create",
    "exit",
    "new-payout",
    "payout-ready",
    "prepare-funding",
    "funding-prepared",
    "start-channel",
    "channel-started",
    "open-channel",
    "complete-channel",
    "channel-completed",
    "check-channel",
    "channel-checked",
    "send-funding",
    "broadcast",
    "close-channel",
    "block",
    "make-invoice",
    "invoice-made",
    "wait-invoice",
    "invoice-ended",
    "pay-invoice",
    "payment-ended",
    "fund-channel",
    "channel-funded",
    "move",
    "set-fees",
    "fees-set",
    "send-move",
    "move-ended",
    "read-balances",
    "check-empty",
    "connect",
    "disconnect",
    "mutual-close",
    "renewal-due",
];

/// Where [`Fault::Panic`] can panic.
const PANICS: [&str; 4] = ["engine", "follower", "hook", "hook-twice"];

#[derive(Debug, Clone)]
enum Fault {
    /// At which step, and how many of its kind pass before.
    Hold(String, usize),
    Drop(String),
    /// And to whom it wasn't sent yet.
    DropFirst(String, Vec<NodeId>),
    Vanish(String),
    /// After [`Fault::Vanish`]: no message leaves this node any more.
    Mute,
    BadPartial,
    BadNonce,
    OtherChannel,
    LaxHtlcs,
    Panic(String),
    EndFollower,
    /// After [`Fault::OtherChannel`]: the leaf that should have been, and what there is instead.
    Completed(Txid, Transaction),
}

static FAULT: Mutex<Option<Fault>> = Mutex::new(None);

fn fault() -> std::sync::MutexGuard<'static, Option<Fault>> {
    FAULT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Misbehaves from now on. The error lists what there is.
pub fn arm(name: &str) -> Result<(), String> {
    let message = |text: &str| is_message(text).then(|| text.to_owned());
    let armed = if let Some(text) = name.strip_prefix("hold-") {
        hold(text)
    } else if let Some(text) = name.strip_prefix("drop-first-") {
        message(text).map(|text| Fault::DropFirst(text, vec![]))
    } else if let Some(text) = name.strip_prefix("drop-") {
        message(text).map(Fault::Drop)
    } else if let Some(text) = name.strip_prefix("panic-") {
        PANICS.contains(&text).then(|| Fault::Panic(text.to_owned()))
    } else if let Some(text) = name.strip_prefix("vanish-") {
        message(text).map(Fault::Vanish)
    } else {
        match name {
            "bad-partial" => Some(Fault::BadPartial),
            "bad-nonce" => Some(Fault::BadNonce),
            "other-channel" => Some(Fault::OtherChannel),
            "lax-htlcs" => Some(Fault::LaxHtlcs),
            "end-follower" => Some(Fault::EndFollower),
            _ => None,
        }
    };
    let known = "drop-<message>, drop-first-<message>, vanish-<message>, bad-partial, bad-nonce, \
                 other-channel, lax-htlcs, end-follower, panic-<where>, hold-<step>[:<count>]";
    let armed = armed.ok_or_else(|| format!("factory-fault: expected {known}, got '{name}'"))?;
    log::warn!("FOR TESTS ONLY: this node misbehaves on purpose: {name}");
    *fault() = Some(armed);
    Ok(())
}

/// Takes the fault back: the node behaves from now on.
pub fn disarm() {
    *fault() = None;
}

/// Panics, if that is the fault.
pub fn panic_at(place: &str) {
    let here = match &*fault() {
        // The first panic comes before the second.
        Some(Fault::Panic(wanted)) => wanted == place || wanted == "hook-twice" && place == "hook",
        _ => false,
    };
    assert!(!here, "fault: a bug in the {place}");
}

/// Whether the task that follows the chain ends for no reason.
pub fn ends_follower() -> bool {
    matches!(*fault(), Some(Fault::EndFollower))
}

/// Whether the hooks let every HTLC pass.
pub fn is_lax() -> bool {
    matches!(*fault(), Some(Fault::LaxHtlcs))
}

fn hold(text: &str) -> Option<Fault> {
    let (step, count) = text.split_once(':').unwrap_or((text, "1"));
    let count: usize = count.parse().ok()?;
    let message = step.strip_prefix("send-").or_else(|| step.strip_prefix("got-"));
    let known = STEPS.contains(&step) || message.is_some_and(is_message);
    known.then(|| Fault::Hold(step.to_owned(), count.saturating_sub(1)))
}

/// Never returns if this is the step to stand still at.
async fn stand_still(step: &str) {
    let held = match &mut *fault() {
        Some(Fault::Hold(wanted, left)) if wanted == step => {
            let held = *left == 0;
            *left = left.saturating_sub(1);
            held
        }
        _ => false,
    };
    if held {
        log::warn!("fault: standing still at {step}");
        pending::<()>().await;
    }
}

/// After a step of several records is in the journal.
pub(crate) async fn at_journal() {
    stand_still("journal").await;
}

/// After a record of the journal is in its place, be it at a start.
pub(crate) async fn at_folded() {
    stand_still("folded").await;
}

/// Stands still before an input is looked at, if that is the fault.
pub(super) async fn before_input(input: &Input) {
    panic_at("engine");
    if let Input::Message { payload, .. } = input {
        if let Ok(message) = Message::decode(payload) {
            stand_still(&format!("got-{}", message.name())).await;
        }
    } else if let Some(step) = input_step(input) {
        stand_still(step).await;
    }
}

/// Stands still before an effect is carried out, if that is the fault.
pub(super) async fn before_effect(effect: &Effect) {
    if let Effect::Send { message, .. } = effect {
        stand_still(&format!("send-{}", message.name())).await;
    } else if let Some(step) = effect_step(effect) {
        stand_still(step).await;
    }
}

fn input_step(input: &Input) -> Option<&'static str> {
    Some(match input {
        Input::Command(Command::Create(_)) => "create",
        Input::Command(Command::Exit { .. }) => "exit",
        Input::Command(Command::Move { .. }) => "move",
        Input::Command(Command::Leave { .. }) => "leave",
        Input::OrdinaryChecked { .. } => "ordinary-checked",
        Input::PayoutReady { .. } => "payout-ready",
        Input::FundingPrepared { .. } => "funding-prepared",
        Input::ChannelStarted { .. } => "channel-started",
        Input::OpenChannel(_) => "open-channel",
        Input::ChannelCompleted { .. } => "channel-completed",
        Input::ChannelChecked { .. } => "channel-checked",
        Input::InvoiceMade { .. } => "invoice-made",
        Input::InvoiceEnded { .. } => "invoice-ended",
        Input::PaymentEnded { .. } => "payment-ended",
        Input::MoveEnded { .. } => "move-ended",
        Input::FeesSet { .. } => "fees-set",
        Input::ChannelFunded { .. } => "channel-funded",
        Input::Block(block) if !block.txs.is_empty() => "block",
        _ => return None,
    })
}

fn effect_step(effect: &Effect) -> Option<&'static str> {
    Some(match effect {
        Effect::NewPayout { .. } => "new-payout",
        Effect::PrepareFunding { .. } => "prepare-funding",
        Effect::StartChannel { .. } => "start-channel",
        Effect::CompleteChannel { .. } => "complete-channel",
        Effect::CheckChannel { .. } => "check-channel",
        Effect::CheckUnspent { .. } => "check-unspent",
        Effect::SendFunding { .. } => "send-funding",
        Effect::Broadcast { .. } => "broadcast",
        Effect::ReadBalances { .. } => "read-balances",
        Effect::CheckEmpty { .. } => "check-empty",
        Effect::CheckOrdinary { .. } => "check-ordinary",
        Effect::Connect { .. } => "connect",
        Effect::Disconnect { .. } => "disconnect",
        Effect::MutualClose { .. } => "mutual-close",
        Effect::RenewalDue { .. } => "renewal-due",
        Effect::Wake { .. } => "wake",
        Effect::SendMove(_) => "send-move",
        Effect::SetFees { .. } => "set-fees",
        Effect::CloseChannel { .. } => "close-channel",
        Effect::MakeInvoice { .. } => "make-invoice",
        Effect::WaitInvoice { .. } => "wait-invoice",
        Effect::PayInvoice { .. } => "pay-invoice",
        Effect::FundChannel { .. } => "fund-channel",
        _ => return None,
    })
}

/// What becomes of an effect, and whom to hang up on.
pub(super) fn effect(effect: Effect) -> (Option<Effect>, Option<NodeId>) {
    let mut fault = fault();
    let Some(armed) = fault.clone() else { return (Some(effect), None) };
    match (armed, effect) {
        (Fault::Mute, Effect::Send { .. }) => (None, None),
        (Fault::Drop(name), Effect::Send { message, .. }) if message.name() == name => dropped(&message),
        (Fault::DropFirst(name, mut done), Effect::Send { peer, message })
            if message.name() == name && !done.contains(&peer) =>
        {
            done.push(peer);
            *fault = Some(Fault::DropFirst(name, done));
            dropped(&message)
        }
        (Fault::Vanish(name), Effect::Send { peer, message }) if message.name() == name => {
            *fault = Some(Fault::Mute);
            (dropped(&message).0, Some(peer))
        }
        (Fault::BadPartial, Effect::Send { peer, message: Message::PartialSignatures(mut m) }) => {
            if let Some(signature) = m.signatures.last_mut() {
                // Still a number below the curve's order.
                signature.0[31] ^= 1;
            }
            (Some(Effect::Send { peer, message: m.into() }), None)
        }
        (Fault::BadNonce, Effect::Send { peer, message: Message::Join(mut m) }) => {
            if let Some(nonce) = m.nonces.first_mut() {
                nonce.0[0] = 0xff;
            }
            (Some(Effect::Send { peer, message: m.into() }), None)
        }
        (
            Fault::OtherChannel,
            Effect::CompleteChannel { instance, attempt, client: 0, sale: None, peer, mut leaf, prevout },
        ) => {
            let truth = leaf.compute_txid();
            leaf.lock_time = bitcoin::absolute::LockTime::from_consensus(1);
            *fault = Some(Fault::Completed(truth, leaf.clone()));
            log::warn!("fault: completing {peer}'s channel on {} instead of {truth}", leaf.compute_txid());
            let effect =
                Effect::CompleteChannel { instance, attempt, client: 0, sale: None, peer, leaf, prevout };
            (Some(effect), None)
        }
        (_, effect) => (Some(effect), None),
    }
}

fn dropped(message: &Message) -> (Option<Effect>, Option<NodeId>) {
    log::warn!("fault: {} of attempt {} not sent", message.name(), message.attempt());
    (None, None)
}

/// What the engine is told instead.
pub(super) fn input(input: Input) -> Input {
    let mut fault = fault();
    match (fault.clone(), input) {
        (
            Some(Fault::Completed(truth, leaf)),
            Input::ChannelCompleted { instance, attempt, client: 0, sale: None, result: Ok(id) },
        ) => {
            *fault = None;
            let of = |txid, vout| ChannelId::of(OutPoint { txid, vout });
            let outputs = (0u32..).take(leaf.output.len());
            let vout = outputs.into_iter().find(|vout| of(leaf.compute_txid(), *vout) == id);
            let claimed = of(truth, vout.unwrap_or_default());
            Input::ChannelCompleted { instance, attempt, client: 0, sale: None, result: Ok(claimed) }
        }
        (_, input) => input,
    }
}
