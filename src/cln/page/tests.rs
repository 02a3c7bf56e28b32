use super::*;

use std::collections::BTreeSet;
use std::sync::{Mutex as Quick, MutexGuard};

use http_body_util::BodyExt;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::cln::bare;
use crate::cln::scratch::Scratch;

/// What a lightningd has.
#[derive(Default)]
struct Inside {
    alias: String,
    runes: BTreeSet<&'static str>,
    /// It answers with errors alone.
    broken: bool,
    asked: Vec<(String, Value)>,
}

/// A lightningd without channels, and a plugin beside it.
struct World {
    inside: Arc<Quick<Inside>>,
    page: Arc<Page>,
    /// Its socket is there.
    _scratch: Scratch,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new();
        let socket = scratch.path().join("rpc");
        let listener = UnixListener::bind(&socket).unwrap();
        let inside = Arc::new(Quick::new(Inside::default()));
        let lightningd = Arc::clone(&inside);
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(answer_call(connection, Arc::clone(&lightningd)));
            }
        });
        let (state, inbox) = bare::idle(socket);
        bare::run(inbox);
        let world = Self { inside, page: Arc::new(Page::new(state)), _scratch: scratch };
        world.inside().runes.insert("good");
        world
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    fn asked(&self, method: &str) -> usize {
        self.inside().asked.iter().filter(|(asked, _)| asked == method).count()
    }

    /// Until lightningd has been asked so often.
    async fn until_asked(&self, method: &str, times: usize) {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        while self.asked(method) < times {
            looks.tick().await;
        }
    }

    fn run(&self) -> JoinHandle<()> {
        let page = Arc::clone(&self.page);
        tokio::spawn(async move { page.source.run().await })
    }

    async fn ask(&self, method: Method, path: &str, lines: &[(HeaderName, &str)]) -> Answer {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.clone(), value.parse().unwrap());
        }
        Arc::clone(&self.page).answer(&method, &path.parse::<Uri>().unwrap(), &headers, None).await
    }

    /// The page asks, with this rune.
    async fn watch(&self, rune: &str) -> Answer {
        let rune = format!("Bearer {rune}");
        self.ask(Method::GET, EVENTS, &[(HOST, "localhost"), (AUTHORIZATION, rune.as_str())]).await
    }
}

async fn answer_call(mut connection: UnixStream, inside: Arc<Quick<Inside>>) {
    let mut request = Vec::new();
    let request: Value = loop {
        if connection.read_buf(&mut request).await.unwrap() == 0 {
            return;
        }
        if let Ok(whole) = serde_json::from_slice(&request) {
            break whole;
        }
    };
    let answer = {
        let mut inside = inside.lock().unwrap();
        let method = request["method"].as_str().unwrap().to_owned();
        let params = request["params"].clone();
        inside.asked.push((method.clone(), params.clone()));
        said(&inside, &method, &params)
    };
    let (name, content) = match answer {
        Ok(result) => ("result", result),
        Err((code, message)) => ("error", json!({"code": code, "message": message})),
    };
    let text = json!({"jsonrpc": "2.0", "id": request["id"], name: content}).to_string();
    connection.write_all(format!("{text}\n\n").as_bytes()).await.unwrap();
}

fn said(inside: &Inside, method: &str, params: &Value) -> Result<Value, (i32, &'static str)> {
    if inside.broken {
        return Err((-1, "it is broken"));
    }
    Ok(match method {
        "getinfo" => json!({"alias": inside.alias, "blockheight": 100}),
        "listpeers" => json!({"peers": []}),
        "listpeerchannels" => json!({"channels": []}),
        "listfunds" => json!({"outputs": [], "channels": []}),
        "listdatastore" => json!({"datastore": []}),
        "checkrune" => match params["rune"].as_str().unwrap() {
            "status" if params["method"] != "factory-status" => {
                return Err((1502, "Not permitted: method is not equal to factory-status"));
            }
            "status" => json!({"valid": true}),
            rune if inside.runes.contains(rune) => json!({"valid": true}),
            _ => return Err((1501, "Not authorized: Not derived from master")),
        },
        _ => return Err((-32601, "Unknown command")),
    })
}

