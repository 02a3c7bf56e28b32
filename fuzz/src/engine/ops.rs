//! What one byte does, and what it asks of the bytes after it.

use bitcoin::{TxOut, Witness};
use factory_engine::io::fees::{FeeNews, Feerates, Refused, Report, Trouble};
use factory_engine::tx::layout::RESERVE_MSAT;
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, ChannelId, InstanceId, OutPoint, ScriptBuf, TermsHash, Transaction};
use factory_engine::wire::codec::Codec;
use factory_engine::wire::message::Message;
use factory_engine::{
    ChannelNow, CheckFailure, Command, Direction, Ended, Input, KnownChannel, OpenChannel, OpenFailure,
    PendingHtlc, PreparedFunding,
};

use crate::bytes::Bytes;

use super::node::id;
use super::twist::twist;
use super::world::{MEMBERS, World};

/// Does what the next bytes say.
pub fn next(world: &mut World, input: &mut Bytes<'_>) {
    let op = input.byte();
    // Two bits for whom, where there is a choice.
    let at = usize::from(op >> 6) % MEMBERS;
    match op & 0x1f {
        0..=2 => world.step(),
        3 => world.settle(usize::from(op >> 5).saturating_mul(8).saturating_add(4)),
        4 => {
            let place = input.below(world.pending.len());
            if let Some((at, input)) = world.pending.remove(place) {
                let _ = world.feed(at, input);
            }
        }
        5 => {
            let place = input.below(world.pending.len());
            world.pending.remove(place);
        }
        6 => {
            let place = input.below(world.pending.len());
            if let Some((at, input)) = world.pending.get(place).cloned() {
                let _ = world.feed(at, input);
            }
        }
        7..=9 => twisted(world, input),
        10 => {
            let bytes = input.chunk();
            let _ = world
                .feed(at, Input::Message { peer: id(input.below(MEMBERS + 1)), payload: bytes.to_vec() });
        }
        11 => {
            let place = input.below(world.sent.len());
            if let Some((from, to, payload)) = world.sent.get(place).cloned() {
                let _ = world.feed(to, Input::Message { peer: id(from), payload });
            }
        }
        12 | 13 => {
            let mask = input.byte();
            world.mine(&|index| mask >> (index % 8) & 1 == 0);
        }
        14 => world.reorg(u32::from(op >> 5)),
        15 => foreign_spend(world, input),
        16 => tick(world, at),
        17 => {
            let (a, b) = (0, if at == 0 { 1 } else { at });
            let _ = world.feed(a, Input::PeerDown { peer: id(b) });
            let _ = world.feed(b, Input::PeerDown { peer: id(a) });
        }
        18 => {
            let (a, b) = (0, if at == 0 { 1 } else { at });
            let _ = world.feed(a, Input::PeerUp { peer: id(b), channels: true });
            let _ = world.feed(b, Input::PeerUp { peer: id(a), channels: true });
        }
        19 => restart(world, at, input),
        20 => world.nodes[at].store_fails = true,
        21 => {
            let stock = if op & 0x20 == 0 { 20_000 } else { 0 };
            world.create(Profile::ALL[usize::from(op >> 6) % 3], stock);
        }
        24 if op & 0x20 != 0 => {
            let count = usize::from(input.byte() % 4);
            let clients = input.take(count).iter().map(|client| (*client).into()).collect();
            let instance = instance(world, input);
            let _ = world.feed(at, Input::Command(Command::Evict { instance, clients }));
        }
        22..=24 => command(world, at, op, input),
        25 => htlcs(world, at, input),
        26 => open(world, at, input),
        27 => failure(world, at, input),
        28 => misleading(world, at, input),
        29 => {
            // Much later.
            world.height = world.height.saturating_add(u32::from(input.short()) % 5_000);
            world.mine(&|_| true);
        }
        30 if op & 0x20 != 0 => fees(world, at, input),
        30 => world.now = world.now.saturating_add(u64::from(input.short())),
        _ => {
            for _ in 0..4 {
                world.mine(&|_| true);
            }
        }
    }
}

