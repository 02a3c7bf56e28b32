//! A plugin without factories, for tests of what shows how a node stands.

use std::path::PathBuf;

use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::NodeId;
use factory_engine::{Config, Effect, Engine};
use factory_runtime::store::memory::MemoryStore;
use factory_runtime::{Inbox, Node, Runtime};

use super::client::Rpc;
use super::outbox::Outbox;
use super::state::{Shared, State};

/// Does nothing that an engine without factories could ask for.
struct Nobody;

impl Node for Nobody {
    fn execute(&self, _: Effect) {}
    fn transmit(&self, _: NodeId, _: Vec<u8>) {}
    fn disconnect(&self, _: NodeId) {}
}

/// One whose lightningd is at this socket, and whose engine has other things to do until it [runs](run).
pub fn idle(socket: PathBuf) -> (State, Inbox) {
    let (runtime, inbox) = factory_runtime::channel();
    let shared = Shared::new(Rpc::new(socket), runtime, Outbox::new().0, Config::default());
    (State::new(shared), inbox)
}

/// Its engine comes to what it was asked.
pub fn run(inbox: Inbox) {
    let engine = Engine::new(NodeId([2; 33]), MasterSecret::new([7; 32]), Config::default());
    tokio::spawn(Runtime::new(engine, MemoryStore::new(), Nobody, inbox).run());
}
