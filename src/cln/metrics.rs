//! `factory-metrics-bind`: numbers for an operator's monitoring, as Prometheus reads them. What each means, what wakes
//! somebody and a board that shows them: docs/operations.md.
//!
//! Whoever asks disturbs nothing: one look at the engine at a time, as `factory-status` takes it, and no more than one a
//! second, however many ask and give up. What serves it guards nothing and may fail: a look that panics costs an answer.

mod page;
mod reserve;
mod seen;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use factory_runtime::clock;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio::sync::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::http::{self, Limits, Offer};
use super::methods::fees::Reserve;
use super::state::State;

use page::Seen;
use reserve::Wallet;
use seen::{Asked, look};

/// What scrapers may take up: one asks every few seconds, and has its answer soon.
const LIMITS: Limits = Limits { connections: 8, time: Duration::from_secs(10) };
/// An answer is given again for so long.
const FRESH: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";

/// Serves them for as long as the plugin runs. An address that can't be listened on is said, and tried again.
pub async fn serve(state: State, address: SocketAddr) {
    tokio::spawn(count_states(State::clone(&state)));
    let source = Arc::new(Source::new(State::clone(&state)));
    let offer = Offer {
        option: "factory-metrics-bind",
        what: "metrics are",
        address,
        path: "/metrics",
        limits: LIMITS,
    };
    http::offer(offer, &state.metrics_problem, move |request| {
        let source = Arc::clone(&source);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        async move { source.answer(&method, &path).await }
    })
    .await;
}

/// Notes each change of a factory's state.
async fn count_states(state: State) {
    let mut transitions = state.runtime.transitions();
    loop {
        match transitions.recv().await {
            Ok(change) => state.tally.state_changed(change.instance, change.new, Instant::now()),
            // What was missed isn't counted; the next look says where factories are.
            Err(RecvError::Lagged(_)) => state.tally.states_missed(),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Where answers come from.
struct Source {
    state: State,
    last: Mutex<Last>,
    wallet: Arc<Mutex<Wallet>>,
}

/// A page, and when it was made; or why it can't be.
type Made = Result<(Instant, Bytes), String>;

/// The last answer.
#[derive(Default)]
struct Last {
    page: Option<(Instant, Bytes)>,
    /// The next one, until somebody has taken it. It goes on if those who wait for it go.
    making: Option<JoinHandle<Made>>,
}

impl Source {
    fn new(state: State) -> Self {
        Self { state, last: Mutex::default(), wallet: Arc::default() }
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/metrics" | "/healthz" if *method != Method::GET => {
                let mut refused = http::whole(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
                refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
                refused
            }
            "/metrics" => match self.page().await {
                Ok(page) => http::whole(StatusCode::OK, page::CONTENT_TYPE, page),
                Err(error) => {
                    log::error!("metrics can't be written: {error}");
                    http::whole(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "see the log\n")
                }
            },
            "/healthz" if self.state.unavailable.borrow().is_none() => {
                http::whole(StatusCode::OK, TEXT, "ok\n")
            }
            "/healthz" => http::whole(
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                "what is stored can't be read: see factory-status\n",
            ),
            _ => http::whole(StatusCode::NOT_FOUND, TEXT, "cln-factory: /metrics and /healthz\n"),
        }
    }

    /// Whoever comes while it is being made waits for it.
    async fn page(&self) -> Result<Bytes, String> {
        let mut last = self.last.lock().await;
        // One that was made for somebody who has gone.
        if let Some(making) = last.making.take_if(|making| making.is_finished())
            && let Ok(Ok(made)) = making.await
        {
            last.page = Some(made);
        }
        if let Some((at, page)) = &last.page
            && at.elapsed() < FRESH
        {
            return Ok(page.clone());
        }
        let begin = || tokio::spawn(make(State::clone(&self.state), Arc::clone(&self.wallet)));
        let made = last.making.get_or_insert_with(begin).await;
        last.making = None;
        let (at, page) = made.map_err(|error| error.to_string())??;
        last.page = Some((at, page.clone()));
        Ok(page)
    }
}

async fn make(state: State, wallet: Arc<Mutex<Wallet>>) -> Made {
    let mut wallet = wallet.lock().await;
    let seen = see(&state, &mut wallet).await?;
    let page = page::write(&seen, &state.tally).map_err(|error| error.to_string())?;
    Ok((Instant::now(), Bytes::from(page)))
}

async fn see(state: &State, wallet: &mut Wallet) -> Result<Seen, String> {
    let config = &state.config;
    let asked = Asked {
        invite_timeout: config.invite_timeout,
        ceremony_timeout: config.ceremony_timeout,
        towers: config.towers.clone(),
        now: clock::now(),
    };
    // Everything else of the plugin goes on if a look panics.
    let read = state.runtime.read(move |engine, height| {
        (Instant::now(), catch_unwind(AssertUnwindSafe(|| look(engine, height, &asked))))
    });
    let known = match read.await {
        Ok((at, Ok(known))) => Some((at, known)),
        Ok((_, Err(_))) => return Err("a look at the engine failed, please report it as a bug".to_owned()),
        Err(_) => None,
    };
    let (scan, lightningd) = (state.scan.get(), *state.news.borrow());
    let available = state.unavailable.borrow().is_none();
    let reserve = if available && known.is_some() {
        let state = State::clone(state);
        wallet.look(lightningd, || async move { Reserve::now(&state).await }).await
    } else {
        None
    };
    let oldest = known.as_ref().map(|(at, known)| state.tally.oldest(&known.creating, *at, Instant::now()));
    let held = state.holding.all();
    Ok(Seen {
        available,
        important: state.important,
        started: state.started,
        scan,
        lightningd,
        backend_trouble: state.chain_problem.borrow().is_some(),
        held: (held.len(), held.iter().fold(0, |sum, held| held.amount_msat.saturating_add(sum))),
        oldest: oldest.unwrap_or_default(),
        known: known.map(|(_, known)| known),
        reserve,
    })
}

#[cfg(test)]
mod tests;
