//! What the chain says and what the engine says to it, where mutation testing found that nobody looked.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use common::factory;
use factory_engine::types::Transaction;
use factory_engine::wire::message::Message;
use factory_engine::{Answer, Block, Input, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP};

/// S12, S25: a restart reads the chain from where the first thing of a factory may be.
#[test]
fn a_restart_scans_from_where_something_may_be() {
    let mut world = Scenario::new(70).clients(2).world().unwrap();
    let before = world.chain.height();
    assert!(world.members.iter().all(|member| member.engine.as_ref().unwrap().scan_from().is_none()));
    let instance = world.make_factory(&Offer::default()).unwrap();
    for at in 0..=2 {
        let funded = factory(&world, at, instance).funding_height().unwrap();
        let from = world.rebuild(at).unwrap().scan_from().unwrap();
        assert!((before..=funded).contains(&from), "member {at} scans from {from}, funded at {funded}");
    }
}

/// S25: blocks bring what the follower thought might matter; what does not leaves no trace.
#[test]
fn a_transaction_of_others_is_not_stored() {
    let (mut world, instance) = Scenario::new(71).clients(2).active().unwrap();
    let others =
        Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input: vec![], output: vec![] };
    for at in [LSP, 1] {
        let stored = world.members[at].store.appends;
        let confirmed = factory(&world, at, instance).confirmed.clone();
        let height = world.chain.height() + 1;
        let block = Block { height, hash: bitcoin::BlockHash::all_zeros(), txs: vec![others.clone()] };
        assert_eq!(world.feed(at, Input::Block(block)).unwrap(), Fed::Done(Ok(Answer::Done)));
        assert_eq!(world.members[at].store.appends, stored, "member {at}");
        assert_eq!(factory(&world, at, instance).confirmed, confirmed);
    }
}

/// S25, S26: a funding that a reorganisation took out of the chain and of every mempool is sent again.
#[test]
fn a_funding_that_left_the_chain_is_sent_again() {
    let (mut world, instance) = Scenario::new(72).clients(2).active().unwrap();
    let funding = factory(&world, LSP, instance).funding().unwrap();
    let depth = world.chain.height() + 1 - factory(&world, LSP, instance).funding_height().unwrap();
    world.chain.reorg_and_drop(depth);
    assert!(!world.chain.knows(funding.txid));
    world.mine_quietly(depth + 1);
    world.sync_all().unwrap();
    assert_eq!(world.state(1, instance), Some(State::Funding));
    world.mine(4).unwrap();
    for at in 0..=2 {
        assert_eq!(world.state(at, instance), Some(State::Active), "member {at}");
    }
}

/// S18, S29: a client that isn't told that its channel is complete finds out at the next block.
#[test]
fn an_unchecked_channel_is_looked_at_again() {
    let (mut world, instance) = Scenario::new(73)
        .clients(2)
        .tamper(|out| match out.message {
            Message::ChannelCommitted(_) if out.to == 1 => Fate::Drop,
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    world.settle().unwrap();
    assert_eq!(world.members[1].lightningd.channels.len(), 1);
    assert_eq!(world.state(1, instance), Some(State::Storing));
    world.mine(1).unwrap();
    assert!(!factory(&world, 1, instance).current.checked.is_empty());
    assert_eq!(world.state(1, instance), Some(State::Funding));
}

/// One line for each transition, in order, and none for what stays as it is.
#[test]
fn each_transition_is_told_once() {
    let (mut world, instance) = Scenario::new(74).clients(1).active().unwrap();
    world.mine(3).unwrap();
    let told = |at: usize| -> Vec<String> {
        let prefix = format!("{instance}: ");
        let lines = world.members[at].log.iter().filter_map(|(_, text)| text.strip_prefix(&prefix));
        lines.filter(|line| line.contains(" -> ")).map(str::to_owned).collect()
    };
    let operator = "new -> joining, joining -> signing, signing -> storing, storing -> opening, \
                    opening -> funding, funding -> active";
    assert_eq!(told(LSP).join(", "), operator);
    let client = "new -> joining, joining -> signing, signing -> storing, storing -> funding, \
                  funding -> active";
    assert_eq!(told(1).join(", "), client);
}

/// S25, S27: of several transactions in one block each is noted, with what it spends.
#[test]
fn a_whole_path_in_one_block() {
    let (mut world, instance) = Scenario::new(75).clients(8).active().unwrap();
    for at in [LSP, 1] {
        let before = factory(&world, at, instance);
        let tree = before.current.tree.clone().unwrap();
        let path = before.current.layout.path(0);
        assert!(path.len() > 1);
        let txs: Vec<Transaction> = path.iter().map(|node| tree.node_tx(*node).unwrap().clone()).collect();
        let height = world.chain.height() + 1;
        let hash = bitcoin::BlockHash::all_zeros();
        world.feed(at, Input::Block(Block { height, hash, txs: txs.clone() })).unwrap();
        let after = factory(&world, at, instance);
        for tx in &txs {
            assert_eq!(after.confirmed.get(&tx.compute_txid()), Some(&height));
            assert_eq!(
                after.spent.get(&tx.input[0].previous_output),
                Some(&tx.compute_txid()),
                "member {at}"
            );
        }
    }
}