/// A message that is under way, or was ever, not quite as it was sent.
fn twisted(world: &mut World, input: &mut Bytes<'_>) {
    let waiting = world.pending.iter().position(|(_, input)| matches!(input, Input::Message { .. }));
    let (to, peer, payload) =
        match waiting.filter(|_| input.byte() < 200).and_then(|at| world.pending.remove(at)) {
            Some((to, Input::Message { peer, payload })) => (to, peer, payload),
            _ => match world.sent.get(input.below(world.sent.len())).cloned() {
                Some((from, to, payload)) => (to, id(from), payload),
                None => return,
            },
        };
    let Ok(mut message) = Message::decode(&payload) else { return };
    for _ in 0..=input.byte() % 2 {
        twist(&mut message, input);
    }
    let _ = world.feed(to, Input::Message { peer, payload: message.encode() });
}

fn instance(world: &World, input: &mut Bytes<'_>) -> InstanceId {
    let known: Vec<InstanceId> =
        world.nodes.iter().flat_map(|node| node.engine.factories().map(|factory| factory.instance)).collect();
    input.choose(&known).copied().unwrap_or(InstanceId([5; 32]))
}

/// What somebody has read, if there is something to read.
fn terms_hash(world: &World, at: usize, instance: InstanceId) -> TermsHash {
    let factory = world.nodes.get(at).and_then(|node| node.engine.factory(instance));
    factory.and_then(|factory| factory.current.terms_hash()).unwrap_or(TermsHash([6; 32]))
}

fn command(world: &mut World, at: usize, op: u8, input: &mut Bytes<'_>) {
    let instance = instance(world, input);
    let command = match op & 0x1f {
        22 => Command::Accept { instance, terms: terms_hash(world, at, instance) },
        23 => Command::Decline { instance, reason: String::from_utf8_lossy(input.take(4)).repeat(300) },
        _ => Command::Exit { instance },
    };
    let _ = world.feed(at, Input::Command(command));
}

/// A transaction of somebody else's that spends what is watched.
fn foreign_spend(world: &mut World, input: &mut Bytes<'_>) {
    let mut watched: Vec<OutPoint> =
        world.nodes.iter().flat_map(|node| node.engine.watched().outpoints).collect();
    watched.sort();
    let (Some(coin), Some(mut tx)) =
        (input.choose(&watched), world.mempool.first().cloned().or_else(some_tx))
    else {
        return;
    };
    for spent in &mut tx.input {
        spent.previous_output = *coin;
        spent.witness = Witness::new();
    }
    // No chain takes one that pays more than it spends.
    tx.input.truncate(1);
    tx.output.iter_mut().for_each(|output| output.value = Amount::from_sat(1));
    tx.lock_time = bitcoin::absolute::LockTime::from_consensus(input.byte().into());
    world.mempool.insert(0, tx);
    world.mine(&|index| index == 0);
}

fn some_tx() -> Option<Transaction> {
    let output = bitcoin::TxOut { value: Amount::from_sat(1), script_pubkey: ScriptBuf::new() };
    let spent = bitcoin::TxIn::default();
    let version = bitcoin::transaction::Version::TWO;
    Some(Transaction {
        version,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![spent],
        output: vec![output],
    })
}

fn tick(world: &mut World, at: usize) {
    if let Some(due) = world.nodes[at].engine.poll_timeout() {
        world.now = world.now.max(due);
    }
    let _ = world.feed(at, Input::Tick);
}

