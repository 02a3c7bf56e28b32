//! What lightningd asks the plugin: commands and hooks, on a plugin with a factory and an invitation
//! whose lightningd answers no calls.

use std::cell::RefCell;
use std::path::PathBuf;

use cln_factory::cln::channels::Channels;
use cln_factory::cln::client::Rpc;
use cln_factory::cln::error::{INVALID_PARAMS, RpcError};
use cln_factory::cln::hooks::{custommsg, htlc_accepted, openchannel, rpc_command};
use cln_factory::cln::methods;
use cln_factory::cln::outbox::Outbox;
use cln_factory::cln::requests::{Request, Tagged};
use cln_factory::cln::state::{Shared, State};
use factory_engine::record::event::decode_record;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{ChannelId, Height, NodeId};
use factory_engine::{ChannelPolicy, Config, Effect, Engine, Input};
use factory_runtime::Runtime;
use factory_runtime::store::Store;
use factory_runtime::store::memory::MemoryStore;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::bytes::Bytes;
use crate::engine;
use crate::engine::node::id;
use crate::json::request;
use crate::lightningd::Answers;

/// The member whose plugin it is: the client that asks.
const MEMBER: usize = 2;
const SCID: &str = "103x1x0";

struct Nobody;

impl factory_runtime::Node for Nobody {
    fn execute(&self, _: Effect) {}
    fn transmit(&self, _: NodeId, _: Vec<u8>) {}
    fn disconnect(&self, _: NodeId) {}
}

/// A plugin that runs.
struct Plugin {
    tokio: tokio::runtime::Runtime,
    state: State,
    store: MemoryStore,
    stored: usize,
    height: Height,
    channel: ChannelId,
    policy: ChannelPolicy,
    instances: Vec<String>,
}

impl Plugin {
    fn start() -> Self {
        let (records, block) = engine::with_invitation(MEMBER);
        let mut loaded = Engine::new(id(MEMBER), MasterSecret::new([3; 32]), Config::default());
        for (instance, records) in &records {
            let events = records.iter().map(|record| decode_record(record).unwrap_or_default());
            loaded.load(*instance, events).unwrap_or_else(|error| panic!("{error}"));
        }
        let height = block.height;
        let instances = records.keys().map(ToString::to_string).collect();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tokio = tokio.unwrap_or_else(|error| panic!("{error}"));
        let (handle, inbox) = factory_runtime::channel();
        let mut store = MemoryStore::new();
        let channels = Channels::default();
        let (channel, policy) = tokio.block_on(async {
            let all: Vec<_> =
                records.iter().flat_map(|(i, list)| list.iter().map(|r| (*i, r.clone()))).collect();
            store.append(&all).await.unwrap_or_else(|error| panic!("{error}"));
            tokio::spawn(Runtime::new(loaded, store.clone(), Nobody, inbox).run());
            handle.input(Input::Block(block));
            handle.caught_up();
            let policies = handle.read(|engine, _| engine.channel_policies()).await.unwrap_or_default();
            policies.into_iter().next().unwrap_or_else(|| panic!("the fixture has no channel"))
        });
        let known = json!({"channels": [{"channel_id": channel.to_string(), "short_channel_id": SCID,
            "peer_id": id(0).to_string(), "total_msat": 100_000_000u64}]});
        let _ = tokio.block_on(channels.refresh(&Answers::new(vec![known])));
        let rpc = Rpc::new(PathBuf::from("/nonexistent/lightning-rpc"));
        let state = State::new(Shared {
            channels,
            me: id(MEMBER),
            news: tokio::sync::watch::Sender::new(height),
            important: true,
            ..Shared::new(rpc, handle, Outbox::new().0, Config::default())
        });
        let mut plugin = Self { tokio, state, store, stored: 0, height, channel, policy, instances };
        plugin.stored = plugin.records();
        plugin
    }

