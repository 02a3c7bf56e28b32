//! A small HTTP server: what is served is small, and whoever asks is next door. Few connections at once, each for one
//! question, and none for longer than somebody takes what it gives: a client that is slow, or sends what it likes, takes
//! no memory worth mentioning.
//!
//! Nothing here guards anything: a task of its own may end without harm.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Bytes of a request's head: the least that hyper takes.
const HEAD_BYTES: usize = 8 * 1024;
/// Lines of it.
const HEADERS: usize = 32;
/// How long it may take to come.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// After a connection that couldn't be taken.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two attempts to listen.
const AGAIN: Duration = Duration::from_secs(10);

/// What clients may take up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; further ones wait.
    pub connections: usize,
    /// How long each may last, the answer included; one that goes on ([`Stream`]), until it takes a part of it again.
    pub time: Duration,
}

/// What an option has served, and where.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// The option.
    pub option: &'static str,
    /// What it is, with its verb, for the log.
    pub what: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it begins there.
    pub path: &'static str,
    /// What clients may take up.
    pub limits: Limits,
}

/// Serves it for as long as the plugin runs. An address that can't be listened on is said, in `problem` too, and tried
/// again.
pub async fn offer<H, F, B>(offer: Offer, problem: &watch::Sender<Option<String>>, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Offer { option, what, address, path, limits } = offer;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                log::info!("{what} served at http://{address}{path}");
                problem.send_replace(None);
                // A task of its own: should it end, that is a bug, and it is begun again.
                let ended = tokio::spawn(serve(listener, limits, handler.clone())).await.err();
                let why = ended.map_or_else(|| "it returned".to_owned(), |error| error.to_string());
                log::error!("{what} not served for a moment, please report it as a bug: {why}");
            }
            Err(error) => {
                let text = format!("{option}: cannot listen on {address}: {error}");
                let known = problem.send_replace(Some(text.clone()));
                if known.as_deref() != Some(text.as_str()) {
                    log::error!(
                        "{text}: end what has that port, or choose another address; it is tried again every {} s, and \
                         factories are guarded all the same",
                        AGAIN.as_secs()
                    );
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
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
        let (handler, deadline) = (handler.clone(), Deadline::new(limits.time));
        tokio::spawn(async move {
            tokio::select! {
                () = answer(stream, deadline.clone(), handler) => {}
                () = deadline.passed() => log::debug!("a connection took longer than {} s", limits.time.as_secs()),
            }
            drop(place);
        });
    }
}

/// Until when a connection may last. The handler finds it among the request's extensions.
#[derive(Debug, Clone)]
pub struct Deadline {
    at: watch::Sender<Instant>,
    time: Duration,
}

impl Deadline {
    /// So long from now on.
    pub fn new(time: Duration) -> Self {
        Self { at: watch::Sender::new(Instant::now() + time), time }
    }

    /// As long again from now on.
    fn put_off(&self) {
        self.at.send_replace(Instant::now() + self.time);
    }

    /// Returns once it has passed.
    async fn passed(&self) {
        loop {
            let at = *self.at.borrow();
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at).await;
        }
    }
}

async fn answer<H, F, B>(stream: TcpStream, deadline: Deadline, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(deadline.clone());
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

/// An answer that goes on: each part that the client takes puts the end of its connection off.
#[derive(Debug)]
pub struct Stream {
    parts: mpsc::Receiver<Bytes>,
    deadline: Deadline,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // It is asked for when there is room for it.
        let part = ready!(self.parts.poll_recv(context));
        if part.is_some() {
            self.deadline.put_off();
        }
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }
}

/// An answer of which more comes, for as long as its sender is there. One part waits at most; the sender is closed when
/// the client has gone, or has taken nothing for too long.
pub fn stream(content_type: &'static str, deadline: Deadline) -> (mpsc::Sender<Bytes>, Response<Stream>) {
    let (sender, parts) = mpsc::channel(1);
    let mut response = Response::new(Stream { parts, deadline });
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    (sender, response)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    async fn start_stream(limits: Limits) -> (SocketAddr, mpsc::UnboundedReceiver<mpsc::Sender<Bytes>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, senders) = mpsc::unbounded_channel();
        tokio::spawn(serve(listener, limits, move |request: Request<Incoming>| {
            let deadline = request.extensions().get::<Deadline>().unwrap().clone();
            let (sender, response) = stream(TEXT, deadline);
            begun.send(sender).unwrap();
            async move { response }
        }));
        (address, senders)
    }

    /// It lasts for as long as its parts are taken, whatever an answer may take otherwise; who takes none is dropped.
    #[tokio::test]
    async fn a_stream_lasts_for_as_long_as_it_is_taken() {
        let limits = Limits { time: Duration::from_secs(1), ..LIMITS };
        let (address, mut senders) = start_stream(limits).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let sender = senders.recv().await.unwrap();
        let began = Instant::now();
        for number in 0.. {
            if began.elapsed() > limits.time * 2 {
                break;
            }
            let text = format!("part {number}.");
            sender.send(Bytes::from(text.clone())).await.unwrap();
            let mut taken = String::new();
            while !taken.contains(&text) {
                let mut some = [0; 1024];
                let length = client.read(&mut some).await.unwrap();
                assert!(length > 0, "{taken}");
                taken.push_str(&String::from_utf8_lossy(&some[..length]));
            }
            // Now and then, as news come.
            tokio::time::sleep(limits.time / 20).await;
        }
        drop(client);
        sender.closed().await;
        // Another one never reads: in the end its parts find no room, and its place is free again.
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let sender = senders.recv().await.unwrap();
        let part = Bytes::from(vec![b'x'; 1 << 20]);
        while sender.send(part.clone()).await.is_ok() {}
        drop(client);
    }
}
