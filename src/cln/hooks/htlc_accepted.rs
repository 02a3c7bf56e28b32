//! `htlc_accepted`: HTLCs that come or go over a factory's channel have to leave time for an exit
//! (S15), and wait for the channel to be usable (S18). Where that can't be told, nothing moves on what may be a
//! factory's channel (S33). Others are answered at once, from memory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bitcoin::hex::{DisplayHex, FromHex};
use factory_engine::KnownChannel;
use factory_engine::admission::dust::Asking;
use factory_engine::admission::hold::{Held, last_height};
use factory_engine::admission::htlc::{Failure, Htlc, Upstream, Verdict, admit};
use factory_engine::types::{ChannelId, Height};
use factory_runtime::{HtlcView, View, clock};
use serde_json::{Value, json};

use super::super::dust::refuse;
use super::super::htlcs::msat;
use super::super::state::State;
use super::super::tally::Refused;
use super::{carry_on, waiting};

/// How long after the plugin's start HTLCs wait for what it knows of the chain. lightningd replays unresolved
/// ones before we know the chain's height; failing them then would be failing them for nothing.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// As often lightningd is asked, a second apart, before an HTLC is failed for what others take up: it lists them
/// for a moment after their payers know that they are over.
const LOOKS: u32 = 2;
const POLL: Duration = Duration::from_millis(50);

/// Answers `htlc_accepted`: carries on, holds the HTLC, or fails it back.
pub async fn answer(state: &State, request: &Value) -> Value {
    let view = state.runtime.view();
    #[cfg(feature = "faults")]
    factory_runtime::faults::panic_at("hook");
    if view.is_certain() && view.htlc(|view| view.policies.is_empty() && view.suspects.is_empty()) {
        return carry_on();
    }
    #[cfg(feature = "faults")]
    if factory_runtime::faults::is_lax() {
        return carry_on();
    }
    let htlc = &request["htlc"];
    let sides = Sides::of(state, request).await;
    let verdict = suspicion(state, &sides).await;
    let Sides { incoming, outgoing, .. } = sides;
    if verdict != Verdict::Continue || !sides.uses_factory(state) {
        return answer_with(state, htlc, verdict);
    }
    // One that lightningd doesn't say leaves no time for anything.
    let cltv_expiry = height(&htlc["cltv_expiry"]).unwrap_or(0);
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
    let tip = || ahead.max(*state.news.borrow());
    let now = || view.htlc(|view| view.height).unwrap_or(0).max(tip());
    wait_until_seeing(state, tip).await;
    let judge = || match blind(state, tip()) {
        Some(why) => sides.fail(state, &why),
        None => view.htlc(|view| admit(&arrived.on(state, view), now_of(view, tip()))),
    };
    let verdict = match judge() {
        Verdict::Continue => arrived.dust(state).await,
        refused => refused,
    };
    let verdict = match (verdict, arrived.to_hold(state)) {
        (Verdict::Continue, Some(held)) => waiting::wait(state, held, now, judge).await,
        (verdict, _) => verdict,
    };
    answer_with(state, htlc, verdict)
}

fn now_of(view: &HtlcView, tip: Height) -> Height {
    view.height.unwrap_or(0).max(tip)
}

/// Why nothing is taken on a factory's channel, whatever is known of it (S33).
fn blind(state: &State, tip: Height) -> Option<String> {
    let view = state.runtime.view();
    view.stale().map(str::to_owned).or_else(|| view.htlc(|view| view.behind(tip)))
}

/// Answers instead of [`answer`] after that has panicked: what may be a factory's is failed, the rest goes on.
pub async fn answer_after_panic(state: &State, request: &Value) -> Value {
    #[cfg(feature = "faults")]
    factory_runtime::faults::panic_at("hook-twice");
    let sides = Sides::of(state, request).await;
    let verdict = match suspicion(state, &sides).await {
        Verdict::Continue if sides.uses_factory(state) => sides.fail(state, "the hook panicked"),
        verdict => verdict,
    };
    answer_with(state, &request["htlc"], verdict)
}

/// Where not even that can be said any HTLC may be a factory's.
pub fn worst() -> Value {
    json!({"result": "fail", "failure_message": Failure::TemporaryNode.message().to_lower_hex_string()})
}

/// The channels that an HTLC uses.
#[derive(Debug, Clone, Copy)]
struct Sides {
    incoming: Option<ChannelId>,
    outgoing: Option<ChannelId>,
    /// A channel that lightningd names and doesn't list.
    unknown: bool,
}

impl Sides {
    async fn of(state: &State, request: &Value) -> Self {
        let outgoing = request["forward_to"].as_str().and_then(|text| text.parse().ok());
        let scid = request["htlc"]["short_channel_id"].as_str();
        let incoming = match scid {
            Some(scid) => state.channels.find(&state.rpc, scid).await,
            None => None,
        };
        Self { incoming, outgoing, unknown: scid.is_some() && incoming.is_none() }
    }

