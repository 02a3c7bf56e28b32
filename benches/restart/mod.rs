//! A start with a large store, and ten times as many factories that were archived: through the plugin's own code, from lightningd's answers to
//! `listdatastore` to an engine. lightningd itself is a thread here that has its answers ready; its CPU time
//! counts, too.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::hashes::{Hash, sha256};
use bitcoin::hex::DisplayHex;
use cln_factory::cln::client::Rpc;
use cln_factory::cln::{boot, datastore};
use factory_engine::record::event::encode_record;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::{Config, Engine};
use factory_runtime::store::{History, Store};
use serde_json::{Value, json};

use super::common::{Mould, node};

/// Seconds of CPU, on however many cores, from the first question to an engine that has everything.
const GOAL: f64 = 10.0;

/// For each factory that lives, so many that are over.
const ARCHIVED: usize = 10;

/// CPU time of all threads.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn seconds(started: Duration) -> f64 {
    (cpu_time() - started).as_secs_f64()
}

/// What an operator, or the first client, has stored of so many active factories.
pub fn histories(factories: u32, clients: u32, lsp: bool) -> Vec<History> {
    let mould = Mould::new(clients);
    let history = |factory| {
        let (instance, records) = mould.records(factory, lsp);
        (instance, records.iter().map(|events| encode_record(events)).collect())
    };
    (0..factories).map(history).collect()
}

/// Prints how long a start takes and what of it; fails if it is too long.
pub fn measure(factories: u32, clients: u32, lsp: bool) {
    let histories = histories(factories, clients, lsp);
    let count: usize = histories.iter().map(|(_, records)| records.len()).sum();
    let bytes: usize = histories.iter().flat_map(|(_, records)| records).map(Vec::len).sum();
    let directory = std::env::temp_dir().join(format!("cln-factory-restart-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let socket = directory.join("rpc");
    serve(&socket, answers(&histories));
    drop(histories);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (reading, all, took) = runtime.block_on(async {
        let started = cpu_time();
        let mut store = datastore::store(Rpc::new(socket.clone()));
        drop(store.load_all().await.unwrap());
        let reading = seconds(started);
        let me = if lsp { node(u32::MAX) } else { node(0) };
        let engine = Engine::new(me, MasterSecret::new([3; 32]), Config::default());
        let (started, begun) = (cpu_time(), Instant::now());
        let loaded = boot::load(engine, datastore::store(Rpc::new(socket))).await;
        let (all, took) = (seconds(started), begun.elapsed().as_secs_f64());
        let loaded = loaded.map_err(|reason| panic!("{reason}")).unwrap();
        assert_eq!(loaded.engine.factories().count(), factories as usize);
        (reading, all, took)
    });
    std::fs::remove_dir_all(directory).unwrap();
    println!(
        "restart     {count} records, {:.1} MB: {all:.1} s of CPU, of which {reading:.1} s are reading \
         listdatastore's answers; {took:.1} s",
        bytes as f64 / 1e6,
    );
    assert!(all < GOAL, "a restart takes {all:.1} s of CPU, more than {GOAL} s");
}

/// What lightningd would answer, by key.
fn answers(histories: &[History]) -> HashMap<String, String> {
    let root = json!(["cln-factory", "factory"]);
    let mut answers = HashMap::new();
    let mut children = BTreeMap::new();
    for (instance, records) in histories {
        let key = json!(["cln-factory", "factory", instance.to_string()]);
        children.insert(instance.to_string(), json!({"key": key}));
        let entry = |(at, record): (usize, &Vec<u8>)| {
            let key = json!(["cln-factory", "factory", instance.to_string(), format!("{at:0>8}")]);
            json!({"key": key, "generation": 0, "hex": record.to_lower_hex_string()})
        };
        let entries: Vec<Value> = records.iter().enumerate().map(entry).collect();
        answers.insert(key.to_string(), json!({"datastore": entries}).to_string());
    }
    let root_of_archived = json!(["cln-factory", "archived"]);
    let mut archived = Vec::new();
    for number in 0..ARCHIVED * histories.len() {
        let instance = sha256::Hash::hash(&number.to_be_bytes()).to_string();
        children.insert(instance.clone(), json!({"key": ["cln-factory", "factory", instance]}));
        archived.push(json!({"key": ["cln-factory", "archived", instance], "hex": "00000001"}));
    }
    let children: Vec<Value> = children.into_values().collect();
    answers.insert(root.to_string(), json!({"datastore": children}).to_string());
    answers.insert(root_of_archived.to_string(), json!({"datastore": archived}).to_string());
    answers
}

fn serve(socket: &Path, answers: HashMap<String, String>) {
    let listener = UnixListener::bind(socket).unwrap();
    let answers = Arc::new(answers);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, answers) = (connection.unwrap(), Arc::clone(&answers));
            std::thread::spawn(move || answer(connection, &answers));
        }
    });
}

fn answer(mut connection: UnixStream, answers: &HashMap<String, String>) {
    let requests =
        serde_json::Deserializer::from_reader(connection.try_clone().unwrap()).into_iter::<Value>();
    for request in requests {
        let request = request.unwrap();
        let empty = || json!({"datastore": []}).to_string();
        let result = answers.get(&request["params"]["key"].to_string()).cloned().unwrap_or_else(empty);
        let id = &request["id"];
        let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n\n");
        connection.write_all(text.as_bytes()).unwrap();
    }
}
