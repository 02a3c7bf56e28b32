//! A small HTTP server: what is served is small, and whoever asks is next door. Few connections at once, each for one
//! question, and none for long: a client that is slow, or sends what it likes, takes no memory worth mentioning.
//!
//! Nothing here guards anything: a task of its own may end without harm.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Bytes of a request's head: the least that hyper takes.
const HEAD_BYTES: usize = 8 * 1024;
/// Lines of it.
const HEADERS: usize = 32;
/// How long it may take to come.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// After a connection that couldn't be taken.
const PAUSE: Duration = Duration::from_secs(1);

/// What clients may take up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; further ones wait.
    pub connections: usize,
    /// How long each may last, the answer included.
    pub time: Duration,
}

/// Serves for as long as it is polled; a panic of the handler costs one connection.
pub async fn serve<H, F, B>(listener: TcpListener, limits: Limits, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    // Nobody closes it.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::debug!("cannot take a connection: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(limits.time, answer(stream, handler)).await.is_err() {
                log::debug!("a connection took longer than {} s", limits.time.as_secs());
            }
            drop(place);
        });
    }
}

async fn answer<H, F, B>(stream: TcpStream, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        log::debug!("a connection ended early: {error}");
    }
}

/// An answer in one piece.
pub fn whole(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const TEXT: &str = "text/plain";

    async fn start(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        tokio::spawn(serve(listener, limits, move |request: Request<Incoming>| {
            let asked = Arc::clone(&asked);
            async move {
                assert_ne!(request.uri().path(), "/panic", "on purpose");
                let number = asked.fetch_add(1, Ordering::Relaxed);
                whole(StatusCode::OK, TEXT, format!("answer {number}"))
            }
        }));
        address
    }

    /// What comes back for these bytes, until the server closes.
    async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may have enough before it has all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    const LIMITS: Limits = Limits { connections: 2, time: Duration::from_secs(10) };

    #[tokio::test]
    async fn one_question_a_connection_and_bad_ones_end_themselves_alone() {
        let address = start(LIMITS).await;
        let good = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let first = exchange(address, &[&good[..], &good[..]].concat()).await;
        assert!(first.starts_with("HTTP/1.1 200 ") && first.ends_with("answer 0"), "{first}");
        assert_eq!(first.matches("HTTP/1.1").count(), 1, "{first}");
        assert!(exchange(address, b"\x00\xff nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
        assert!(!exchange(address, long.as_bytes()).await.starts_with("HTTP/1.1 200 "));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
        assert!(exchange(address, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
        assert_eq!(exchange(address, b"GET /panic HTTP/1.1\r\n\r\n").await, "");
        assert!(exchange(address, good).await.ends_with("answer 1"));
    }

    /// As many as there are places say nothing; whoever comes after them waits no longer than they may.
    #[tokio::test]
    async fn slow_clients_give_their_places_back() {
        let address = start(Limits { time: Duration::from_millis(300), ..LIMITS }).await;
        let mut silent = Vec::new();
        for _ in 0..LIMITS.connections {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HT").await.unwrap();
            silent.push(stream);
        }
        let served = exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(served.ends_with("answer 0"), "{served}");
    }
}