async fn read(answer: Answer) -> (StatusCode, Value) {
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// The next part of a stream; nothing once it has ended.
async fn part(answer: &mut Answer) -> Option<String> {
    let frame = answer.body_mut().frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

/// The next event of a stream: its name and its data.
async fn told(answer: &mut Answer) -> (String, Value) {
    let text = part(answer).await.unwrap();
    let lines: Vec<&str> = text.split('\n').collect();
    let [name, data, "", ""] = lines.as_slice() else { panic!("{text}") };
    let (name, data) = (name.strip_prefix("event: ").unwrap(), data.strip_prefix("data: ").unwrap());
    (name.to_owned(), serde_json::from_str(data).unwrap())
}

#[tokio::test]
async fn three_files_one_stream_and_nothing_else() {
    let world = World::new();
    let here = [(HOST, "127.0.0.1:9751")];
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let answer = world.ask(method, path, &here).await;
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            assert_eq!(answer.headers()[CONTENT_TYPE], content_type);
        }
        let answer = world.ask(Method::POST, path, &here).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
    }
    for method in [Method::POST, Method::HEAD, Method::OPTIONS] {
        let answer = world.ask(method, EVENTS, &here).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()[ALLOW], "GET");
    }
    for path in
        ["/index.html", "/page.css/", "/page/assets/index.html", "//", "/..", "/favicon.ico", "/events/"]
    {
        assert_eq!(world.ask(Method::GET, path, &here).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    // None of it asks lightningd anything.
    assert!(world.inside().asked.is_empty());
}

#[tokio::test]
async fn every_answer_has_its_headers() {
    let world = World::new();
    let (here, elsewhere) = ((HOST, "127.0.0.1:9751"), (HOST, "evil.example"));
    let (origin, rune) = ((ORIGIN, "http://evil.example"), (AUTHORIZATION, "Bearer good"));
    for (path, lines, expected) in [
        ("/", vec![here.clone()], StatusCode::OK),
        (EVENTS, vec![here.clone(), rune.clone()], StatusCode::OK),
        (EVENTS, vec![here.clone()], StatusCode::UNAUTHORIZED),
        ("/x", vec![here.clone()], StatusCode::NOT_FOUND),
        // Whatever is asked for.
        ("/", vec![elsewhere.clone()], StatusCode::MISDIRECTED_REQUEST),
        ("/x", vec![elsewhere.clone()], StatusCode::MISDIRECTED_REQUEST),
        (EVENTS, vec![elsewhere, rune.clone()], StatusCode::MISDIRECTED_REQUEST),
        ("/", vec![], StatusCode::MISDIRECTED_REQUEST),
        (EVENTS, vec![here, origin, rune], StatusCode::FORBIDDEN),
    ] {
        let answer = world.ask(Method::GET, path, &lines).await;
        assert_eq!(answer.status(), expected, "{path} {lines:?}");
        for (name, value) in HEADERS {
            assert_eq!(answer.headers()[name], value, "{path}");
        }
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    }
    // Only the rune of the page itself was asked about.
    assert_eq!(world.asked("checkrune"), 3);
}

/// The page says nothing in its own text that its policy forbids.
#[test]
fn nothing_comes_from_elsewhere() {
    for (path, _, text) in FILES {
        for foreign in
            ["http://", "https://", "style=\"", "onclick=", "onload=", "<script>", "<style", "javascript:"]
        {
            let links = ["http://www.w3.org/2000/svg", "http://127.0.0.1"];
            let text = links.iter().fold(text.to_owned(), |text, link| text.replace(link, ""));
            assert!(!text.contains(foreign), "{path}: {foreign}");
        }
    }
}

#[tokio::test]
async fn whoever_has_no_rune_is_told_how_to_make_one() {
    let world = World::new();
    for (rune, expected, said) in [
        (None, StatusCode::UNAUTHORIZED, "a rune is needed"),
        (Some("bad"), StatusCode::UNAUTHORIZED, "Not derived from master"),
        (Some("\"}"), StatusCode::UNAUTHORIZED, "a rune is needed"),
        (Some("status"), StatusCode::FORBIDDEN, "not equal to factory-status, for factory-list"),
    ] {
        let answer = match rune {
            Some(rune) => world.watch(rune).await,
            None => world.ask(Method::GET, EVENTS, &[(HOST, "[::1]:9751")]).await,
        };
        let bearer = answer.headers().contains_key(WWW_AUTHENTICATE);
        let (status, body) = read(answer).await;
        let error = body["error"].as_str().unwrap();
        assert_eq!((status, bearer), (expected, expected == StatusCode::UNAUTHORIZED), "{error}");
        assert!(
            error.contains(said) && error.contains("lightning-cli createrune restrictions='[["),
            "{error}"
        );
    }
    world.inside().broken = true;
    let (status, body) = read(world.watch("good").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["error"].as_str().unwrap().contains("it is broken"), "{body}");
    assert_eq!(world.page.open.available_permits(), OPEN);
    // Nobody watches, and nothing is looked at.
    assert_eq!((world.asked("getinfo"), world.page.source.watchers()), (0, 0));
}

/// Not even by hanging up before the answer.
#[tokio::test]
async fn whoever_tries_many_runes_takes_little_of_lightningds_time() {
    let world = World::new();
    let began = Instant::now();
    assert!(tokio::time::timeout(Duration::ZERO, world.watch("bad")).await.is_err());
    assert_eq!(world.watch("good").await.status(), StatusCode::OK);
    assert!(began.elapsed() >= PAUSE, "{:?}", began.elapsed());
    // One for the bad one, and three.
    assert_eq!(world.asked("checkrune"), 4);
}

/// As one asks a proxy: no browser does of its own accord.
#[tokio::test]
async fn what_is_asked_for_by_another_name_is_refused() {
    let world = World::new();
    let lines = [(HOST, "127.0.0.1:9751"), (AUTHORIZATION, "Bearer good")];
    for (target, expected) in [
        ("http://127.0.0.1:9751/events", StatusCode::OK),
        ("http://evil.example/events", StatusCode::MISDIRECTED_REQUEST),
    ] {
        assert_eq!(world.ask(Method::GET, target, &lines).await.status(), expected, "{target}");
    }
}

#[tokio::test]
async fn what_has_only_aged_is_not_sent_again() {
    let world = World::new();
    let state = State::clone(&world.page.state);
    world.inside().alias = "one".to_owned();
    // From now on it is known since when fees are known.
    crate::cln::feerates::rates(&state.rpc, &state.bitcoind, &state.feerates).await;
    let mut page = world.watch("good").await;
    let running = world.run();
    let (_, seen) = told(&mut page).await;
    assert!(seen["alias"] == "one" && seen["status"]["feerates"]["seconds_old"].is_u64(), "{seen}");
    // A second later.
    state.news.send_replace(101);
    world.until_asked("getinfo", 2).await;
    world.inside().alias = "two".to_owned();
    state.news.send_replace(102);
    assert_eq!(told(&mut page).await.1["alias"], "two");
    running.abort();
}

#[tokio::test]
async fn two_pages_share_a_look_and_hear_of_what_is_new() {
    let world = World::new();
    world.inside().alias = "one\u{202e}<b>".to_owned();
    let (mut first, mut second) = (world.watch("good").await, world.watch("good").await);
    assert_eq!(first.headers()[CONTENT_TYPE], "text/event-stream");
    let running = world.run();
    let (name, seen) = told(&mut first).await;
    assert_eq!((name.as_str(), seen["alias"].as_str()), ("state", Some("one\\u{202e}<b>")));
    assert_eq!(told(&mut second).await, (name, seen.clone()));
    assert_eq!(world.asked("getinfo"), 1);
    // What the commands answer.
    assert_eq!(seen["status"]["available"], true);
    assert_eq!(seen["ladder"]["state"], "none");
    assert_eq!((&seen["factories"], &seen["factories_left_out"]), (&json!([]), &json!(0)));
    for empty in ["trees", "exits", "channels", "aliases", "left_out"] {
        assert_eq!(seen[empty], json!({}), "{empty}");
    }
    world.inside().alias = "two".to_owned();
    world.page.state.news.send_replace(101);
    for page in [&mut first, &mut second] {
        let (name, seen) = told(page).await;
        assert_eq!((name.as_str(), seen["alias"].as_str()), ("state", Some("two")));
    }
    world.inside().broken = true;
    world.page.state.news.send_replace(102);
    let (name, trouble) = told(&mut first).await;
    assert!(name == "trouble" && trouble["error"].as_str().unwrap().contains("it is broken"), "{trouble}");
    // As it was: it is said again.
    world.inside().broken = false;
    world.page.state.news.send_replace(103);
    let (name, seen) = told(&mut first).await;
    assert_eq!((name.as_str(), seen["alias"].as_str()), ("state", Some("two")));
    assert!(!running.is_finished());
    running.abort();
}

#[tokio::test]
async fn as_many_pages_as_there_are_places() {
    let world = World::new();
    let mut pages = Vec::new();
    for _ in 0..OPEN {
        pages.push(world.watch("good").await);
    }
    let (status, body) = read(world.watch("good").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["error"].as_str().unwrap().contains("close one"), "{body}");
    // One is closed.
    pages.pop();
    let place = world.page.open.acquire().await.unwrap();
    drop(place);
    assert_eq!(world.watch("good").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_rune_that_is_taken_back_ends_what_it_has_begun() {
    let mut world = World::new();
    Arc::get_mut(&mut world.page).unwrap().recheck = Duration::ZERO;
    let mut page = world.watch("good").await;
    let running = world.run();
    assert_eq!(told(&mut page).await.0, "state");
    world.inside().runes.clear();
    world.inside().alias = "another".to_owned();
    world.page.state.news.send_replace(101);
    let (name, why) = told(&mut page).await;
    assert!(name == "end" && why["error"].as_str().unwrap().contains("Not derived"), "{why}");
    assert_eq!(part(&mut page).await, None);
    assert_eq!(world.page.open.acquire_many(u32::try_from(OPEN).unwrap()).await.unwrap().num_permits(), OPEN);
    running.abort();
}

/// A port in use is said, what to do about it too, and nothing else waits for it.
#[tokio::test]
async fn a_port_in_use_costs_nothing_but_the_page() {
    let world = World::new();
    let state = State::clone(&world.page.state);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut problem = state.web_problem.subscribe();
    let serving = tokio::spawn(serve(State::clone(&state), address));
    problem.changed().await.unwrap();
    let text = problem.borrow().clone().unwrap();
    assert!(text.contains("factory-web-bind") && text.contains(&address.to_string()), "{text}");
    assert!(!serving.is_finished());
    let status = crate::cln::methods::status::now(&state).await.unwrap();
    let warnings = status["warnings"].as_array().unwrap();
    let warning = warnings.iter().find(|warning| warning["code"] == "web").unwrap();
    assert!(warning["action"].as_str().unwrap().contains("factory-web-bind"), "{warning}");
    serving.abort();
}
