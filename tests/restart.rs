//! A client's runtime right after a restart, with the operator's link at its other end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use factory_engine::types::{Amount, NodeId};
use factory_engine::wire::link::{Incoming, Link, LinkLimits};
use factory_engine::wire::message::Message;
use factory_engine::{Block, Command, Effect, Input};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World};
use factory_runtime::store::memory::MemoryStore;
use factory_runtime::{Handle, Node, Runtime, channel};

const NEIGHBOUR: usize = 2;

/// Keeps what the client sends.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Vec<u8>>>>);

impl Node for Wire {
    fn execute(&self, _: Effect) {}

    fn transmit(&self, _: NodeId, raw: Vec<u8>) {
        self.0.lock().unwrap().push(raw);
    }

    fn disconnect(&self, _: NodeId) {
        panic!("the operator has done nothing wrong");
    }
}

/// Two clients in an active factory with stock, and what the operator offers the second when the first buys.
fn offered() -> (World, Message) {
    let (mut world, instance) = Scenario::new(1).clients(2).stock(300_000).active().unwrap();
    let offer = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&offer);
    world.tamper(move |out| {
        if out.to == NEIGHBOUR && out.message.name() == "sale_offer" {
            *seen.borrow_mut() = Some(out.message.clone());
            return Fate::Drop;
        }
        Fate::Deliver
    });
    let buy = Command::Buy { instance, amount: Amount::from_sat(50_000), max_price_msat: 0 };
    world.command(1, buy).unwrap();
    world.settle().unwrap();
    let offer = offer.take().expect("an offer");
    (world, offer)
}

/// Both ways, until both are silent. What the client said.
async fn exchange(client: &Handle, wire: &Wire, operator: NodeId, link: &mut Link) -> Vec<&'static str> {
    let mut said = vec![];
    loop {
        while let Some(raw) = link.poll_transmit() {
            client.raw(operator, raw);
        }
        client.flush().await;
        let arrived = std::mem::take(&mut *wire.0.lock().unwrap());
        if arrived.is_empty() {
            return said;
        }
        for raw in arrived {
            if let Some(Incoming::Message(payload)) = link.receive(&raw, 0).unwrap() {
                said.push(Message::decode(&payload).unwrap().name());
            }
        }
    }
}

/// What a factory is follows from the chain: before its blocks are handled it isn't known to be active, and
/// whoever answered then would refuse what it agrees to.
#[tokio::test]
async fn peers_hear_nothing_before_every_block_is_handled() {
    let (world, offer) = offered();
    let (operator, wire) = (world.members[LSP].id, Wire::default());
    let (client, inbox) = channel();
    let engine = world.rebuild(NEIGHBOUR).unwrap();
    tokio::spawn(Runtime::new(engine, MemoryStore::new(), wire.clone(), inbox).run());

    // The operator is connected before the backend has said a word.
    let number = client.connected(operator);
    client.features(operator, number, true, true);
    let mut link = Link::new(LinkLimits::default());
    link.send(&offer).unwrap();
    assert_eq!(exchange(&client, &wire, operator, &mut link).await, Vec::<&str>::new());

    // Nor after a block that isn't the last: only those after it may say how deep the funding is.
    let tip = world.chain.height();
    let mut confirmed_at = 0;
    for height in (0..=tip).filter(|height| world.chain.block(*height).is_some()) {
        let block = world.chain.block(height).unwrap();
        if block.txs.iter().any(|tx| tx.compute_txid() == funding(&world)) {
            confirmed_at = height;
        }
        if confirmed_at > 0 {
            client.input(Input::Block(Block { height, hash: block.hash, txs: vec![] }));
            assert_eq!(
                exchange(&client, &wire, operator, &mut link).await,
                Vec::<&str>::new(),
                "at {height}"
            );
        }
    }
    assert!(0 < confirmed_at && confirmed_at < tip);

    client.caught_up();
    assert_eq!(exchange(&client, &wire, operator, &mut link).await, ["sale_join"]);
}

fn funding(world: &World) -> bitcoin::Txid {
    let mut factories = world.members[NEIGHBOUR].engine.as_ref().unwrap().factories();
    factories.next().unwrap().funding().unwrap().txid
}
