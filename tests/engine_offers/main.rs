//! Sales whose messages are other than agreed, come twice, or from whom they shouldn't.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{factory, purse, sales};
use factory_engine::types::{Amount, ChannelId, InstanceId, NodeId, PaymentHash, PaymentSecret, ScriptBuf};
use factory_engine::wire::message::{
    Buy, JitAccept, JitOffer, JitOpened, Message, Price, SaleAbort, SaleCommitted, SaleInvoice, SaleOffer,
    SalePartialSignatures, SalePropose,
};
use factory_engine::{Answer, Command, Effect, Entropy, Input, OpenChannel, PriceList, Sold};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, Outgoing, World};

mod instead;
mod offers;
mod signing;

const PRICE: u64 = 700_001;

/// Four clients in one leaf, two sub-factories with stock.
fn leaf(seed: u64) -> Scenario {
    Scenario::new(seed).clients(4).stock(300_000)
}

fn active(seed: u64) -> (World, InstanceId) {
    leaf(seed).active().unwrap()
}

/// The same with an operator that wants money, and a buyer that has some.
fn dear(seed: u64) -> (World, InstanceId) {
    let scenario = leaf(seed).prices(PriceList::of_sales(PRICE, 0));
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    (world, instance)
}

/// An ordinary channel may come instead of a sale, and client 2 is there and sends no nonces.
fn silent_neighbour(seed: u64) -> (World, InstanceId) {
    let scenario = leaf(seed).prices(PriceList::of_sales(PRICE, 0)).config(|config| config.jit = true);
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    world.tamper(silence);
    (world, instance)
}

fn silence(out: &Outgoing) -> Fate {
    if out.from == 2 && out.message.name() == "sale_join" { Fate::Drop } else { Fate::Deliver }
}

/// Client 1 buys, and everything that follows from it happens; why it came to nothing.
fn buys(world: &mut World, instance: InstanceId, most: u64) -> Option<String> {
    world.ask(1, instance, 50_000, most).unwrap().unwrap();
    world.run_out().unwrap();
    world.refused(1, instance).map(str::to_owned)
}

/// Replaces each message of a kind by what `change` makes of it.
fn change<M: Clone + Into<Message> + 'static>(
    world: &mut World,
    of: fn(&Message) -> Option<&M>,
    change: impl Fn(&mut M) + 'static,
) {
    world.tamper(move |out| match of(&out.message) {
        Some(message) => Fate::changed(message, &change),
        None => Fate::Deliver,
    });
}

fn offer(message: &Message) -> Option<&SaleOffer> {
    if let Message::SaleOffer(offer) = message { Some(offer) } else { None }
}

fn said(world: &World, at: usize, text: &str) -> bool {
    world.members[at].log.iter().any(|(_, line)| line.contains(text))
}

/// What a closure has put aside.
type Seen<T> = Rc<RefCell<Vec<T>>>;
/// What is done to a message, and a part of what is said about it then.
type Change<M> = (fn(&mut M), &'static str);

fn seen<T: 'static>() -> (Seen<T>, Seen<T>) {
    let list: Seen<T> = Rc::default();
    (list.clone(), list)
}
