use super::*;
use crate::create::lsp::{layout, terms};
use crate::policy::Config;
use crate::types::{InstanceId, NodeId};

const SAT: u64 = 100_000;

fn config() -> Config {
    Config { confirm_blocks: 3, margin_blocks: 4, ..Config::default() }
}

fn ladder() -> Ladder {
    Ladder {
        rung_blocks: 20,
        lifetime_blocks: 200,
        dying_blocks: 80,
        smallest: 1,
        largest: 100,
        enough_percent: 90,
        wait_blocks: 10,
        ..Ladder::default()
    }
}

fn build(ladder: &Ladder, capacities: &[Amount], height: Height) -> Result<Layout, NoPlan> {
    let clients = capacities.iter().map(|capacity| (NodeId([3; 33]), *capacity)).collect();
    let delays = crate::tx::plan::Delays {
        state_step: 4,
        state_count: 3,
        confirm_blocks: config().confirm_blocks,
        margin_blocks: config().margin_blocks,
    };
    let no = |error: crate::io::Refusal| NoPlan(error.to_string());
    let create = super::super::rung_of(ladder, &delays, clients, 1_000).map_err(no)?;
    let terms = terms(&config(), NodeId([2; 33]), InstanceId([0; 32]), &create, 1_000, height);
    layout(&terms, ladder.lifetime_blocks).map_err(no)
}

/// A factory of so many clients that ends at this height.
fn group(clients: usize, timeout: Height) -> Group {
    let capacities = vec![Amount::from_sat(SAT); clients];
    let layout = build(&ladder(), &capacities, timeout - ladder().lifetime_blocks).unwrap();
    Group { layout: Arc::new(layout), members: (0..).zip(capacities).collect() }
}

fn planned(ladder: &Ladder, blocks: u32, percent: u8, living: Vec<Group>) -> Planned {
    let question = Question { from: 100, blocks, percent, reclaim_blocks: 10 };
    plan(ladder, question, living, &|capacities, height| build(ladder, capacities, height)).unwrap()
}

fn funding(clients: usize) -> Amount {
    build(&ladder(), &vec![Amount::from_sat(SAT); clients], 100).unwrap().funding_value()
}

/// One factory of four clients that ends at 300: due at 220, which is a rung's height. The next one ends at 420, is
/// due at 340. The first root waits for a funding until ten blocks before height 293, from where its clients would
/// have to be evicted (four for the margin, three for its one transaction), and is taken alone.
#[test]
fn one_factory_by_hand() {
    let planned = planned(&ladder(), 300, 100, vec![group(4, 300)]);
    let heights: Vec<Height> = planned.rungs.iter().map(|rung| rung.height).collect();
    assert_eq!(heights, [220, 340]);
    let first = &planned.rungs[0];
    assert_eq!((first.factories, first.clients, first.reclaims), (1, 4, 0));
    assert_eq!((first.funding, first.from_wallet), (funding(4), funding(4)));
    assert_eq!((first.locked, first.in_use), (funding(4) * 2, Amount::from_sat(4 * SAT)));
    assert_eq!(planned.rungs[1].locked, funding(4) * 2, "the first was taken back meanwhile");
    // Fundings: 10 and a half, an input of 57 and a half, two outputs of 43; alone: one output less.
    assert_eq!((planned.transactions, planned.vbytes), (3, 154 + 154 + 111));
    assert_eq!((planned.renewed, planned.evicted), (8, 0));
    assert_eq!(planned.peak().unwrap().height, 220);
}

/// Two factories that are due one rung after the other: the second funding spends the first root, and a coin of the
/// wallet for its fee. So no more than three are ever locked.
#[test]
fn a_root_is_an_input_of_the_next_funding() {
    let planned = planned(&ladder(), 220, 100, vec![group(4, 300), group(4, 320)]);
    let rungs: Vec<(Height, u32)> = planned.rungs.iter().map(|rung| (rung.height, rung.reclaims)).collect();
    assert_eq!(rungs, [(220, 0), (240, 1)]);
    let second = &planned.rungs[1];
    assert_eq!((second.from_wallet, second.locked), (Amount::ZERO, funding(4) * 3));
    assert_eq!((planned.transactions, planned.vbytes), (2, 154 + 212));
    assert_eq!(planned.most_from_wallet(), funding(4));
}