    fn records(&self) -> usize {
        let mut store = self.store.clone();
        let histories = self.tokio.block_on(async {
            self.state.runtime.flush().await;
            store.load_all().await
        });
        histories.unwrap_or_default().iter().map(|(_, records)| records.len()).sum()
    }
}

/// Lends the plugin of this thread; a new one after something has changed.
fn with(use_it: impl FnOnce(&Plugin) -> bool) {
    thread_local!(static PLUGIN: RefCell<Option<Plugin>> = const { RefCell::new(None) });
    PLUGIN.with_borrow_mut(|slot| {
        let plugin = slot.get_or_insert_with(Plugin::start);
        let may_change = use_it(plugin);
        let changed = plugin.records() != plugin.stored;
        assert!(may_change || !changed, "what was refused has changed something");
        if changed {
            *slot = None;
        }
    });
}

fn pool(plugin: &Plugin) -> Vec<Value> {
    let policy = &plugin.policy;
    let early = plugin.height.saturating_add(policy.blocks_early.into());
    let mut pool: Vec<Value> = plugin.instances.iter().map(|instance| json!(instance)).collect();
    pool.extend([
        json!(plugin.channel.to_string()),
        json!(SCID),
        json!(id(0).to_string()),
        json!(id(1).to_string()),
    ]);
    pool.extend([early, early + 1, policy.safe_end, policy.safe_end + 1].map(|height| json!(height)));
    pool.extend(
        ["json", "text", "svg", "static", "stateful", "flat", "active", "invited"].map(|text| json!(text)),
    );
    pool.extend([json!(2), json!(50), json!(4096), json!("100000sat"), json!(true)]);
    pool
}

/// Parameters of every command but `factory-restore`, which reads whatever file it is told: an answer or an error with words and a code, and after an error
/// nothing has changed.
pub fn params(data: &[u8]) {
    with(|plugin| {
        let mut input = Bytes::new(data);
        let command = input.byte() % 20;
        let (node, instance) = (id(1).to_string(), plugin.instances.first().cloned().unwrap_or_default());
        let templates = [
            json!([instance]),
            json!({"factory_instance": plugin.instances.last(), "dry_run": true}),
            json!({"factory_instance": instance, "format": "text"}),
            json!({"factory_instance": instance, "reason": "no", "state": "active"}),
            json!([[node], "100000sat"]),
            json!({"clients": 8, "capacity_sat": 100_000, "stock_sat": 20_000, "profile": "stateful"}),
            json!({"clients": [{"id": node, "capacity_sat": "0.001btc"}, node], "capacity_sat": "200000000msat",
                "stock_sat": 0, "profile": "flat", "lifetime_blocks": 8640, "dying_blocks": 1008, "dry_run": "true"}),
            json!({"clients": format!("[\"{node}\"]"), "capacity_sat": 10_000, "feerate": "normal"}),
            json!({"factory_instance": instance, "amount_sat": 50_000, "max_price_msat": 1_000, "dry_run": true}),
            json!({"from": SCID, "to": plugin.channel.to_string(), "amount_msat": "5000msat", "dry_run": false}),
            json!({"factory_instance": instance, "clients": [0], "dry_run": true, "feerate": 2_000}),
            json!({"command": "set", "rungs": 4, "lifetime_blocks": 4_320, "dying_blocks": 2_016}),
            json!({"base_msat": 1_000, "ppm": 500, "renewal_base_msat": 0, "renewal_ppm": 1}),
            json!({"coins": 4, "coin_sat": 20_000, "dry_run": true}),
            json!({"factory_instance": instance, "kind": "sale,chain", "from_height": 1, "to_height": 9, "format": "table",
                "start": 2, "limit": 3}),
        ];
        let Some(params) = request(&mut input, &templates, &pool(plugin)) else { return true };
        let state = State::clone(&plugin.state);
        let answer: Result<Value, RpcError> = plugin.tokio.block_on(async {
            match command {
                0 => methods::plan::call(state, params).await,
                1 => methods::create::call(state, Request { id: json!("a"), params }).await,
                2 => methods::invitations::call(state, params).await,
                3 => methods::accept::call(state, params).await,
                4 => methods::decline::call(state, params).await,
                5 => methods::list::call(state, params).await,
                6 => methods::show::call(state, params).await,
                7 => methods::verify::call(state, params).await,
                8 => methods::exit::call(state, params).await,
                9 => methods::status::call(state, params).await,
                10 => methods::buy::call(state, params).await,
                11 => methods::moving::call(state, params).await,
                12 => methods::leave::call(state, params).await,
                13 => methods::close::call(state, params).await,
                14 => methods::evict::call(state, params).await,
                15 => methods::reserve::call(state, params).await,
                16 => methods::ladder::call(state, params).await,
                17 => methods::price::call(state, params).await,
                18 => methods::export::call(state, params).await,
                _ => methods::history::call(state, params).await,
            }
        });
        match answer {
            Ok(answer) => {
                assert!(answer.is_object());
                matches!(command, 3 | 4 | 8 | 10..=17)
            }
            Err(fault) => {
                assert!(
                    !fault.message.is_empty() && fault.message.len() <= 5_000 + 8 * data.len(),
                    "{fault}"
                );
                assert!(fault.code == INVALID_PARAMS || fault.code == -1 || fault.code >= 300, "{fault}");
                false
            }
        }
    });
}

