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

use std::sync::{Mutex, PoisonError};

use crate::protocol::{Effect, Input};
use crate::types::{ChannelId, NodeId, OutPoint, Transaction, Txid};
use crate::wire::message::Message;

const MESSAGES: [&str; 13] = [
    "invite",
    "join",
    "expect_channel",
    "expecting",
    "propose",
    "partial_signatures",
    "ready",
    "stored",
    "channel_committed",
    "channel_checked",
    "funding_broadcast",
    "resume",
    "abort",
];

#[derive(Debug, Clone)]
enum Fault {
    Drop(String),
    /// And to whom it wasn't sent yet.
    DropFirst(String, Vec<NodeId>),
    Vanish(String),
    /// After [`Fault::Vanish`].
    Mute,
    BadPartial,
    BadNonce,
    OtherChannel,
    /// After [`Fault::OtherChannel`]: the leaf that should have been, and what there is instead.
    Completed(Txid, Transaction),
}

static FAULT: Mutex<Option<Fault>> = Mutex::new(None);

fn fault() -> std::sync::MutexGuard<'static, Option<Fault>> {
    FAULT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Misbehaves from now on. The error lists what there is.
pub fn arm(name: &str) -> Result<(), String> {
    let message = |text: &str| MESSAGES.contains(&text).then(|| text.to_owned());
    let armed = if let Some(text) = name.strip_prefix("drop-first-") {
        message(text).map(|text| Fault::DropFirst(text, vec![]))
    } else if let Some(text) = name.strip_prefix("drop-") {
        message(text).map(Fault::Drop)
    } else if let Some(text) = name.strip_prefix("vanish-") {
        message(text).map(Fault::Vanish)
    } else {
        match name {
            "bad-partial" => Some(Fault::BadPartial),
            "bad-nonce" => Some(Fault::BadNonce),
            "other-channel" => Some(Fault::OtherChannel),
            _ => None,
        }
    };
    let known =
        "drop-<message>, drop-first-<message>, vanish-<message>, bad-partial, bad-nonce, other-channel";
    let armed = armed.ok_or_else(|| format!("factory-fault: expected {known}, got '{name}'"))?;
    log::warn!("FOR TESTS ONLY: this node misbehaves on purpose: {name}");
    *fault() = Some(armed);
    Ok(())
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
