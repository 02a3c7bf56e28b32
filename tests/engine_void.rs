//! A sale that is paid and that somebody keeps from its end: it ends all the same, in a channel or in money.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, purse, sales};
use factory_engine::record::event::{Restored, encode_record};
use factory_engine::types::{InstanceId, PaymentHash, PaymentSecret};
use factory_engine::wire::message::{CreditBack, JitOpened, Message, SaleShown};
use factory_engine::{Command, Input, PriceList, Sold};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World, losing};

const PRICE: u64 = 700_001;
const AMOUNT: u64 = 50_000;
/// `factory-sale-blocks` here.
const SALE_BLOCKS: u32 = 6;
/// `factory-credit-blocks` here.
const CREDIT_BLOCKS: u32 = 10;

/// Four clients in one leaf, two sub-factories with stock, and an operator that wants money.
fn active(seed: u64, jit: bool) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(4).stock(300_000).prices(PriceList::of_sales(PRICE, 0));
    let scenario = scenario.config(|config| {
        config.jit = jit;
        config.sale_blocks = SALE_BLOCKS;
        config.credit_blocks = CREDIT_BLOCKS;
    });
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    (world, instance)
}

/// Client 1 has paid for a sale that client 2 keeps from its end: it never sends this message.
fn withheld(seed: u64, jit: bool, message: &'static str) -> (World, InstanceId, u64) {
    let (mut world, instance) = active(seed, jit);
    let before = purse(&world, instance);
    world.tamper(losing(message, 2));
    world.ask(1, instance, AMOUNT, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!((before - purse(&world, instance), sales(&world, LSP, instance).len()), (PRICE, 1));
    (world, instance, before)
}

fn blocks(world: &mut World, count: u32) {
    for _ in 0..count {
        world.mine(1).unwrap();
        world.run_out().unwrap();
    }
}

/// What L and client 1 say: whether its sale was given up, ordinary channels, credit.
fn books(world: &World, instance: InstanceId) -> [(bool, usize, u64); 2] {
    [LSP, 1].map(|at| {
        let known = &factory(world, at, instance).current.sales;
        let void = known.all().next().is_some_and(|sold| sold.void.is_some());
        (void, known.jits().opened().len(), known.account().credit(0))
    })
}

fn in_order(world: &World) {
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// S36: a signature that never comes; the buyer has an ordinary channel for its price after so many blocks, and
/// not one before. Whoever withheld it is named, to the operator alone, and gets nothing.
#[test]
fn a_withheld_signature_ends_in_an_ordinary_channel() {
    let (mut world, instance, before) = withheld(1, true, "sale_partial_signatures");
    blocks(&mut world, SALE_BLOCKS - 1);
    assert_eq!(books(&world, instance), [(false, 0, 0); 2]);
    blocks(&mut world, 1);
    assert_eq!(books(&world, instance), [(true, 1, 0); 2]);
    assert_eq!(before - purse(&world, instance), PRICE);
    let id = world.members[2].id.to_string();
    let tells = |at: usize| world.members[at].log.iter().any(|(_, line)| line.contains(&id));
    assert!(tells(LSP) && !tells(1));
    let void = sales(&world, LSP, instance)[0].void.clone().unwrap();
    assert_eq!(void.blamed, [1]);
    // Its sub-factory's stock is never sold again, also when everybody is there: ordinary channels are.
    world.heal();
    blocks(&mut world, 1);
    world.ask(1, instance, AMOUNT, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!(world.refused(1, instance), None);
    assert_eq!(books(&world, instance), [(true, 2, 0); 2]);
    world.ask(2, instance, AMOUNT, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    let why = world.refused(2, instance).unwrap();
    assert!(why.contains("did not finish a sale"), "{why}");
    // The other sub-factory is none of its business.
    world.pay(LSP, 3, 2_000_000).unwrap();
    world.buy(3, instance, AMOUNT, PRICE).unwrap();
    in_order(&world);
}

/// S36: without ordinary channels it is credit, and credit that nobody uses is money again.
#[test]
fn what_becomes_no_channel_comes_back() {
    let (mut world, instance, before) = withheld(2, false, "sale_partial_signatures");
    blocks(&mut world, SALE_BLOCKS);
    assert_eq!(books(&world, instance), [(true, 0, PRICE); 2]);
    assert!(world.refused(1, instance).is_some());
    blocks(&mut world, CREDIT_BLOCKS - 1);
    assert_eq!(books(&world, instance), [(true, 0, PRICE); 2]);
    blocks(&mut world, 1);
    assert_eq!(books(&world, instance), [(true, 0, 0); 2]);
    assert_eq!(purse(&world, instance), before);
    in_order(&world);
}

/// S36: a payment back that fails, or is cut off by a restart, is tried again, and is made once.
#[test]
fn credit_comes_back_once_whoever_is_restarted() {
    let mut paid_late = 0;
    for victim in [LSP, 1] {
        for step in 0..14 {
            let (mut world, instance, before) = withheld(100 + step, false, "sale_partial_signatures");
            blocks(&mut world, SALE_BLOCKS + CREDIT_BLOCKS - 1);
            world.chain.mine();
            for at in 0..world.members.len() {
                world.follow_chain(at).unwrap();
            }
            let ended = (0..step).any(|_| !world.step().unwrap());
            world.stop(victim);
            world.settle().unwrap();
            world.start(victim).unwrap();
            for client in 1..=4 {
                if victim == LSP || client == victim {
                    world.connect(LSP, client).unwrap();
                }
            }
            world.run_out().unwrap();
            let at = format!("victim {victim}, step {step}");
            paid_late += u32::from(purse(&world, instance) != before);
            blocks(&mut world, 40);
            assert_eq!(books(&world, instance), [(true, 0, 0); 2], "{at}");
            assert_eq!(purse(&world, instance), before, "{at}");
            in_order(&world);
            if ended {
                break;
            }
        }
    }
    assert!(paid_late > 0);
}

/// S28: a client that asks for its credit again and again, and takes no payment, has two records written in so
/// many blocks, whatever it sends; and it gets its credit all the same, later.
#[test]
fn asking_for_credit_without_end_fills_no_disk() {
    let (mut world, instance, before) = withheld(8, false, "sale_partial_signatures");
    blocks(&mut world, SALE_BLOCKS);
    assert_eq!(books(&world, instance), [(true, 0, PRICE); 2]);
    let records = |world: &World| world.members[LSP].store.records(instance).len();
    let ask = |world: &mut World, number: u8| {
        let message = CreditBack {
            instance,
            attempt: 1,
            amount_msat: PRICE,
            // Of no invoice of its own: the payment fails.
            payment_hash: PaymentHash([number; 32]),
            payment_secret: PaymentSecret([number; 32]),
            min_final_cltv_expiry: 18,
        };
        let peer = world.members[1].id;
        world.feed(LSP, Input::Message { peer, payload: Message::from(message).encode() }).unwrap();
        world.run_out().unwrap();
    };
    let at_first = records(&world);
    (1..50).for_each(|number| ask(&mut world, number));
    assert_eq!(records(&world) - at_first, 2);
    assert_eq!(books(&world, instance)[0], (true, 0, PRICE));
    // Its own node asks when it is time, and is not refused for longer than that.
    blocks(&mut world, CREDIT_BLOCKS + 37);
    assert_eq!(books(&world, instance), [(true, 0, 0); 2]);
    assert_eq!(purse(&world, instance), before);
}

/// S36: whoever is restarted while a sale waits, it ends; and L, once it is back, gives the others some blocks.
#[test]
fn a_restart_in_between_changes_nothing() {
    for victim in [LSP, 1, 2] {
        for after in [1, SALE_BLOCKS - 1, SALE_BLOCKS] {
            let at = format!("victim {victim}, {after} blocks");
            let (mut world, instance, before) =
                withheld(200 + u64::from(after), true, "sale_partial_signatures");
            blocks(&mut world, after - 1);
            world.stop(victim);
            world.mine(1).unwrap();
            world.settle().unwrap();
            world.start(victim).unwrap();
            for client in 1..=4 {
                if victim == LSP || client == victim {
                    world.connect(LSP, client).unwrap();
                }
            }
            world.run_out().unwrap();
            blocks(&mut world, SALE_BLOCKS);
            assert_eq!(books(&world, instance), [(true, 1, 0); 2], "{at}");
            assert_eq!(before - purse(&world, instance), PRICE, "{at}");
            in_order(&world);
        }
    }
}

/// S36: a neighbour that has only been away for a while ends nothing.
#[test]
fn a_signature_in_time_is_a_sale() {
    let (mut world, instance, before) = withheld(3, true, "sale_partial_signatures");
    blocks(&mut world, SALE_BLOCKS - 2);
    world.heal();
    blocks(&mut world, 1);
    assert!(sales(&world, LSP, instance)[0].stored);
    blocks(&mut world, SALE_BLOCKS);
    assert_eq!(books(&world, instance), [(false, 0, 0); 2]);
    assert_eq!(before - purse(&world, instance), PRICE);
    in_order(&world);
}

/// S24, S36: an exit that begins before a paid sale is signed ends it, too.
#[test]
fn an_exit_in_between_ends_in_credit() {
    let (mut world, instance, _) = withheld(4, true, "sale_partial_signatures");
    world.command(2, Command::Exit { instance }).unwrap();
    blocks(&mut world, SALE_BLOCKS);
    assert_eq!(books(&world, instance), [(true, 0, PRICE); 2]);
    in_order(&world);
}

/// S36: somebody that won't say that it has stored: the buyer has its channel, and the others' purchases go on
/// in ordinary ones, until it says so.
#[test]
fn a_withheld_stored_keeps_nobody() {
    let (mut world, instance, before) = withheld(5, true, "sale_stored");
    assert!(sales(&world, 1, instance).iter().all(Sold::is_signed), "the buyer has what it paid for");
    blocks(&mut world, SALE_BLOCKS);
    assert!(!sales(&world, LSP, instance)[0].stored);
    world.ask(1, instance, AMOUNT, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!(world.refused(1, instance), None);
    assert_eq!(books(&world, instance), [(false, 1, 0); 2]);
    world.heal();
    world.disconnect(LSP, 2);
    world.settle().unwrap();
    world.connect(LSP, 2).unwrap();
    world.run_out().unwrap();
    assert!(sales(&world, LSP, instance)[0].stored);
    world.ask(1, instance, AMOUNT, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!([LSP, 1, 2].map(|at| sales(&world, at, instance).len()), [2, 2, 2]);
    assert_eq!(before - purse(&world, instance), 3 * PRICE);
    in_order(&world);
}

/// S29, S36: the signatures of a paid sale get lost on connections that last, for longer than `sale_blocks`: the
/// buyer has them all the same, without anybody's connecting again.
#[test]
fn signatures_that_were_lost_come_again() {
    let (mut world, instance) = active(6, true);
    world.tamper(losing("sale_ready", LSP));
    world.ask(1, instance, AMOUNT, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    blocks(&mut world, SALE_BLOCKS + 1);
    assert!(sales(&world, LSP, instance)[0].is_signed());
    assert!(!sales(&world, 1, instance)[0].is_signed(), "the message was not lost");
    world.heal();
    blocks(&mut world, SALE_BLOCKS);
    assert!(sales(&world, LSP, instance)[0].stored);
    assert!(sales(&world, 1, instance)[0].is_signed());
    in_order(&world);
}

/// S36: L may give a sale up and finish it all the same: then its client has both.
#[test]
fn what_was_given_up_costs_nothing_whatever_comes_after() {
    let (mut world, instance, _) = withheld(6, false, "sale_partial_signatures");
    blocks(&mut world, SALE_BLOCKS);
    let offered = factory(&world, 1, instance).current.sales.all().next().unwrap().clone();
    let void = Message::SaleVoid(factory_engine::wire::message::SaleVoid { instance, attempt: 1, number: 1 });
    let peer = world.members[LSP].id;
    for _ in 0..2 {
        world.feed(1, Input::Message { peer, payload: void.encode() }).unwrap();
    }
    assert_eq!(books(&world, instance)[1], (true, 0, PRICE));
    assert_eq!(offered.sale.number, 1);
    in_order(&world);
}

/// S36: an ordinary channel that nobody agreed to, or that isn't there, uses up no credit.
#[test]
fn an_invented_channel_uses_up_no_credit() {
    for agreed in [false, true] {
        let (mut world, instance, _) = withheld(7, agreed, "sale_partial_signatures");
        if agreed {
            // It agrees, and its operator then says what isn't so.
            world.tamper(|out| match &out.message {
                Message::SalePartialSignatures(_) if out.from == 2 => Fate::Drop,
                Message::JitOpened(opened) => {
                    let channel_id = factory_engine::types::ChannelId([9; 32]);
                    Fate::replace(JitOpened { channel_id, ..opened.clone() })
                }
                _ => Fate::Deliver,
            });
        }
        blocks(&mut world, SALE_BLOCKS);
        let (amount, peer) = (bitcoin::Amount::from_sat(AMOUNT), world.members[LSP].id);
        let channel_id = factory_engine::types::ChannelId([8; 32]);
        let opened =
            JitOpened { instance, attempt: 1, amount, price_msat: PRICE, channel_id, outpoint: None };
        world.feed(1, Input::Message { peer, payload: Message::JitOpened(opened).encode() }).unwrap();
        world.run_out().unwrap();
        assert_eq!(books(&world, instance)[1], (true, 0, PRICE));
    }
}

/// Client 1 has paid for a sale that is finished, and the operator is back with a copy from before that. Nobody
/// is connected to it.
fn forgotten(seed: u64) -> (World, InstanceId, u64) {
    let (mut world, instance, before) = withheld(seed, false, "sale_partial_signatures");
    let older = world.backup(LSP);
    world.heal();
    blocks(&mut world, 1);
    assert!(sales(&world, LSP, instance)[0].stored && sales(&world, 1, instance)[0].is_signed());
    world.check_recovery = false;
    world.restore(LSP, older).unwrap();
    world.settle().unwrap();
    assert!(!sales(&world, LSP, instance)[0].is_signed());
    (world, instance, before)
}

fn exit_only(world: &World, instance: InstanceId) -> bool {
    factory(world, LSP, instance).restored().is_some()
}

/// S9, S36: an operator that has forgotten that a paid sale was finished hears of it from whichever of its clients
/// comes first. It gives nothing up and pays nothing back, and the factory is only for leaving.
#[test]
fn an_operator_that_forgot_the_end_of_a_sale_is_shown_it() {
    for (seed, first) in (20..).zip([vec![1, 2, 3, 4], vec![1], vec![2]]) {
        let at = format!("{first:?} first");
        let (mut world, instance, before) = forgotten(seed);
        for client in first {
            world.connect(LSP, client).unwrap();
        }
        world.run_out().unwrap();
        blocks(&mut world, SALE_BLOCKS + CREDIT_BLOCKS + 5);
        world.reconnect().unwrap();
        world.run_out().unwrap();
        blocks(&mut world, CREDIT_BLOCKS + 40);
        assert_eq!(books(&world, instance), [(false, 0, 0); 2], "{at}");
        assert_eq!(before - purse(&world, instance), PRICE, "{at}");
        let sold = &sales(&world, LSP, instance)[0];
        assert_eq!(sold.signatures, sales(&world, 1, instance)[0].signatures, "{at}");
        for side in [LSP, 1] {
            let channel = &world.members[side].lightningd.channels[&sold.channel_id()];
            assert!(!channel.closing, "{at}: member {side} closes the channel that was bought");
        }
        assert!(exit_only(&world, instance), "{at}");
        world.ask(2, instance, AMOUNT, PRICE).unwrap().unwrap();
        world.run_out().unwrap();
        assert!(world.refused(2, instance).is_some(), "{at}");
        in_order(&world);
    }
}

/// S9: an operator that has forgotten a whole sale sells something else out of the same stock, to the same buyer or
/// to its neighbour: whoever knows better shows it, and the factory is only for leaving.
#[test]
fn an_operator_that_forgot_a_whole_sale_is_shown_it() {
    for (seed, buyer, amount, jit) in
        [(30, 1, AMOUNT + 10_000, false), (31, 2, AMOUNT, false), (32, 2, AMOUNT, true)]
    {
        let at = format!("client {buyer} buys {amount}, jit {jit}");
        let (mut world, instance) = active(seed, jit);
        world.pay(LSP, 2, 20_000_000).unwrap();
        let older = world.members[LSP].store.records(instance).len();
        world.buy(1, instance, AMOUNT, PRICE).unwrap();
        // Of its lightningd's channels none is lost: else they would be closed, and nobody would sell anything.
        world.check_recovery = false;
        world.stop(LSP);
        world.members[LSP].store.records_mut(instance).truncate(older);
        world.start(LSP).unwrap();
        world.reconnect().unwrap();
        world.run_out().unwrap();
        assert!(sales(&world, LSP, instance).is_empty() && !exit_only(&world, instance), "{at}");
        // A signature that isn't its own tells it nothing.
        world.tamper(|out| match &out.message {
            Message::SaleShown(shown) => {
                let signatures = vec![[0x11; 64]; shown.signatures.len()];
                Fate::replace(SaleShown { signatures, ..shown.clone() })
            }
            _ => Fate::Deliver,
        });
        world.ask(buyer, instance, amount, PRICE).unwrap().unwrap();
        world.run_out().unwrap();
        assert!(!exit_only(&world, instance), "{at}");
        world.heal();
        world.ask(buyer, instance, amount, PRICE).unwrap().unwrap();
        world.run_out().unwrap();
        let why = factory(&world, LSP, instance).restored().map(str::to_owned);
        assert!(why.is_some_and(|why| why.contains("sale 1 has this node's signature")), "{at}");
        assert_eq!([LSP, 1, 2].map(|at| sales(&world, at, instance).len()), [0, 1, 1], "{at}");
        // It offers nothing more out of any stock of this factory.
        world.ask(buyer, instance, amount, PRICE).unwrap().unwrap();
        world.run_out().unwrap();
        assert!(world.refused(buyer, instance).is_some(), "{at}");
        in_order(&world);
    }
}

/// S9, S36: nobody who could show it came in time. The price is the operator's loss; its client keeps the channel
/// that it has paid for, and its books say nothing of a credit.
#[test]
fn a_finished_sale_that_was_given_up_costs_its_buyer_nothing() {
    let (mut world, instance, before) = forgotten(24);
    world.connect(LSP, 3).unwrap();
    world.run_out().unwrap();
    blocks(&mut world, SALE_BLOCKS + 3);
    assert_eq!(books(&world, instance), [(true, 0, PRICE), (false, 0, 0)]);
    world.reconnect().unwrap();
    world.run_out().unwrap();
    blocks(&mut world, CREDIT_BLOCKS + 40);
    assert!(exit_only(&world, instance));
    assert_eq!(before - purse(&world, instance), PRICE);
    let sold = &sales(&world, LSP, instance)[0];
    assert!(sold.is_signed(), "the operator can't follow it on chain");
    for side in [LSP, 1] {
        let channel = &world.members[side].lightningd.channels[&sold.channel_id()];
        assert!(!channel.closing, "member {side} closes the channel that was bought");
    }
    in_order(&world);
}

/// S9, S36: what a restored operator's records say that it owes it pays, once its client has had its say.
#[test]
fn a_restored_operator_ends_what_nobody_has_finished() {
    let (mut world, instance, before) = withheld(25, false, "sale_partial_signatures");
    let restored = Restored { reason: "older".into() };
    world.members[LSP].store.records_mut(instance).push(encode_record(&[restored.into()]));
    world.stop(LSP);
    world.start(LSP).unwrap();
    world.connect(LSP, 3).unwrap();
    world.run_out().unwrap();
    assert!(exit_only(&world, instance));
    // Its buyer may have what the operator has forgotten.
    blocks(&mut world, 2 * SALE_BLOCKS);
    assert_eq!(books(&world, instance), [(false, 0, 0); 2]);
    world.connect(LSP, 1).unwrap();
    world.run_out().unwrap();
    blocks(&mut world, 1);
    assert_eq!(books(&world, instance), [(true, 0, PRICE); 2]);
    blocks(&mut world, CREDIT_BLOCKS);
    assert_eq!(books(&world, instance), [(true, 0, 0); 2]);
    assert_eq!(purse(&world, instance), before);
    in_order(&world);
}

/// S9: a client that shows what isn't so makes no operator exit-only, and ends no sale.
#[test]
fn a_clients_word_alone_makes_no_operator_exit_only() {
    let (mut world, instance, _) = withheld(26, false, "sale_partial_signatures");
    let (peer, sold) = (world.members[1].id, sales(&world, LSP, instance)[0].clone());
    for number in 1..=3 {
        let shown = SaleShown {
            instance,
            attempt: 1,
            number,
            buyer: 0,
            amount: sold.sale.amount(),
            channel_script: sold.sale.channel_output.script_pubkey.clone(),
            signatures: vec![[0x11; 64]; sold.sale.sessions.len()],
        };
        world.feed(LSP, Input::Message { peer, payload: Message::SaleShown(shown).encode() }).unwrap();
        world.run_out().unwrap();
    }
    assert!(!exit_only(&world, instance) && !sales(&world, LSP, instance)[0].is_signed());
    blocks(&mut world, SALE_BLOCKS);
    assert_eq!(books(&world, instance), [(true, 0, PRICE); 2]);
    in_order(&world);
}
