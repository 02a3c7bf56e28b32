//! `htlc_accepted`: HTLCs that come or go over a factory's channel have to leave time for an exit
//! (S15), and wait for the channel to be usable (S18). Others are answered at once, from memory.

use std::time::Duration;

use bitcoin::hex::{DisplayHex, FromHex};
use factory_engine::KnownChannel;
use factory_engine::admission::dust::Asking;
use factory_engine::admission::hold::{Held, last_height};
use factory_engine::admission::htlc::{Failure, Htlc, Upstream, Verdict, admit};
use factory_engine::types::{ChannelId, Height};
use factory_runtime::{HtlcView, clock};
use serde_json::{Value, json};

use super::super::dust::refuse;
use super::super::htlcs::msat;
use super::super::state::State;
use super::{carry_on, waiting};

/// How long after a start HTLCs wait for the first block. lightningd replays unresolved ones before
/// we know the chain's height; failing them then would be failing them for nothing.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Answers `htlc_accepted`: carries on, holds the HTLC, or fails it back.
pub async fn answer(state: &State, request: &Value) -> Value {
    let view = state.runtime.view();
    if view.htlc(|view| view.policies.is_empty() && view.suspects.is_empty()) {
        return carry_on();
    }
    #[cfg(feature = "faults")]
    if factory_runtime::faults::is_lax() {
        return carry_on();
    }
    let htlc = &request["htlc"];
    let Some(cltv_expiry) = height(&htlc["cltv_expiry"]) else { return carry_on() };
    let outgoing = request["forward_to"].as_str().and_then(|text| text.parse().ok());
    let incoming = match htlc["short_channel_id"].as_str() {
        Some(scid) => state.channels.find(&state.rpc, scid).await,
        None => None,
    };
    let ours = |channel: &Option<ChannelId>| {
        channel.is_some_and(|id| view.htlc(|view| view.policies.contains_key(&id)))
    };
    let others = [incoming, outgoing].map(|channel| channel.filter(|_| !ours(&channel)));
    let verdict = suspicion(state, others).await;
    if verdict != Verdict::Continue || (!ours(&incoming) && !ours(&outgoing)) {
        return answer_with(htlc, verdict);
    }
    wait_for_first_block(state).await;
    // Where lightningd is ahead of the block that we handled last, its height counts.
    let ahead = htlc["cltv_expiry_relative"]
        .as_i64()
        .and_then(|relative| i64::from(cltv_expiry).checked_sub(relative))
        .and_then(|height| Height::try_from(height).ok())
        .unwrap_or(0);
    let arrived = Arrived {
        incoming,
        outgoing,
        cltv_expiry,
        outgoing_cltv_expiry: outgoing.and(height(&request["onion"]["outgoing_cltv_value"])),
        htlc_id: htlc["id"].as_u64().unwrap_or_default(),
        hash: htlc["payment_hash"].as_str().and_then(|text| FromHex::from_hex(text).ok()).unwrap_or_default(),
        incoming_msat: msat(&htlc["amount_msat"]),
        outgoing_msat: msat(&request["onion"]["forward_msat"]),
    };
    let now = || view.htlc(|view| view.height).unwrap_or(0).max(ahead).max(*state.news.borrow());
    let judge = || {
        let height = now();
        view.htlc(|view| admit(&arrived.on(state, view), height))
    };
    let verdict = match judge() {
        Verdict::Continue => arrived.dust(state).await,
        refused => refused,
    };
    let verdict = match (verdict, arrived.to_hold(state)) {
        (Verdict::Continue, Some(held)) => waiting::wait(state, held, now, judge).await,
        (verdict, _) => verdict,
    };
    answer_with(htlc, verdict)
}

/// An HTLC that uses a factory's channel.
struct Arrived {
    incoming: Option<ChannelId>,
    outgoing: Option<ChannelId>,
    cltv_expiry: Height,
    outgoing_cltv_expiry: Option<Height>,
    /// Its number on the channel on which it came.
    htlc_id: u64,
    /// payment_hash (BOLT 2).
    hash: [u8; 32],
    incoming_msat: u64,
    /// What would be forwarded, msat.
    outgoing_msat: u64,
}

