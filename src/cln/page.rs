//! `factory-web-bind`: a page that shows the factories, their trees and the node's health, live, and changes nothing. What
//! it needs to be reached from elsewhere, and who may see it: docs/operations.md.
//!
//! The page itself holds nothing secret. What it shows comes as events, to whoever has a rune of lightningd's for the
//! commands that answer the same. Like what serves metrics it guards nothing and may fail.

mod channels;
mod look;
mod names;
mod request;
mod rune;
mod source;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde_json::json;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::http::{self, Deadline, Limits, Offer, Stream};
use super::state::State;

use request::Foreign;
use rune::Denied;
use source::{Source, event};

/// What browsers may take up: a page is three questions at once, and then one that goes on.
const LIMITS: Limits = Limits { connections: 24, time: Duration::from_secs(30) };
/// Pages that are open at once: places are left for others to begin.
const OPEN: usize = 8;
/// A stream without news says so after so long, for whoever is between.
const ALIVE: Duration = Duration::from_secs(15);
/// A rune is asked for again when something is shown after so long.
const RECHECK: Duration = Duration::from_secs(60);
/// After one that isn't good no other is asked for, for so long: whoever tries many takes little of lightningd's time.
const PAUSE: Duration = Duration::from_millis(100);

/// What it is made of, and what it is called.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/assets/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/assets/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/assets/page.js")),
];
const EVENTS: &str = "/events";

/// Every answer's: nothing comes from elsewhere, nothing goes elsewhere, and nothing is kept.
const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
];

type Answer = Response<Either<Full<Bytes>, Stream>>;

/// Serves it for as long as the plugin runs. An address that can't be listened on is said, and tried again.
pub async fn serve(state: State, address: SocketAddr) {
    let page = Arc::new(Page::new(State::clone(&state)));
    tokio::spawn(keep_looking(Arc::clone(&page)));
    let offer = Offer { option: "factory-web-bind", what: "the page is", address, path: "/", limits: LIMITS };
    http::offer(offer, &state.web_problem, move |request: Request<Incoming>| {
        let page = Arc::clone(&page);
        async move {
            let (head, _) = request.into_parts();
            let deadline = head.extensions.get::<Deadline>().cloned();
            page.answer(&head.method, &head.uri, &head.headers, deadline).await
        }
    })
    .await;
}

/// A task of its own: should it end, that is a bug, and it is begun again.
async fn keep_looking(page: Arc<Page>) {
    loop {
        let looking = Arc::clone(&page);
        let ended = tokio::spawn(async move { looking.source.run().await }).await.err();
        let why = ended.map_or_else(|| "it returned".to_owned(), |error| error.to_string());
        log::error!("the page shows nothing new for a moment, please report it as a bug: {why}");
        tokio::time::sleep(ALIVE).await;
    }
}

/// What answers.
struct Page {
    state: State,
    source: Source,
    /// Places for pages that are open.
    open: Arc<Semaphore>,
    /// lightningd is asked about one rune at a time: whoever tries many is answered no faster.
    checking: Arc<Mutex<()>>,
    /// When a rune is asked for again.
    recheck: Duration,
}

impl Page {
    fn new(state: State) -> Self {
        Self {
            source: Source::new(State::clone(&state)),
            state,
            open: Arc::new(Semaphore::new(OPEN)),
            checking: Arc::default(),
            recheck: RECHECK,
        }
    }