fn restart(world: &mut World, at: usize, input: &mut Bytes<'_>) {
    world.nodes[at].restart();
    // What lightningd was asked before is answered to nobody.
    world.pending.retain(|(to, input)| *to != at || matches!(input, Input::Message { .. }) && at > 0);
    let mut channels = Vec::new();
    for (channel_id, _) in world.nodes[at].engine.channel_policies() {
        let (peer, capacity) = (id(if at == 0 { 1 } else { 0 }), Amount::from_sat(100_000));
        channels.push(KnownChannel { channel_id, peer, capacity, confirmed: None });
    }
    channels.truncate(usize::from(input.byte() % 3));
    let _ = world.feed(at, Input::Started { channels });
    let block = world.block(world.height);
    let _ = world.feed(at, Input::Block(block));
    for peer in (0..MEMBERS).filter(|peer| *peer != at && (*peer == 0 || at == 0)) {
        let _ = world.feed(peer, Input::PeerDown { peer: id(at) });
        let _ = world.feed(peer, Input::PeerUp { peer: id(at), channels: true });
        let _ = world.feed(at, Input::PeerUp { peer: id(peer), channels: true });
    }
}

/// What the node says of fees, of a transaction that it was to publish, or of its channels.
fn fees(world: &mut World, at: usize, input: &mut Bytes<'_>) {
    let ids: Vec<ChannelId> = world.nodes[at].engine.channel_policies().iter().map(|(id, _)| *id).collect();
    let news = match input.byte() % 3 {
        0 => {
            let estimates = (0..input.byte() % 4).map(|_| (u32::from(input.byte()), input.word())).collect();
            let feerates = Feerates { floor: u32::from(input.short()), estimates };
            let stakes = ids.iter().map(|id| (*id, Amount::from_sat(u64::from(input.word())))).collect();
            Input::Fees(FeeNews { feerates: Some(feerates).filter(|_| input.byte() < 200), stakes })
        }
        1 => {
            let some = ids.into_iter().take(usize::from(input.byte() % 3));
            let list = some.map(|channel_id| ChannelNow { channel_id, ended: ended(input.byte()) }).collect();
            Input::Channels { list, whole: input.byte() < 128 }
        }
        _ => {
            let Some(tx) = world.mempool.get(input.below(world.mempool.len())) else { return };
            let trouble = match input.byte() % 5 {
                0 => None,
                1 => Some(Trouble::Parent(Refused::Confirmed)),
                2 => Some(Trouble::Parent(Refused::MissingInputs)),
                3 => Some(Trouble::Child(Refused::Conflict(String::new()))),
                _ => Some(Trouble::Capped(Amount::from_sat(input.word().into()))),
            };
            let txid = tx.compute_txid();
            let target = Some((input.word(), input.word()));
            let report = Report {
                instance: instance(world, input),
                what: String::new(),
                target,
                child: None,
                trouble,
            };
            Input::Published { txid, report: Box::new(report) }
        }
    };
    let _ = world.feed(at, news);
}

fn ended(byte: u8) -> Option<Ended> {
    match byte % 8 {
        0 => Some(Ended::Closing),
        1 => Some(Ended::Failed),
        2 => Some(Ended::Spliced),
        3 => Some(Ended::OnChain),
        4 => Some(Ended::Forgotten),
        _ => None,
    }
}

fn htlcs(world: &mut World, at: usize, input: &mut Bytes<'_>) {
    let policies = world.nodes[at].engine.channel_policies();
    let mut htlcs = Vec::new();
    for _ in 0..=input.byte() % 3 {
        let channel = input.choose(&policies).map(|(id, policy)| (*id, policy.blocks_early));
        let (channel_id, early) = channel.unwrap_or((ChannelId([1; 32]), 0));
        let away = i64::from(input.byte()).saturating_sub(8);
        let expiry = i64::from(world.height).saturating_add(early.into()).saturating_add(away);
        let directions = [Direction::Offered, Direction::Received, Direction::Fulfilled];
        htlcs.push(PendingHtlc {
            channel_id,
            direction: input.choose(&directions).copied().unwrap_or(Direction::Fulfilled),
            amount_msat: u64::from(input.byte()).saturating_mul(1_000_000),
            cltv_expiry: u32::try_from(expiry).unwrap_or(u32::MAX),
            payment_hash: [input.byte() % 2; 32],
        });
    }
    let _ = world.feed(at, Input::Htlcs(htlcs));
}

