//! The fee market of the lab, and what the judge asks of members in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a test")]

use factory_engine::Command;
use factory_engine::io::fees::{Refused, Trouble};
use factory_engine::tx::scripts::DUST;
use factory_lab::chain::Market;
use factory_lab::scenario::Scenario;
use factory_lab::world::LSP;

/// S26: the path's first transaction is in the mempool from before the timeout, and fees are such that a
/// distribution of the same coin is taken only with a child. No child helps it past the other: its member says
/// so, and the judge asks for none.
#[test]
fn no_child_helps_past_a_conflict() {
    let (mut world, instance) = Scenario::new(51).clients(2).active().unwrap();
    for at in 1..=2 {
        let script = world.members[at].lightningd.new_taproot_script();
        world.chain.mint(script, DUST * 10_000);
        world.members[at].lightningd.packages = true;
    }
    world.mine(1).unwrap();
    // Miners take nothing of the tree, and nobody can pay them more.
    world.chain.market = Market { floor: 0, inclusion: 100_000, strict: false };
    for member in &mut world.members {
        member.lightningd.locked = true;
    }
    world.command(LSP, Command::Exit { instance }).unwrap();
    let timeout = world.factory(1, instance).unwrap().current.terms.timeout_height;
    world.mine_to(timeout - 1).unwrap();
    assert_eq!(world.chain.mempool().len(), 1, "the path's first transaction waits");
    world.chain.market = Market { floor: 12_500, inclusion: 15_000, strict: false };
    for member in &mut world.members {
        member.lightningd.locked = false;
    }
    world.stop(LSP);
    world.mine(1).unwrap();
    for at in 1..=2 {
        let reports = world.engine(at).unwrap().reports();
        let troubles: Vec<_> = reports.map(|(_, report)| report.trouble.clone()).collect();
        let conflict =
            |trouble: &Option<Trouble>| matches!(trouble, Some(Trouble::Parent(Refused::Conflict(_))));
        assert!(!troubles.is_empty() && troubles.iter().all(conflict), "{troubles:?}");
    }
    world.judge_chain();
    assert_eq!(world.judge.violations, Vec::<String>::new());
}
