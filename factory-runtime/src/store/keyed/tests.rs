//! Every call fails, or is the last one before a crash.

use super::super::fake::{FakeKeys, Fault};
use super::*;

type Records = Vec<(InstanceId, Vec<u8>)>;

const A: InstanceId = InstanceId([1; 32]);

async fn opened(node: &FakeKeys) -> Keyed<FakeKeys> {
    let mut store = Keyed::new(node.clone());
    store.load_all().await.unwrap();
    store
}

/// What a restarted plugin reads.
async fn read(node: &FakeKeys) -> Vec<History> {
    Keyed::new(node.clone()).load_all().await.unwrap()
}

/// A datastore in which two factories have a record each already.
async fn begun() -> FakeKeys {
    let node = FakeKeys::default();
    let mut store = opened(&node).await;
    store.append(&[(A, vec![1])]).await.unwrap();
    store.append(&[(InstanceId([2; 32]), vec![2])]).await.unwrap();
    node
}

/// Steps with one record, two, three and many, for factories old and new, two records of one factory
/// among them, and one that is larger than a value may be.
fn steps() -> Vec<Records> {
    let id = |number| InstanceId([number; 32]);
    let large = |number: u8| (id(number), vec![number; 90_000]);
    vec![
        vec![(A, vec![5])],
        vec![(A, vec![5]), (id(2), vec![])],
        vec![(A, vec![5]), (id(3), vec![6]), (A, vec![7])],
        (1..8).map(|number| (id(number), vec![number; usize::from(number)])).collect(),
        (1..4).map(large).collect(),
        vec![(A, vec![9; 300_000])],
        vec![(id(2), vec![8; 250_000]), (A, vec![5]), (id(2), vec![7; 120_001])],
    ]
}

fn with(mut histories: Vec<History>, records: &Records) -> Vec<History> {
    for (instance, record) in records {
        match histories.iter_mut().find(|(other, _)| other == instance) {
            Some((_, list)) => list.push(record.clone()),
            None => histories.push((*instance, vec![record.clone()])),
        }
    }
    histories.sort();
    histories
}

fn fault(call: u32, takes_effect: bool, for_good: bool) -> Option<Fault> {
    Some(Fault { call, takes_effect, for_good })
}

/// S28: lightningd dies of a value of some 4 MB; 256 kB in hex is the most that it gets.
#[tokio::test]
async fn no_value_is_large() {
    let node = begun().await;
    let mut store = opened(&node).await;
    for step in steps() {
        store.append(&step).await.unwrap();
    }
    store.put("tip", vec![0; 120_001]).await.unwrap_err();
    assert!(node.longest() * 2 <= 256_000, "{}", node.longest());
    let records: Vec<Vec<u8>> = read(&node).await.into_iter().flat_map(|(_, records)| records).collect();
    assert!(records.contains(&vec![9; 300_000]) && records.contains(&vec![8; 250_000]));
}

#[tokio::test]
async fn suite() {
    let node = FakeKeys::default();
    super::super::suite::run(|| Keyed::new(node.clone())).await;
}

// S14
#[tokio::test]
async fn a_failed_batch_leaves_nothing_and_a_stored_one_stays_wherever_a_call_failed() {
    for step in steps() {
        for call in 0.. {
            let mut failed = false;
            for takes_effect in [false, true] {
                let node = begun().await;
                let before = read(&node).await;
                let mut store = opened(&node).await;
                node.set_fault(fault(call, takes_effect, false));
                let stored = store.append(&step).await.is_ok();
                failed |= !node.has_fault();
                node.set_fault(None);
                let mut expected = if stored { with(before, &step) } else { before };
                // The store that goes on says the same, and so does one that only reads.
                for (instance, records) in &expected {
                    assert_eq!(&store.load(*instance).await.unwrap(), records, "call {call} {takes_effect}");
                }
                if stored {
                    for (instance, records) in &expected {
                        let read = Keyed::new(node.clone()).load(*instance).await.unwrap();
                        assert_eq!(&read, records, "call {call} {takes_effect}");
                    }
                }
                for next in [vec![(A, vec![8])], step.clone()] {
                    store.append(&next).await.unwrap();
                    expected = with(expected, &next);
                }
                assert_eq!(read(&node).await, expected, "call {call} {takes_effect}");
            }
            if !failed {
                assert!(call > 0);
                break;
            }
        }
    }
}