/// Payloads of every hook, and stdin itself: always an answer that lightningd understands (S31), and
/// no HTLC on a factory's channel outside its limits (S15).
pub fn hooks(data: &[u8]) {
    let mut input = Bytes::new(data);
    let hook = input.byte() % 5;
    if hook == 4 {
        return stdin(&mut input);
    }
    with(|plugin| {
        let templates = templates(plugin);
        let templates = match hook {
            0 => &templates[0..1],
            1 => &templates[1..3],
            2 => &templates[3..8],
            _ => &templates[8..9],
        };
        let Some(payload) = request(&mut input, templates, &pool(plugin)) else { return true };
        plugin.tokio.block_on(async {
            match hook {
                0 => {
                    let answer = openchannel::answer(&plugin.state, &payload).await;
                    assert!(
                        ["continue", "reject"].iter().any(|result| answer["result"] == *result),
                        "{answer}"
                    );
                    assert!(answer.get("mindepth").is_none(), "nothing is expected: {payload}");
                }
                1 => htlc(plugin, &payload, &htlc_accepted::answer(&plugin.state, &payload).await),
                2 => replaced(&payload, &rpc_command::answer(&plugin.state, &payload).await),
                _ => {
                    custommsg::receive(&plugin.state.runtime, &payload);
                    plugin.state.runtime.flush().await;
                    (0..4).for_each(|peer| plugin.state.runtime.disconnected(id(peer)));
                }
            }
        });
        // A message may bring an invitation or end one.
        hook == 3
    });
}

/// A BOLT 12 invoice with nothing but a description and what a path costs.
const INVOICE: &str = "lni1zcqh3gsuqqqqqqgqqqqqyqqcqqqqqqqqqqqqqqqqqqqrhxk2qqqqq";