    /// Answers, with the headers that every answer has.
    async fn answer(
        self: Arc<Self>,
        method: &Method,
        target: &Uri,
        headers: &HeaderMap,
        deadline: Option<Deadline>,
    ) -> Answer {
        let mut answer = match request::check(target, headers) {
            Ok(()) => self.answer_to(method, target.path(), headers, deadline).await,
            Err(Foreign::Host) => refused(
                StatusCode::MISDIRECTED_REQUEST,
                "ask for it by its address, such as http://127.0.0.1, or as localhost: a name could be anybody's",
            ),
            Err(Foreign::Origin) => {
                refused(StatusCode::FORBIDDEN, "another page asks for this: it gets nothing")
            }
        };
        for (name, value) in HEADERS {
            answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        answer
    }

    async fn answer_to(
        self: Arc<Self>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        deadline: Option<Deadline>,
    ) -> Answer {
        let file = FILES.into_iter().find(|(name, ..)| *name == path);
        if file.is_none() && path != EVENTS {
            return refused(StatusCode::NOT_FOUND, "there is nothing here: the page is at /");
        }
        let allowed = if file.is_some() { "GET, HEAD" } else { "GET" };
        if *method != Method::GET && (*method != Method::HEAD || file.is_none()) {
            let mut answer = refused(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return answer;
        }
        match file {
            Some((_, content_type, text)) => {
                http::whole(StatusCode::OK, content_type, text).map(Either::Left)
            }
            None => self.events(headers, deadline).await,
        }
    }

    async fn events(self: Arc<Self>, headers: &HeaderMap, deadline: Option<Deadline>) -> Answer {
        let Some(rune) = request::rune(headers).map(str::to_owned) else { return denied(Denied::nothing()) };
        if let Err(why) = self.check(&rune).await {
            return denied(why);
        }
        let Ok(place) = Arc::clone(&self.open).try_acquire_owned() else {
            let text = format!("{OPEN} pages are open already: close one");
            return refused(StatusCode::SERVICE_UNAVAILABLE, &text);
        };
        // The server puts it there.
        let deadline = deadline.unwrap_or_else(|| Deadline::new(LIMITS.time));
        let (parts, answer) = http::stream("text/event-stream", deadline);
        tokio::spawn(self.feed(rune, parts, place));
        answer.map(Either::Right)
    }

    /// Of somebody who comes new. Whoever hangs up meanwhile saves nobody the pause.
    async fn check(&self, rune: &str) -> Result<(), Denied> {
        let turn = Arc::clone(&self.checking).lock_owned().await;
        let (state, rune) = (State::clone(&self.state), rune.to_owned());
        let checking = tokio::spawn(async move {
            let checked = rune::check(&state.rpc, &rune).await;
            if checked.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            drop(turn);
            checked
        });
        checking.await.unwrap_or_else(|error| {
            Err(Denied::Unknown(format!("the plugin failed inside, please report it as a bug: {error}")))
        })
    }

    /// Sends what is new until nobody takes it any more, or the rune isn't good any more.
    async fn feed(self: Arc<Self>, rune: String, parts: mpsc::Sender<Bytes>, place: OwnedSemaphorePermit) {
        let mut shown = self.source.follow();
        let mut checked = Instant::now();
        while let Some(part) = next(&mut shown, &parts).await {
            if checked.elapsed() >= self.recheck {
                // Of few who are in: no turn, in which they would wait for strangers.
                match rune::check(&self.state.rpc, &rune).await {
                    Ok(()) => checked = Instant::now(),
                    // It was good a while ago, and lightningd is asked again soon.
                    Err(Denied::Unknown(why)) => log::debug!("{why}"),
                    Err(Denied::Bad(why) | Denied::NotForThis(why)) => {
                        // Whoever has gone needs no word.
                        let _ = parts.send(event("end", &json!({"error": why}))).await;
                        break;
                    }
                }
            }
            if parts.send(part).await.is_err() {
                break;
            }
        }
        drop(place);
    }
}

/// What is to be sent next; nothing if there is nobody to send it to.
async fn next(shown: &mut watch::Receiver<Option<Bytes>>, parts: &mpsc::Sender<Bytes>) -> Option<Bytes> {
    let news = async {
        while shown.changed().await.is_ok() {
            if let Some(event) = shown.borrow_and_update().clone() {
                return Some(event);
            }
        }
        None
    };
    tokio::select! {
        news = news => news,
        () = tokio::time::sleep(ALIVE) => Some(Bytes::from_static(b": alive\n\n")),
        () = parts.closed() => None,
    }
}

fn refused(status: StatusCode, why: &str) -> Answer {
    let text = json!({"error": why}).to_string();
    http::whole(status, "application/json", text).map(Either::Left)
}

fn denied(why: Denied) -> Answer {
    match why {
        Denied::Bad(why) => {
            let mut answer = refused(StatusCode::UNAUTHORIZED, &why);
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            answer
        }
        Denied::NotForThis(why) => refused(StatusCode::FORBIDDEN, &why),
        Denied::Unknown(why) => refused(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

#[cfg(test)]
mod tests;