// S10, S14: a step has happened or not, whichever call of the datastore was the last before a crash, and
// however often its recovery crashes, too.
#[tokio::test]
async fn a_crash_between_any_two_calls_leaves_all_or_nothing() {
    for step in steps() {
        let (mut crashes, mut kept) = (0, 0);
        for call in 0.. {
            let mut fired = false;
            for takes_effect in [false, true] {
                let node = begun().await;
                let before = read(&node).await;
                let after = with(before.clone(), &step);
                let mut store = opened(&node).await;
                node.set_fault(fault(call, takes_effect, true));
                let said = store.append(&step).await.is_ok();
                fired |= node.is_dead();
                let left = node.copied();
                let found = read(&left).await;
                assert!(
                    found == after || !said && found == before,
                    "half a step: call {call} {takes_effect}"
                );
                crashes += 1;
                kept += u32::from(found == after);
                goes_on(&left, &found, &step).await;
                recovery_crashes(&node, &found, &step).await;
            }
            if !fired {
                break;
            }
        }
        assert!(crashes > 2 && kept > 0 && kept < crashes, "{crashes} crashes, {kept} kept");
    }
}

/// Nothing is left of a crash: further steps are stored, and read.
async fn goes_on(node: &FakeKeys, found: &[History], step: &Records) {
    let mut store = opened(node).await;
    let mut expected = found.to_vec();
    for next in [vec![(A, vec![8])], step.clone(), vec![(A, vec![9])]] {
        store.append(&next).await.unwrap();
        expected = with(expected, &next);
    }
    assert_eq!(read(node).await, expected);
    assert!(node.entries().keys().all(|key| key[1] == FACTORY), "something is left over");
}

/// A start that crashes, or only fails, at each of its calls, and then begins anew or goes on.
async fn recovery_crashes(dead: &FakeKeys, found: &[History], step: &Records) {
    for call in 0.. {
        let mut fired = false;
        for takes_effect in [false, true] {
            let node = dead.copied();
            let mut store = Keyed::new(node.clone());
            node.set_fault(fault(call, takes_effect, true));
            let loaded = store.load_all().await;
            fired |= node.is_dead();
            // Whoever gets an answer gets the right one.
            assert!(loaded.is_err() || loaded.as_deref() == Ok(found));
            if loaded.is_ok() && node.is_dead() {
                let failing = store.append(step).await;
                assert!(failing.is_err(), "the node is dead");
            }
            let again = node.copied();
            assert_eq!(read(&again).await, found, "call {call} {takes_effect} of a start");
            goes_on(&again, found, step).await;
            // The same without a crash: what the start couldn't do is done before the next write.
            if loaded.is_ok() {
                node.set_fault(None);
                store.append(step).await.unwrap();
                assert_eq!(read(&node).await, with(found.to_vec(), step));
            }
        }
        if !fired {
            return;
        }
    }
}