impl Arrived {
    /// With the policies of its channels as they are now.
    fn on<'a>(&self, state: &State, view: &'a HtlcView) -> Htlc<'a> {
        let policy = |channel: Option<ChannelId>| view.policies.get(&channel?);
        Htlc {
            incoming: policy(self.incoming),
            outgoing: policy(self.outgoing),
            cltv_expiry: self.cltv_expiry,
            outgoing_cltv_expiry: self.outgoing_cltv_expiry,
            cltv_delta: state.config.cltv_delta,
            // Its channel may have gone on chain while it was held, or before a restart.
            upstream: match self.incoming {
                Some(channel) if !state.channels.is_live(channel) => {
                    Upstream::Closing { amount_msat: self.incoming_msat }
                }
                Some(_) | None => Upstream::Live,
            },
        }
    }

    /// Whether there is room for it, should it be dust.
    async fn dust(&self, state: &State) -> Verdict {
        // lightningd names a channel that it doesn't list: nothing can be counted.
        let Some(incoming) = self.incoming else { return Verdict::Continue };
        let (cap, view) = (&state.dust, state.runtime.view());
        let admit = || {
            view.htlc(|view| {
                cap.admit(&Asking {
                    key: (incoming, self.htlc_id),
                    htlc: &self.on(state, view),
                    outgoing: self.outgoing,
                    incoming_msat: self.incoming_msat,
                    outgoing_msat: self.outgoing_msat,
                    hash: self.hash,
                })
            })
        };
        let Err(too_much) = admit() else { return Verdict::Continue };
        if !cap.may_look() {
            return refuse(too_much);
        }
        if let Err(error) = cap.look_again(&state.rpc, view).await {
            log::warn!("looking for dust that has ended: {error}");
        }
        admit().map_or_else(refuse, |()| Verdict::Continue)
    }

    /// How it would be held, if it is for a client and this node holds at all.
    fn to_hold(&self, state: &State) -> Option<Held> {
        let patience = state.holding.patience()?;
        let (channel, cltv_expiry) = (self.outgoing?, self.outgoing_cltv_expiry?);
        state.runtime.view().htlc(|view| {
            let policy = view.policies.get(&channel)?;
            Some(Held {
                instance: policy.instance,
                client: policy.client?,
                channel,
                amount_msat: self.outgoing_msat,
                cltv_expiry,
                until: clock::now().saturating_add(patience),
                last_height: last_height(&self.on(state, view)),
            })
        })
    }
}

fn answer_with(htlc: &Value, verdict: Verdict) -> Value {
    match verdict {
        Verdict::Continue => carry_on(),
        Verdict::Fail { failure, reason } => {
            log::info!("failing an HTLC of {} msat: {reason}", htlc["amount_msat"]);
            json!({"result": "fail", "failure_message": failure.message().to_lower_hex_string()})
        }
    }
}

async fn suspicion(state: &State, channels: [Option<ChannelId>; 2]) -> Verdict {
    let judge = || {
        let unconfirmed = channels.map(|channel| state.channels.unconfirmed(channel?));
        state.runtime.view().htlc(|view| judge_unchecked(view, unconfirmed))
    };
    if judge() == Verdict::Continue {
        return Verdict::Continue;
    }
    // Nobody tells us when a funding confirms: look once more before a payment fails for it.
    if let Err(error) = state.channels.refresh(&state.rpc).await {
        log::warn!("looking at channels before an HTLC fails: {error}");
    }
    judge()
}

/// An operator can complete an open that we accepted for a factory on whatever transaction it likes:
/// a channel that looks like one, isn't on chain and is none that we checked, takes nothing (S18).
fn judge_unchecked(view: &HtlcView, [incoming, outgoing]: [Option<KnownChannel>; 2]) -> Verdict {
    let suspect = |channel: Option<KnownChannel>| {
        channel.filter(|channel| view.suspects.contains(&(channel.peer, channel.capacity)))
    };
    let fail = |failure, channel: KnownChannel| Verdict::Fail {
        failure,
        reason: format!("channel {} was opened for a factory and isn't in any", channel.channel_id),
    };
    match (suspect(incoming), suspect(outgoing)) {
        (Some(channel), _) => fail(Failure::TemporaryNode, channel),
        (None, Some(channel)) => fail(Failure::TemporaryChannel, channel),
        (None, None) => Verdict::Continue,
    }
}

async fn wait_for_first_block(state: &State) {
    let known = || state.runtime.view().htlc(|view| view.height.is_some());
    let wait = async {
        while !known() {
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(START_PATIENCE, wait).await.is_err() {
        log::warn!("no block was handled within {} s of an HTLC", START_PATIENCE.as_secs());
    }
}

fn height(value: &Value) -> Option<Height> {
    value.as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_engine::types::{Amount, NodeId};

    // S18
    #[test]
    fn nothing_moves_on_a_channel_that_was_opened_for_a_factory_and_is_in_none() {
        let peer = NodeId([2; 33]);
        let capacity = Amount::from_sat(50_000);
        let looks_alike = KnownChannel { channel_id: ChannelId([1; 32]), peer, capacity, confirmed: None };
        let other_size = KnownChannel { capacity: Amount::from_sat(50_001), ..looks_alike };
        let other_peer = KnownChannel { peer: NodeId([3; 33]), ..looks_alike };
        let view = HtlcView { suspects: [(peer, capacity)].into(), ..HtlcView::default() };

        let failure = |channels| match judge_unchecked(&view, channels) {
            Verdict::Continue => None,
            Verdict::Fail { failure, .. } => Some(failure),
        };
        assert_eq!(failure([Some(looks_alike), None]), Some(Failure::TemporaryNode));
        assert_eq!(failure([None, Some(looks_alike)]), Some(Failure::TemporaryChannel));
        assert_eq!(failure([Some(other_size), Some(other_peer)]), None);
        // Confirmed, or not known: lightningd's own business.
        assert_eq!(failure([None, None]), None);
    }
}
