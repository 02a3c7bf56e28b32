use super::*;

use factory_runtime::Inbox;
use http_body_util::BodyExt;
use tokio::net::TcpListener;

use crate::cln::bare::{self, run};

/// A plugin without factories, whose lightningd is gone.
fn source() -> Source {
    let (source, inbox) = idle();
    run(inbox);
    source
}

/// The same, and its engine has other things to do.
fn idle() -> (Source, Inbox) {
    let (state, inbox) = bare::idle("/nonexistent/lightning-rpc".into());
    (Source::new(state), inbox)
}

async fn answer(source: &Source, method: Method, path: &str) -> (StatusCode, String) {
    let response = source.answer(&method, path).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn two_paths_and_one_method() {
    let source = source();
    let (status, page) = answer(&source, Method::GET, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("\ncln_factory_factories{role=\"lsp\",state=\"active\"} 0\n"), "{page}");
    // What lightningd would have to say isn't there, and nothing else is missing for it.
    assert!(!page.contains("reserve_covered"), "{page}");
    assert_eq!(answer(&source, Method::GET, "/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    for path in ["/", "/metrics/", "/metric", "//metrics", "/favicon.ico"] {
        assert_eq!(answer(&source, Method::GET, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for method in [Method::POST, Method::HEAD, Method::PUT, Method::OPTIONS] {
        assert_eq!(answer(&source, method, "/metrics").await.0, StatusCode::METHOD_NOT_ALLOWED);
    }
    source.state.unavailable.send_replace(Some("the disk is on fire".to_owned()));
    assert_eq!(answer(&source, Method::GET, "/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn within_a_second_the_same_answer_and_no_second_look() {
    let source = source();
    let (_, first) = answer(&source, Method::GET, "/metrics").await;
    source.state.tally.stored(Duration::from_millis(3), false);
    let (_, again) = answer(&source, Method::GET, "/metrics").await;
    assert_eq!(first, again);
    // As if it had been made longer ago.
    if let Some((at, _)) = &mut source.last.lock().await.page {
        *at -= FRESH;
    }
    let (_, later) = answer(&source, Method::GET, "/metrics").await;
    assert!(later.contains("\ncln_factory_store_failures_total 1\n"), "{later}");
}

/// Connections that go take nothing with them, and the next one waits for the same page.
#[tokio::test]
async fn one_page_is_made_at_a_time() {
    let (source, inbox) = idle();
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::ZERO, source.page()).await.is_err());
        // This one's, and that of the page that is being made.
        assert_eq!(Arc::strong_count(&source.wallet), 2);
    }
    run(inbox);
    let (status, page) = answer(&source, Method::GET, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("\ncln_factory_factories{role=\"lsp\",state=\"active\"} 0\n"), "{page}");
    assert!(source.last.lock().await.making.is_none());
}

/// A port in use is said, what to do about it too, and it is taken once it is free.
#[tokio::test]
async fn a_port_in_use_costs_nothing_but_the_metrics() {
    let state = source().state;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut problem = state.metrics_problem.subscribe();
    let serving = tokio::spawn(serve(State::clone(&state), address));
    problem.changed().await.unwrap();
    let text = problem.borrow().clone().unwrap();
    assert!(text.contains("factory-metrics-bind") && text.contains(&address.to_string()), "{text}");
    assert!(!serving.is_finished());
    serving.abort();
}