/// S28: a failed factory of which a crash left the first records only would begin anew at the next start.
#[tokio::test]
async fn a_crash_while_records_are_deleted_leaves_all_of_them_or_none() {
    let b = InstanceId([2; 32]);
    let whole = begun().await;
    opened(&whole).await.append(&[(A, vec![5; 130_000])]).await.unwrap();
    opened(&whole).await.append(&[(A, vec![6])]).await.unwrap();
    let all = read(&whole).await;
    let mut outcomes = std::collections::BTreeSet::new();
    for call in 0.. {
        for takes_effect in [false, true] {
            let node = whole.copied();
            let mut store = opened(&node).await;
            node.set_fault(fault(call, takes_effect, true));
            let removed = store.remove(&[A]).await.is_ok();
            if !node.is_dead() {
                assert!(removed && call > 4);
                assert_eq!(node.entries().len(), 1, "nothing is left of it");
                assert_eq!(outcomes.len(), 2);
                return;
            }
            let node = node.copied();
            let found = read(&node).await;
            outcomes.insert(found == all);
            if found != all {
                assert_eq!(found, [(b, vec![vec![2]])], "{call}");
                assert_eq!(node.entries().len(), 1, "a start finishes it");
            }
            // It may come again.
            let mut again = opened(&node).await;
            again.append(&[(A, vec![7])]).await.unwrap();
            let records = read(&node).await.into_iter().find(|(instance, _)| *instance == A).unwrap().1;
            assert_eq!(records.last(), Some(&vec![7]));
            assert_eq!(records.len(), if found == all { 4 } else { 1 });
        }
    }
}

/// S8, S28: the same of an archived factory. Whatever is left, it stays archived, so that there is never another
/// of its id; and what was cut off is finished by the next start or the next try.
#[tokio::test]
async fn a_crash_while_an_archived_factory_is_deleted_leaves_it_archived() {
    let dated = (A, Remains::Records { since: 700 });
    let whole = begun().await;
    let mut store = opened(&whole).await;
    store.append(&[(A, vec![5; 130_000])]).await.unwrap();
    store.append(&[(A, vec![6])]).await.unwrap();
    let all = store.load(A).await.unwrap();
    store.archive(&[A], 700).await.unwrap();
    let mut outcomes = std::collections::BTreeSet::new();
    for call in 0.. {
        for (takes_effect, for_good) in [(false, true), (true, true), (false, false), (true, false)] {
            let node = whole.copied();
            let mut store = opened(&node).await;
            node.set_fault(fault(call, takes_effect, for_good));
            let removed = store.remove(&[A]).await.is_ok();
            if node.has_fault() && !node.is_dead() {
                assert!(removed && call > 4);
                assert_eq!(outcomes.len(), 3, "{outcomes:?}");
                return;
            }
            let node = node.copied();
            let mut again = opened(&node).await;
            let records = again.load(A).await.unwrap();
            let left = again.archived().await.unwrap();
            assert!(records == all || records.is_empty(), "{call}");
            assert!(left == [dated] || left == [(A, Remains::Nothing)] && (records.is_empty() || !for_good));
            outcomes.insert((records.is_empty(), left == [dated]));
            assert!(read(&node).await.iter().all(|(instance, _)| *instance != A), "{call}");
            again.remove(&[A]).await.unwrap();
            assert_eq!(again.load(A).await.unwrap(), Vec::<Vec<u8>>::new());
            assert_eq!(again.archived().await.unwrap(), [(A, Remains::Nothing)]);
            again.append(&[(A, vec![1])]).await.unwrap_err();
            assert_eq!(node.entries().len(), 2, "the mark, and the other factory");
        }
    }
}

/// A mark that isn't understood: the records stay.
#[tokio::test]
async fn a_mark_that_is_not_understood_deletes_nothing() {
    let node = begun().await;
    for value in [vec![1], vec![], vec![0, 0], vec![0; 5]] {
        node.insert(archived_key(A), value);
        assert_eq!(opened(&node).await.archived().await.unwrap(), [(A, Remains::Undated)]);
    }
}

