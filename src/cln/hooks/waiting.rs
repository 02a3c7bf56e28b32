//! An HTLC that waits for its client.

use std::time::Duration;

use factory_engine::admission::hold::Held;
use factory_engine::admission::htlc::Verdict;
use factory_engine::types::Height;
use factory_runtime::now;

use crate::cln::holding::{Presence, fail};
use crate::cln::state::State;
use crate::cln::words;

/// Waits until the client can take the HTLC, or that may not be waited for any longer. `judge` says
/// whether it is still admitted, `height` how high the chain is.
pub async fn wait(
    state: &State,
    held: Held,
    height: impl Fn() -> Height,
    judge: impl Fn() -> Verdict,
) -> Verdict {
    let holding = &state.holding;
    // Without an answer, lightningd does what it does without us.
    match holding.presence(&state.rpc, held.client, held.channel).await {
        None | Some(Presence::Ready) => return Verdict::Continue,
        Some(Presence::Away | Presence::Coming) => {}
    }
    let place = match holding.hold(&held, height()) {
        Ok(place) => place,
        Err(full) => return fail(&held, &words::full(full)),
    };
    let (client, amount) = (held.client, held.amount_msat);
    log::info!("holding an HTLC of {amount} msat for {client}, which is not connected");
    if let Some(moved) = holding.begin_watch(client) {
        let state = State::clone(state);
        tokio::spawn(async move { state.holding.watch_over(&state.rpc, client, moved).await });
    }
    let (mut seen, mut blocks) = (holding.seen.subscribe(), state.news.subscribe());
    let verdict = loop {
        let verdict = judge();
        if verdict != Verdict::Continue {
            break verdict;
        }
        if let Some(reason) = held.over(now(), height()) {
            break fail(&held, &reason);
        }
        if holding.known(client, held.channel) == Some(Presence::Ready) {
            log::info!("{client} can take the HTLC of {amount} msat that was held for it");
            break Verdict::Continue;
        }
        let rest = Duration::from_millis(held.until.saturating_sub(now()));
        tokio::select! {
            Ok(()) = seen.changed() => {}
            Ok(()) = blocks.changed() => {}
            () = tokio::time::sleep(rest) => {}
        }
    };
    drop(place);
    verdict
}