fn open(world: &mut World, at: usize, input: &mut Bytes<'_>) {
    let record = world.nodes[at].engine.factories().next().map(|factory| factory.channel_in_factory(0));
    let open = OpenChannel {
        peer: id(input.below(MEMBERS + 1)),
        capacity: Amount::from_sat(if input.byte() < 200 { 100_000 } else { u64::MAX }),
        push_msat: if input.byte() < 200 { 1_000 } else { 0 },
        reserve_msat: RESERVE_MSAT,
        zeroconf: input.byte() < 200,
        channel_in_factory: record.filter(|_| input.byte() < 100),
    };
    let _ = world.feed(at, Input::OpenChannel(open));
}

/// lightningd says no.
fn failure(world: &mut World, at: usize, input: &mut Bytes<'_>) {
    let Some(instance_id) = world.nodes[at].engine.factories().next().map(|factory| factory.instance) else {
        return;
    };
    let attempt = world.nodes[at].engine.factory(instance_id).map_or(0, |factory| factory.current.number);
    let (instance, client) = (instance_id, u32::from(input.byte() % 3));
    let sale = (input.byte() < 40).then_some(1);
    let no = || "lightningd says no".repeat(20);
    let unopened = || if client == 2 { OpenFailure::Disconnected(no()) } else { OpenFailure::Refused(no()) };
    let failed = match input.byte() % 7 {
        0 => Input::FundingPrepared { instance, attempt, result: Err(no().into()) },
        1 => Input::PayoutReady { instance, attempt, result: Err(no().into()) },
        2 => Input::ChannelStarted { instance, attempt, client, sale, result: Err(unopened()) },
        3 => Input::ChannelCompleted { instance, attempt, client, sale, result: Err(unopened()) },
        4 => Input::ChannelChecked { instance, attempt, sale, result: Err(CheckFailure::NotYet) },
        5 => Input::ChannelChecked { instance, attempt, sale, result: Err(CheckFailure::Unavailable(no())) },
        _ => Input::ChannelChecked { instance, attempt, sale, result: Err(CheckFailure::Mismatch(no())) },
    };
    let _ = world.feed(at, failed);
}

/// lightningd says what it never would: nothing may panic or be stored that can't be read.
fn misleading(world: &mut World, at: usize, input: &mut Bytes<'_>) {
    let Some(factory) = world.nodes[at].engine.factories().next() else { return };
    let (instance, attempt) = (factory.instance, factory.current.number);
    let sale = (input.byte() < 40).then_some(1);
    let (client, kind) = (u32::from(input.byte()), input.byte() % 5);
    let bytes = input.chunk();
    let odd = match kind {
        0 => {
            let tx = Transaction::decoded(bytes).ok().or_else(some_tx);
            let Some(tx) = tx else { return };
            let prevout = TxOut {
                value: Amount::from_sat(u64::from_be_bytes(input.array())),
                script_pubkey: ScriptBuf::new(),
            };
            let prevouts = vec![prevout; tx.input.len()];
            let prepared = PreparedFunding { tx, prevouts, vout: input.byte().into() };
            Input::FundingPrepared { instance, attempt, result: Ok(prepared) }
        }
        1 => Input::PayoutReady { instance, attempt, result: Ok(ScriptBuf::from_bytes(bytes.to_vec())) },
        2 => Input::ChannelStarted {
            instance,
            attempt,
            client,
            sale,
            result: Ok(ScriptBuf::from_bytes(bytes.to_vec())),
        },
        3 => {
            Input::ChannelCompleted { instance, attempt, client, sale, result: Ok(ChannelId(input.array())) }
        }
        _ => {
            let mut block = world.block(input.word());
            block.txs = world.mempool.clone();
            Input::Block(block)
        }
    };
    world.nodes[at].misled = true;
    let _ = world.feed(at, odd);
}