/// Two that are due at once make one; more than the largest factory takes make several, as even as can be.
#[test]
fn rungs_join_and_split() {
    let both = planned(&ladder(), 160, 100, vec![group(3, 300), group(4, 305)]);
    let rung = &both.rungs[0];
    assert_eq!((rung.height, rung.factories, rung.clients), (220, 1, 3));
    assert_eq!(
        (both.rungs[1].height, both.rungs[1].clients),
        (240, 4),
        "five blocks too late for the rung at 220"
    );
    let at_once = planned(&ladder(), 140, 100, vec![group(3, 300), group(4, 300)]);
    assert_eq!((at_once.rungs.len(), at_once.rungs[0].clients, at_once.rungs[0].factories), (1, 7, 1));
    let largest = Ladder { largest: 3, ..ladder() };
    let split = planned(&largest, 140, 100, vec![group(3, 300), group(4, 300)]);
    assert_eq!((split.rungs[0].clients, split.rungs[0].factories), (7, 3));
    assert_eq!(split.rungs[0].funding, funding(3) + funding(2) * 2);
}

/// Of ten clients one doesn't come: its path is published in time, and one transaction takes what is beside it. It
/// comes back at the rung after that.
#[test]
fn a_straggler_is_evicted_and_comes_back() {
    let living = group(10, 300);
    let path = living.layout.path(0);
    let (nodes, size, beside) = eviction(&living.layout, &[0]);
    let own: u64 = path.iter().map(|node| living.layout.node(*node).unwrap().vbytes).sum();
    assert_eq!((nodes, size), (path.len() as u64, own));
    assert!(beside > 0);
    let planned = planned(&ladder(), 230, 90, vec![living]);
    assert_eq!((planned.renewed, planned.evicted), (9, 1));
    let clients: Vec<(Height, u32)> = planned.rungs.iter().map(|rung| (rung.height, rung.clients)).collect();
    assert_eq!(clients[0], (220, 9));
    assert_eq!(clients[1].1, 1, "{clients:?}");
    let taken = vbytes(BASE_WEIGHT + beside * KEY_PATH_WEIGHT + OUTPUT_WEIGHT);
    let close = vbytes(BASE_WEIGHT + CLOSE_INPUT_WEIGHT + 2 * OUTPUT_WEIGHT);
    assert_eq!(planned.vbytes, 154 + size + taken + 154 + close);
    assert_eq!(planned.transactions, 1 + nodes + 1 + 2);
}

/// Fewer than enough come: a rung begins at its latest date. Fewer than the smallest factory wait, but not beyond the
/// last rung that they can use.
#[test]
fn few_wait() {
    let late = planned(&ladder(), 140, 70, vec![group(10, 300)]);
    assert_eq!((late.rungs[0].height, late.rungs[0].clients), (230, 7));
    let small = Ladder { smallest: 5, ..ladder() };
    let last = planned(&small, 200, 100, vec![group(4, 300)]);
    // Whoever is evicted from height 293 on has to begin by 275: the rung from 260 to 280 is the last.
    assert_eq!((last.rungs[0].height, last.rungs[0].clients), (260, 4));
}

/// Whatever the ladder: clients keep what they have, which is never more than what is locked; nobody is late if all
/// come in time; no factory is too large; the wallet adds no more than the fundings.
#[test]
fn what_always_holds() {
    let mut checked = 0;
    for clients in [1usize, 2, 5, 12, 30] {
        for (percent, largest, smallest) in [(100, 100, 1), (90, 4, 2), (70, 7, 1), (0, 3, 3), (100, 1, 1)] {
            for spacing in [0, 7, 20, 45] {
                let ladder = Ladder { largest, smallest, ..ladder() };
                let living = vec![group(clients, 290), group(clients, 290 + spacing), group(1, 301)];
                let all = Amount::from_sat(SAT) * (2 * clients as u64 + 1);
                let planned = planned(&ladder, 900, percent, living);
                for rung in &planned.rungs {
                    assert_eq!(rung.in_use, all, "{percent} {largest} {spacing}: {rung:?}");
                    assert!(rung.locked >= rung.in_use, "{rung:?}");
                    assert!(rung.clients <= rung.factories * largest && rung.factories > 0);
                    assert!(rung.from_wallet <= rung.funding);
                    assert!((rung.rung.opens..rung.rung.ends).contains(&rung.height));
                    checked += 1;
                }
                assert!(percent < 100 || planned.evicted == 0, "{planned:?}");
                assert!(planned.rungs.windows(2).all(|pair| pair[0].height < pair[1].height));
            }
        }
    }
    assert!(checked > 300, "{checked}");
}

/// No number of clients is too large to be looked at, and a factory that can't be is said.
#[test]
fn a_factory_that_can_not_be_is_said() {
    let question = Question { from: 100, blocks: 300, percent: 100, reclaim_blocks: 10 };
    let short = Ladder { lifetime_blocks: 82, ..ladder() };
    let build = |capacities: &[Amount], height: Height| build(&short, capacities, height);
    let NoPlan(why) = plan(&short, question, vec![group(4, 300)], &build).unwrap_err();
    assert!(why.contains("lifetime_blocks of 82 is too short"), "{why}");
    let none = plan(&short, question, vec![], &build).unwrap();
    assert_eq!(none, Planned::default());
}
