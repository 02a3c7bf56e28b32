//! Children of a wallet in memory.

use bitcoin::transaction::Version;
use bitcoin::{TxOut, absolute::LockTime};
use factory_engine::tx::child::Bump;
use factory_engine::types::InstanceId;

use super::super::toy::{HEIGHT, Toy, outpoint, script};
use super::*;

const DAY: u64 = HEIGHT + 144;

/// A transaction that needs a child by some height; `number` tells it from others.
fn raise(number: u32, deadline: u32) -> Raise {
    let output = TxOut { value: Amount::from_sat(240), script_pubkey: script(1) };
    let parent = Transaction {
        version: Version(3),
        lock_time: LockTime::from_consensus(number),
        input: vec![bitcoin::TxIn::default()],
        output: vec![output],
    };
    let bump = Bump {
        anchor: OutPoint { txid: parent.compute_txid(), vout: 0 },
        version: Version(3),
        parent_fee: Amount::ZERO,
        parent_weight: 600,
        feerate: 2_000,
        max_fee: Amount::from_sat(90_000),
    };
    Raise { instance: InstanceId([1; 32]), what: number.to_string(), parent, bump, deadline }
}

/// A node that keeps these coins, all reserved for a day.
async fn keeping(coins: u32) -> (Toy, Kept<Toy>, Bumper<Toy>) {
    let toy = Toy::default();
    for number in 0..coins {
        toy.add(number, 50_000, script(7), DAY);
    }
    let kept = Kept::new(toy.clone());
    kept.begin(script(7)).await.unwrap();
    let bumper = Bumper::new(toy.clone(), Bitcoind::default(), kept.clone());
    (toy, kept, bumper)
}

// S27: its coin is kept as before, neither free nor longer.
#[tokio::test]
async fn a_refused_child_leaves_its_kept_coin_kept() {
    let (toy, _, bumper) = keeping(1).await;
    toy.refuse_children("bad-txns");
    let report = bumper.raise(&raise(1, 1_100)).await;
    assert!(matches!(report.trouble, Some(Trouble::Child(_))), "{:?}", report.trouble);
    assert_eq!(toy.reserved()[&outpoint(0)], DAY);
}

// S27: one that isn't kept is the wallet's again.
#[tokio::test]
async fn a_refused_child_gives_its_coin_back() {
    let toy = Toy::default();
    toy.add(0, 50_000, script(8), 0);
    let bumper = Bumper::new(toy.clone(), Bitcoind::default(), Kept::new(toy.clone()));
    toy.refuse_children("bad-txns");
    bumper.raise(&raise(1, 1_100)).await;
    assert_eq!((toy.called("signpsbt"), toy.reserved()[&outpoint(0)]), (1, 0));
}

// S27: a coin that lightningd has given to somebody else since it was listed is theirs.
#[tokio::test]
async fn a_coin_that_is_taken_meanwhile_stays_its_takers() {
    let toy = Toy::default();
    toy.add(0, 50_000, script(8), 0);
    let bumper = Bumper::new(toy.clone(), Bitcoind::default(), Kept::new(toy.clone()));
    let taker = toy.clone();
    toy.meanwhile("listfunds", async move {
        let psbt = spending(&[outpoint(0)]).unwrap().to_string();
        taker.call("reserveinputs", json!({"psbt": psbt, "reserve": 5})).await.unwrap();
    });
    let report = bumper.raise(&raise(1, 1_100)).await;
    assert!(matches!(report.trouble, Some(Trouble::Wallet(_))), "{:?}", report.trouble);
    assert_eq!((toy.called("signpsbt"), toy.reserved()[&outpoint(0)]), (0, HEIGHT + 5));
}