// S33
#[tokio::test]
async fn a_missing_or_foreign_record_is_an_empty_one_of_its_own_factory() {
    let b = InstanceId([2; 32]);
    let node = begun().await;
    opened(&node).await.append(&[(A, vec![5]), (A, vec![6])]).await.unwrap();
    node.remove(&record_key(A, 1));
    assert_eq!(read(&node).await, [(A, vec![vec![1], vec![], vec![6]]), (b, vec![vec![2]])]);
    // What comes next has a place of its own, after it.
    opened(&node).await.append(&[(A, vec![7]), (b, vec![8])]).await.unwrap();
    let expected = [(A, vec![vec![1], vec![], vec![6], vec![7]]), (b, vec![vec![2], vec![8]])];
    assert_eq!(read(&node).await, expected);
    // Nobody's keys, one of them beyond every record's.
    for name in ["seven", "99999999"] {
        let node = node.copied();
        let mut key = factory_key(A);
        key.push(name.to_owned());
        node.insert(key, vec![1]);
        let mut damaged = expected.clone();
        damaged[0].1.push(vec![]);
        assert_eq!(read(&node).await, damaged);
        opened(&node).await.append(&[(A, vec![9]), (b, vec![9])]).await.unwrap();
        assert_eq!(node.entries().get(&record_key(A, 4)), Some(&vec![9]));
    }
    let mut key = below(FACTORY);
    key.extend(["no instance", "00000000"].map(str::to_owned));
    node.insert(key, vec![1]);
    assert_eq!(read(&node).await, expected);
}

/// Of a step of two records whose journal was written, and nothing of it folded.
async fn unfolded() -> FakeKeys {
    let node = begun().await;
    let mut store = opened(&node).await;
    node.set_fault(fault(1, false, true));
    store.append(&[(A, vec![5]), (InstanceId([2; 32]), vec![6])]).await.unwrap();
    node.copied()
}

// S33
#[tokio::test]
async fn a_journal_that_cannot_be_read_or_contradicts_is_set_aside() {
    let whole = [(A, vec![vec![1], vec![5]]), (InstanceId([2; 32]), vec![vec![2], vec![6]])];
    assert_eq!(read(&unfolded().await).await, whole);
    let damaged: [(Key, Vec<u8>, &str); 3] = [
        (record_key(A, 1), vec![3], "record 1 is not what the journal says"),
        (part_key(1), vec![1, 1], "the journal can't be read: something follows its last part"),
        (part_key(2), vec![1, 1], "a part of the journal is missing"),
    ];
    for (key, value, why) in damaged {
        let node = unfolded().await;
        node.insert(key.clone(), value.clone());
        let before = node.entries();
        let mut store = Keyed::new(node.clone());
        let found = store.load_all().await.unwrap();
        assert!(store.lost_step().unwrap().contains(why), "{:?}", store.lost_step());
        assert_eq!(found.len(), 2);
        // Nothing is lost of what can't be read, and a single record doesn't wait for it.
        assert_eq!(node.entries(), before);
        store.append(&[(A, vec![8])]).await.unwrap();
        store.set_lost_aside().await.unwrap();
        assert_eq!(store.lost_step(), None);
        let aside = |part: usize| {
            let mut key = below(DAMAGED_JOURNAL);
            key.extend(["0000".to_owned(), format!("{part:0>4}")]);
            node.entries().get(&key).cloned()
        };
        assert_eq!(aside(0).as_ref(), before.get(&part_key(0)));
        store.append(&[(A, vec![9]), (InstanceId([2; 32]), vec![9])]).await.unwrap();
        let mut again = Keyed::new(node.clone());
        let read = again.load_all().await.unwrap();
        assert!(read.iter().all(|(_, records)| records.last() == Some(&vec![9])), "{read:?}");
        assert_eq!(again.lost_step(), None);
    }
}

#[tokio::test]
async fn what_must_not_be_written_is_not() {
    let node = begun().await;
    Keyed::new(node.clone()).append(&[(A, vec![3])]).await.unwrap_err();
    let mut store = opened(&node).await;
    store.archive(&[A], 7).await.unwrap();
    let mixed = [(A, vec![3]), (InstanceId([2; 32]), vec![3])];
    store.append(&mixed).await.unwrap_err();
    opened(&node).await.append(&mixed).await.unwrap_err();
    assert_eq!(node.entries().len(), 3);
}

/// No value of several records is larger than 256 kB in hex, as lightningd takes it.
#[tokio::test]
async fn a_large_step_is_split() {
    for step in steps() {
        let node = FakeKeys::default();
        opened(&node).await.append(&step).await.unwrap();
        assert!(node.longest() < 125_000, "{}", node.longest());
    }
}