    fn uses_factory(&self, state: &State) -> bool {
        self.is_ours(state, self.incoming) || self.is_ours(state, self.outgoing)
    }

    fn is_ours(&self, state: &State, channel: Option<ChannelId>) -> bool {
        channel.is_some_and(|id| state.runtime.view().htlc(|view| view.policies.contains_key(&id)))
    }

    fn fail(&self, state: &State, why: &str) -> Verdict {
        let incoming = self.is_ours(state, self.incoming);
        let failure = if incoming { Failure::TemporaryNode } else { Failure::TemporaryChannel };
        Verdict::Fail { failure, reason: format!("a factory's channel takes nothing now: {why}") }
    }
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
        let Err(mut too_much) = admit() else { return Verdict::Continue };
        for _ in 0..LOOKS {
            tokio::time::sleep(cap.pause()).await;
            if cap.may_look()
                && let Err(error) = cap.look_again(&state.rpc, &state.mirror, &state.channels, view).await
            {
                log::warn!("looking for dust that has ended: {error}");
            }
            match admit() {
                Ok(()) => return Verdict::Continue,
                Err(again) => too_much = again,
            }
        }
        refuse(too_much)
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

fn answer_with(state: &State, htlc: &Value, verdict: Verdict) -> Value {
    match verdict {
        Verdict::Continue => carry_on(),
        Verdict::Fail { failure, reason } => {
            log::info!("failing an HTLC of {} msat: {reason}", htlc["amount_msat"]);
            state.tally.refused(Refused::Htlc, failure.name());
            json!({"result": "fail", "failure_message": failure.message().to_lower_hex_string()})
        }
    }
}

/// Whether a channel that no policy is about may be a factory's all the same (S18, S33).
async fn suspicion(state: &State, sides: &Sides) -> Verdict {
    let judge = || {
        let others = [sides.incoming, sides.outgoing].map(|channel| {
            let id = channel.filter(|_| !sides.is_ours(state, channel))?;
            (!state.channels.is_confirmed(id)).then(|| (id, state.channels.unconfirmed(id)))
        });
        let known = others.map(|other| other.and_then(|(_, known)| known));
        match state.runtime.view().htlc(|view| judge_unchecked(view, known)) {
            Verdict::Continue => doubt(state.runtime.view(), sides.unknown, others),
            refused => refused,
        }
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

/// A channel with its description, if lightningd has given one.
type Unconfirmed = Option<(ChannelId, Option<KnownChannel>)>;

/// S33: as long as it can't be told which channels are factories', nothing moves on one whose funding isn't on
/// chain. All others go on.
fn doubt(view: &View, unknown: bool, [incoming, outgoing]: [Unconfirmed; 2]) -> Verdict {
    let why = |(_, known): (ChannelId, Option<KnownChannel>)| view.doubt(known.map(|known| known.peer));
    let unknown = || unknown.then(|| view.doubt(None)).flatten();
    let fail = |failure, why| Verdict::Fail {
        failure,
        reason: format!("a channel that is not on chain may be in a factory: {why}"),
    };
    match (incoming.and_then(why).or_else(unknown), outgoing.and_then(why)) {
        (Some(why), _) => fail(Failure::TemporaryNode, why),
        (None, Some(why)) => fail(Failure::TemporaryChannel, why),
        (None, None) => Verdict::Continue,
    }
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

/// Soon after a start: until the blocks are handled that lightningd has. Later nothing waits.
async fn wait_until_seeing(state: &State, tip: impl Fn() -> Height) {
    let running = Duration::from_millis(clock::now().saturating_sub(state.started));
    let wait = async {
        // To the tip: what confirmed in the blocks between may decide.
        let behind = || state.runtime.view().htlc(|view| view.height.is_none_or(|height| height < tip()));
        while blind(state, tip()).is_some() || behind() {
            if state.sighted.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        state.sighted.store(true, Ordering::Relaxed);
    };
    // What can't be waited for is failed.
    let _ = tokio::time::timeout(START_PATIENCE.saturating_sub(running), wait).await;
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

    // S33
    #[test]
    fn while_nothing_is_known_nothing_moves_on_a_channel_that_is_not_on_chain() {
        let (handle, _inbox) = factory_runtime::channel();
        let view = handle.view();
        let channel = Some((ChannelId([1; 32]), None));
        let failure = |unknown, channels| match doubt(view, unknown, channels) {
            Verdict::Continue => None,
            Verdict::Fail { failure, .. } => Some(failure),
        };
        assert_eq!(failure(false, [channel, None]), Some(Failure::TemporaryNode));
        assert_eq!(failure(false, [None, channel]), Some(Failure::TemporaryChannel));
        // lightningd names one that it doesn't list.
        assert_eq!(failure(true, [None, None]), Some(Failure::TemporaryNode));
        // Others are on chain: they go on.
        assert_eq!(failure(false, [None, None]), None);
    }
}