// S26: an urgent child that is refused doesn't free the coin of another that is still out.
#[tokio::test]
async fn a_refused_child_leaves_anothers_coin_reserved() {
    let toy = Toy::default();
    toy.add(0, 50_000, script(8), 0);
    let bumper = Bumper::new(toy.clone(), Bitcoind::default(), Kept::new(toy.clone()));
    let first = bumper.raise(&raise(1, 1_100)).await;
    assert!(first.child.is_some(), "{:?}", first.trouble);
    toy.refuse_children("bad-txns");
    let second = bumper.raise(&raise(2, 1_010)).await;
    assert!(matches!(second.trouble, Some(Trouble::Child(_))), "{:?}", second.trouble);
    assert!(toy.reserved()[&outpoint(0)] > 0);
}

/// However many there are at one block: one look at the wallet for all of them, and to each its own coin.
#[tokio::test]
async fn one_look_at_the_wallet_does_for_a_round() {
    const MANY: u32 = 100;
    let toy = Toy::default();
    (0..MANY).for_each(|number| toy.add(number, 50_000, script(8), 0));
    let bumper = Bumper::new(toy.clone(), Bitcoind::default(), Kept::new(toy.clone()));
    for round in 1..=2 {
        for number in 0..MANY {
            let report = bumper.raise_of_round(&raise(number, 1_100), number + 1 == MANY).await;
            assert!(report.child.is_some(), "{:?}", report.trouble);
        }
        assert_eq!((toy.called("listfunds"), toy.called("signpsbt")), (round, 100));
    }
    assert!(toy.reserved().values().all(|to| *to > 0));
}

/// S27: what somebody else takes in the middle of a round is theirs, and the child has another one.
#[tokio::test]
async fn a_coin_that_is_taken_in_a_round_stays_its_takers() {
    let toy = Toy::default();
    (0..3).for_each(|number| toy.add(number, 50_000, script(8), 0));
    let bumper = Bumper::new(toy.clone(), Bitcoind::default(), Kept::new(toy.clone()));
    assert!(bumper.raise(&raise(1, 1_100)).await.child.is_some());
    let psbt = spending(&[outpoint(1)]).unwrap().to_string();
    toy.call("reserveinputs", json!({"psbt": psbt, "reserve": 5})).await.unwrap();
    let report = bumper.raise(&raise(2, 1_100)).await;
    assert!(report.child.is_some(), "{:?}", report.trouble);
    let reserved = toy.reserved();
    assert_eq!((toy.called("listfunds"), reserved[&outpoint(1)]), (2, HEIGHT + 5));
    assert!(reserved[&outpoint(2)] > HEIGHT + 5);
}

// S27: whoever gives the coins back has them back, whatever a block reserves at the same moment.
#[tokio::test]
async fn keeping_and_giving_back_at_once() {
    for method in ["listfunds", "getchaininfo"] {
        let (toy, kept, bumper) = keeping(0).await;
        toy.add(0, 50_000, script(7), 0);
        let end = kept.clone();
        toy.meanwhile(method, async move { assert!(end.end().await.is_ok()) });
        bumper.settle(&BTreeSet::new()).await.unwrap();
        while kept.script().await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
        // Whatever waited for the other is through as well.
        bumper.settle(&BTreeSet::new()).await.unwrap();
        assert_eq!(toy.reserved()[&outpoint(0)], 0, "at {method}");
    }
}

// S26: what a child that is just being made spends is not given back under it.
#[tokio::test]
async fn a_child_on_its_way_keeps_its_coin() {
    let (toy, kept, bumper) = keeping(1).await;
    let end = kept.clone();
    toy.meanwhile("signpsbt", async move { assert!(end.end().await.is_ok()) });
    let report = bumper.raise(&raise(1, 1_100)).await;
    assert!(report.child.is_some(), "{:?}", report.trouble);
    while kept.script().await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    assert!(toy.reserved()[&outpoint(0)] > 0);
    // And once it is over, it is the wallet's.
    bumper.settle(&BTreeSet::new()).await.unwrap();
    assert_eq!(toy.reserved()[&outpoint(0)], 0);
}
