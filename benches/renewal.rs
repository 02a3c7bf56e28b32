//! How long a client's whole renewal takes once the new factory is deep enough, where all clients of a factory move
//! at once: the move, the handover of its key, the operator's answer, the close. The real engine of every member,
//! real signatures, the lab's lightningd.
//!
//! All members' work is done here one after the other, by one thread, and counts in full for each client: as if
//! everybody shared one processor. To it come the rounds that a client waits for, at 50 ms each: those of our
//! messages, counted here, and those of lightningd's, which are BOLT 2's: for an HTLC three on each of the two
//! channels (add and sign, revoke and sign, revoke), as many again to settle it, and two for a close. lightningd's
//! own work and disks are not in it; a move on real nodes takes 0.12 to 0.16 s.
//!
//! ```sh
//! cargo bench --bench renewal            # 128 clients; fails above 10 s
//! cargo bench --bench renewal -- 16
//! ```

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bitcoin::Amount;
use factory_engine::Policy;
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP};

const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Half round trips of lightningd's own messages: two channels, an HTLC added and settled, three messages each; then
/// `shutdown` and `closing_signed` both ways.
const LIGHTNING_HALVES: u32 = 2 * 2 * 3 + 4;
const LIMIT: Duration = Duration::from_secs(10);
const DEPTH: u32 = 6;

fn main() {
    let clients = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(128_usize);
    let stock = Amount::from_sat(50_000);
    let scenario = Scenario::new(1).clients(clients).stock(50_000).lifetime(900, 600).unchecked();
    let scenario = scenario.config(|config| {
        config.push_msat = 546_000;
        config.renew = Policy::Auto;
        config.handover_depth = u16::try_from(DEPTH).unwrap();
    });
    let (mut world, old) = scenario.active().unwrap();
    for client in 1..=clients {
        world.pay(LSP, client, 20_000_000).unwrap();
    }
    let timeout = world.factory(LSP, old).unwrap().current.terms.timeout_height;
    world.mine(timeout - 600 - world.chain.height()).unwrap();
    let new =
        world.make_factory(&Offer { lifetime_blocks: 900, dying_blocks: 600, stock, ..Offer::default() });
    let funded = world.factory(LSP, new.unwrap()).unwrap().funding_height().unwrap();
    world.mine(funded + DEPTH - 2 - world.chain.height()).unwrap();
    assert_eq!(left(&world, old), 0, "not deep enough yet");

    let sent: Rc<RefCell<BTreeMap<&'static str, usize>>> = Rc::default();
    let counting = sent.clone();
    world.tamper(move |out| {
        *counting.borrow_mut().entry(out.message.name()).or_default() += 1;
        Fate::Deliver
    });
    let began = Instant::now();
    world.mine(1).unwrap();
    let work = began.elapsed();
    assert_eq!(left(&world, old), clients, "everybody, in one block");
    assert_eq!(world.judge.violations, Vec::<String>::new());
    for client in 1..=clients {
        let peer = world.members[LSP].id;
        let stays = world.balances(client, peer).into_iter().filter(|channel| !channel.live);
        assert!(stays.map(|channel| channel.to_us_msat).sum::<u64>() <= 546_000, "client {client}");
    }

    // Whatever is sent once for each client is one more message that it waits for.
    let sent = sent.borrow();
    let halves: usize = sent.values().map(|count| count.div_ceil(clients)).sum();
    let waits = ROUND_TRIP / 2 * (u32::try_from(halves).unwrap() + LIGHTNING_HALVES);
    let names: Vec<String> = sent.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("{clients} clients move at once: {}", names.join(", "));
    println!(
        "work of all members, one after the other: {:.2} s; rounds: {halves} messages of ours and {LIGHTNING_HALVES} \
         of lightningd's, {:.2} s; a client's renewal after depth: {:.2} s at most",
        work.as_secs_f64(),
        waits.as_secs_f64(),
        (work + waits).as_secs_f64()
    );
    assert!(work + waits < LIMIT, "more than {LIMIT:?}");
}

/// Clients whose key the operator has.
fn left(world: &factory_lab::world::World, old: factory_engine::types::InstanceId) -> usize {
    let factory = world.factory(LSP, old).unwrap();
    (0..factory.current.terms.clients()).filter(|client| factory.has_handed_over(*client)).count()
}