fn templates(plugin: &Plugin) -> Vec<Value> {
    let (height, early) = (plugin.height, u32::from(plugin.policy.blocks_early));
    let good = height.saturating_add(early).saturating_add(20);
    let record = "11".repeat(66);
    let call =
        |method: &str, params: Value| json!({"rpc_command": {"id": 1, "method": method, "params": params}});
    let list = "02".repeat(2);
    vec![
        json!({"openchannel": {"id": id(0).to_string(), "funding_msat": 100_000_000u64, "push_msat": 1000,
            "channel_type": {"bits": [12, 22, 50]}, "channel_in_factory": record}}),
        json!({"htlc": {"short_channel_id": SCID, "id": 3, "amount_msat": 5, "cltv_expiry": good,
            "cltv_expiry_relative": early + 20, "payment_hash": "00".repeat(32)},
            "onion": {"outgoing_cltv_value": good - 6, "type": "tlv"}}),
        json!({"htlc": {"short_channel_id": "1x1x1", "cltv_expiry": good, "cltv_expiry_relative": early + 20},
            "onion": {"outgoing_cltv_value": good}, "forward_to": plugin.channel.to_string()}),
        call("invoice", json!([1000, "label", "text", null, null, null, null, 9])),
        call("invoice", json!({"amount_msat": "any", "label": "l", "description": "", "cltv": 18})),
        call(
            "sendpay",
            json!([[{"id": id(0).to_string(), "channel": SCID, "delay": 9, "amount_msat": 1}], "00"]),
        ),
        call("sendonion", json!({"onion": "00", "first_hop": {"id": id(0).to_string(), "delay": 9}})),
        call("injectpaymentonion", json!(["00", "00", 5, height, 0, 0])),
        call("createinvoice", json!({"invstring": INVOICE, "label": "l", "preimage": "00"})),
        json!({"peer_id": id(0).to_string(), "payload": format!("80200002fd020020{list}")}),
    ]
}

/// Whatever is let through on the factory's channel leaves time for an exit.
fn htlc(plugin: &Plugin, payload: &Value, answer: &Value) {
    let failed = answer["result"] == "fail" && answer["failure_message"].is_string();
    assert!(failed || *answer == json!({"result": "continue"}), "{answer}");
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let Some(expiry) = number(&payload["htlc"]["cltv_expiry"]) else { return };
    let outgoing = number(&payload["onion"]["outgoing_cltv_value"]).unwrap_or(expiry);
    let incoming = (payload["htlc"]["short_channel_id"] == SCID).then_some(expiry);
    let forwarded = payload["forward_to"].as_str().and_then(|text| text.parse().ok()) == Some(plugin.channel);
    let earliest = plugin.height.saturating_add(plugin.policy.blocks_early.into()).saturating_add(1);
    for expiry in incoming.into_iter().chain(forwarded.then_some(outgoing)) {
        let within = plugin.policy.usable.is_ok() && (earliest..=plugin.policy.safe_end).contains(&expiry);
        assert!(failed || within, "S15: {payload}");
    }
}

/// The same command, with one number larger; or a payment of our own is refused, with an explanation.
fn replaced(payload: &Value, answer: &Value) {
    if let Some(refused) = answer.get("return") {
        let method = payload["rpc_command"]["method"].as_str().unwrap_or_default();
        assert!(["sendpay", "sendonion", "injectpaymentonion"].contains(&method), "{payload}");
        let message = refused["error"]["message"].as_str().unwrap_or_default();
        return assert!(refused["error"]["code"].is_i64() && message.contains("factory"), "{answer}");
    }
    let Some(replacement) = answer.get("replace") else {
        return assert_eq!(*answer, json!({"result": "continue"}));
    };
    let (before, after) = (&payload["rpc_command"], replacement);
    assert_eq!(before["method"], after["method"]);
    assert_eq!(before["id"], after["id"]);
    assert!(after["params"].is_object());
}

/// Requests as they come in on stdin, in pieces: what isn't a command of ours passes as it is.
fn stdin(input: &mut Bytes<'_>) {
    let piece = usize::from(input.byte()).saturating_add(1);
    let bytes = input.rest();
    let read = crate::lightningd::block_on(async {
        let mut read = Vec::new();
        let mut tagged = Tagged::new(bytes);
        let mut buffer = vec![0; piece];
        loop {
            match tagged.read(&mut buffer).await {
                Ok(0) => return read,
                Ok(count) => read.extend_from_slice(&buffer[..count]),
                Err(error) => panic!("{error}"),
            }
        }
    });
    let messages = |bytes: &[u8]| bytes.windows(2).filter(|pair| pair == b"\n\n").count();
    if bytes.windows(8).any(|window| window == b"factory-") {
        assert!(messages(&read) <= bytes.len());
    } else {
        assert_eq!(read, bytes);
    }
}
