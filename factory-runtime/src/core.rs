//! Receive, handle, commit, apply, execute.

use std::collections::BTreeMap;
use std::time::Duration;

use bitcoin::BlockHash;
use bitcoin::hashes::Hash;
use factory_engine::backup::{Comparison, Copy, compare};
use factory_engine::io::{Compared, Keeper};
use factory_engine::record::{decode_record, encode_record};
use factory_engine::types::{Height, InstanceId, Millis};
use factory_engine::wire::codec::DecodeError;
use factory_engine::{Answer, Effect, Engine, Folded, Input, Ladder, Level, PriceList, Refusal, Step};

use crate::store::{History, Store, StoreError};

use super::Node;
use super::clock::{SystemEntropy, now};
use super::finished::{Finished, forgotten};
use super::handle::{Inbox, Read, Reply, Request, Transition};
use super::handled::Handled;

/// Name under which the last handled block is kept.
const TIP: &str = "tip";
/// Name under which the price list is kept.
const PRICES: &str = "prices";
/// Name under which the ladder is kept; empty for none.
const LADDER: &str = "ladder";
/// While it catches up a node notes where it is this often, at each block that changed something, and at
/// the end.
const KEEP_TIP: Millis = 1_000;
/// Pauses between attempts to store a step.
const RETRIES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// Between two attempts to store what a keeper has, where nothing else happens.
const BRING_BACK_AGAIN: Duration = Duration::from_secs(1);

/// The engine, the store, and everything that only their owner may touch.
pub struct Runtime<S, N> {
    engine: Engine,
    store: S,
    node: N,
    entropy: SystemEntropy,
    inbox: Inbox,
    finished: Finished,
    /// Before the first block is handled: what lightningd said.
    base_height: Height,
    stale_view: bool,
    /// The last blocks that were handled.
    handled: Handled,
    /// When a block was last noted as handled, and which.
    tip_kept: Option<(Millis, (Height, BlockHash))>,
    /// Factories wait for the next start, which has to read the chain again.
    recovered: bool,
    /// Copies that have more than is stored.
    newer: Vec<(Keeper, Copy)>,
    /// Those of which the rest couldn't be stored yet.
    late: BTreeMap<(Keeper, InstanceId), Copy>,
    /// Messages that waited.
    again: Vec<Input>,
}

/// The last block that was handled before a restart.
pub async fn stored_tip<S: Store>(store: &mut S) -> Result<Option<(Height, BlockHash)>, StoreError> {
    let Some(bytes) = store.get(TIP).await? else { return Ok(None) };
    Ok(bytes.split_at_checked(4).and_then(|(height, hash)| {
        let height = Height::from_be_bytes(height.try_into().ok()?);
        Some((height, BlockHash::from_slice(hash).ok()?))
    }))
}

/// The next start reads the chain again from where something of a factory may be.
pub async fn forget_tip<S: Store>(store: &mut S) -> Result<(), StoreError> {
    store.put(TIP, vec![]).await
}

/// What liquidity costs, as it was set last; `Err` inside is a list that isn't understood, and why.
pub async fn stored_prices<S: Store>(
    store: &mut S,
) -> Result<Option<Result<PriceList, DecodeError>>, StoreError> {
    Ok(store.get(PRICES).await?.map(|bytes| PriceList::from_bytes(&bytes)))
}

/// The ladder, as it was set last; `Err` inside is one that isn't understood, and why.
pub async fn stored_ladder<S: Store>(
    store: &mut S,
) -> Result<Option<Result<Ladder, DecodeError>>, StoreError> {
    let bytes = store.get(LADDER).await?.filter(|bytes| !bytes.is_empty());
    Ok(bytes.map(|bytes| Ladder::from_bytes(&bytes)))
}

impl<S: Store, N: Node> Runtime<S, N> {
    /// A runtime over an engine that is loaded from `store`; [`Self::run`] starts it.
    pub fn new(engine: Engine, store: S, node: N, inbox: Inbox) -> Self {
        Self {
            engine,
            store,
            node,
            entropy: SystemEntropy,
            inbox,
            finished: Finished::default(),
            base_height: 0,
            stale_view: true,
            handled: Handled::default(),
            tip_kept: None,
            recovered: false,
            newer: vec![],
            late: BTreeMap::new(),
            again: vec![],
        }
    }

    /// Runs until every [`Handle`](super::Handle) is gone.
    pub async fn run(mut self) {
        self.refresh_view();
        loop {
            let request = match self.inbox.requests.try_recv() {
                Ok(request) => request,
                Err(_) => {
                    // Nothing waits: a good moment for what can wait.
                    self.refresh_view();
                    match self.next_request().await {
                        Some(request) => request,
                        None => return,
                    }
                }
            };
            // Before anything else is stored behind what is there.
            for ((keeper, _), copy) in std::mem::take(&mut self.late) {
                if let Err(error) = self.bring_back(keeper, &copy).await {
                    log::debug!("{}: still not stored what {keeper} has: {error}", copy.instance);
                    self.late.insert((keeper, copy.instance), copy);
                }
            }
            self.serve(request).await;
            for (keeper, copy) in std::mem::take(&mut self.newer) {
                if let Err(error) = self.bring_back(keeper, &copy).await {
                    log::error!("{}: cannot store what {keeper} has: {error}", copy.instance);
                    self.late.insert((keeper, copy.instance), copy);
                }
            }
            while !self.again.is_empty() {
                for input in std::mem::take(&mut self.again) {
                    self.handle(input, None).await;
                }
            }
        }
    }

    /// The next request, or a tick when the engine's clock runs out. `None`: nobody is left.
    async fn next_request(&mut self) -> Option<Request> {
        let clock = self.engine.poll_timeout();
        let clock = clock.map(|deadline| Duration::from_millis(deadline.saturating_sub(now())));
        let again = (!self.late.is_empty()).then_some(BRING_BACK_AGAIN);
        let Some(pause) = clock.into_iter().chain(again).min() else {
            return self.inbox.requests.recv().await;
        };
        match tokio::time::timeout(pause, self.inbox.requests.recv()).await {
            Ok(request) => request,
            Err(_) => Some(Request::Input(Input::Tick, None)),
        }
    }

    async fn serve(&mut self, request: Request) {
        // A stream of requests must not keep the engine from its clock.
        if self.engine.poll_timeout().is_some_and(|deadline| deadline <= now()) {
            self.handle(Input::Tick, None).await;
        }
        match request {
            Request::Input(input, reply) => self.handle(input, reply).await,
            Request::Connected(peer, number) => {
                let input = self.inbox.peers.connected(peer, number);
                self.handle_if(input).await;
            }
            Request::Listed(peer, number) => self.inbox.peers.listed(peer, number),
            Request::Features(peer, number, supports, channels) => {
                let input = self.inbox.peers.features(peer, number, (supports, channels), &self.node);
                self.handle_if(input).await;
            }
            Request::Disconnected(peer) => {
                let input = self.inbox.peers.disconnected(peer);
                self.handle_if(input).await;
            }
            Request::Raw(peer, bytes) => {
                self.inbox.waiting.taken(peer, bytes.len());
                let input = self.inbox.peers.receive(peer, &bytes, now(), &self.node);
                self.handle_if(input).await;
                self.inbox.peers.acknowledge(peer, &self.node);
            }
            Request::Flood(peer) => {
                self.inbox.peers.end(peer, "it sends faster than we can handle", &self.node);
            }
            Request::Read(read) => {
                let height = self.height();
                read(Ok((&self.engine, height)));
            }
            Request::Height(height) => self.base_height = height,
            Request::CaughtUp => {
                for input in self.inbox.peers.open(&self.node) {
                    self.handle(input, None).await;
                }
            }
            Request::Prices(prices, reply) => self.set_prices(prices, reply).await,
            Request::Ladder(ladder, reply) => self.set_ladder(ladder, reply).await,
            Request::Records(instance, reply) => {
                let records = self.store.load(instance).await;
                // Whoever asked may have given up.
                let _ = reply.send(records.map_err(|error| Refusal::NotRead(error.to_string())));
            }
            Request::Recover(histories, reply) => {
                let stored = self.recover(histories).await;
                answer(Some(reply), stored.map(|()| Answer::Done));
            }
            Request::Flush(done) => {
                // Whoever waits for it may be gone.
                let _ = done.send(());
            }
        }
    }

    /// Of factories of which nothing is stored, all or none. The engine doesn't hear of them before the next start,
    /// which reads the chain again for them.
    async fn recover(&mut self, histories: Vec<History>) -> Result<(), Refusal> {
        let failed = |error: StoreError| Refusal::NotStored(error.to_string());
        let mut all = vec![];
        for (instance, records) in histories {
            if !self.store.load(instance).await.map_err(failed)?.is_empty()
                || self.engine.is_archived(instance)
            {
                return Err(Refusal::NotStored(format!("there are records of factory {instance} already")));
            }
            all.extend(records.into_iter().map(|record| (instance, record)));
        }
        self.store.append(&all).await.map_err(failed)?;
        forget_tip(&mut self.store).await.map_err(failed)?;
        // What follows would be noted as handled.
        self.recovered = true;
        Ok(())
    }

    /// S9: a copy that begins with all that is stored of its factory, or with what that was restored from, brings back the
    /// rest. Nothing is signed there before the engine knows. The next start reads the chain again: blocks may have gone by
    /// without what comes back.
    ///
    /// # Errors
    /// What the store says: then the engine doesn't know yet.
    async fn bring_back(&mut self, keeper: Keeper, copy: &Copy) -> Result<(), StoreError> {
        let instance = copy.instance;
        let stored = self.store.load(instance).await?;
        let compared = match compare(&copy.records, &stored, keeper) {
            Comparison::Older => Compared::Older,
            Comparison::Within => Compared::Within,
            Comparison::Other => Compared::Other,
            Comparison::Newer(missing) | Comparison::Later(missing) => {
                match self.take_back(instance, missing).await? {
                    true => Compared::Newer,
                    false => Compared::Other,
                }
            }
        };
        let number = |records: &[Vec<u8>]| u32::try_from(records.len()).unwrap_or(u32::MAX);
        let (had, copied) = (number(&stored), number(&copy.records));
        self.handle(Input::BroughtBack { keeper, instance, had, copied, compared }, None).await;
        match self.engine.is_compared(keeper, instance) {
            true => Err(StoreError::Failed("what follows from it was not stored".to_owned())),
            false => Ok(()),
        }
    }

    /// Whether these records go on where those that are stored end; then they are stored, too.
    async fn take_back(&mut self, instance: InstanceId, missing: Vec<Vec<u8>>) -> Result<bool, StoreError> {
        let events = missing.iter().map(|record| decode_record(record)).collect::<Result<Vec<_>, _>>();
        let before = self.engine.factory(instance).cloned();
        let folded = events.ok().and_then(|events| Folded::new(instance, before, events).ok());
        let Some(folded) = folded else { return Ok(false) };
        forget_tip(&mut self.store).await?;
        self.recovered = true;
        let records: Vec<_> = missing.into_iter().map(|record| (instance, record)).collect();
        self.store.append(&records).await?;
        self.engine.bring_back(folded);
        self.stale_view = true;
        Ok(true)
    }

    async fn handle_if(&mut self, input: Option<Input>) {
        if let Some(input) = input {
            self.handle(input, None).await;
        }
    }

    fn height(&self) -> Height {
        self.engine.tip().map_or(self.base_height, |(height, _)| height)
    }

    async fn handle(&mut self, input: Input, reply: Option<Reply>) {
        let reorg = match &input {
            Input::Reorg { height } => Some(*height),
            _ => None,
        };
        let moves_tip = reorg.is_some() || matches!(input, Input::Block(_));
        // The follower has nothing more to deliver for now.
        let caught_up = matches!(input, Input::Fees(_));
        #[cfg(feature = "faults")]
        super::faults::before_input(&input).await;
        #[cfg(feature = "faults")]
        let input = super::faults::input(input);
        let step = self.engine.handle(input, now(), self.height(), &mut self.entropy);
        if let Err(error) = self.commit(&step).await {
            // The step is dropped: nothing of it happened, in memory or outside (S14).
            match &error {
                StoreError::Gone(why) => log::warn!("cannot store, is the node stopping? {why}"),
                StoreError::Failed(why) => log::error!("cannot store: {why}"),
            }
            answer(reply, Err(Refusal::NotStored(error.to_string())));
            return;
        }
        self.stale_view |= moves_tip || !step.events.is_empty() || step.changes_policies();
        let step_is_empty = step.events.is_empty();
        let result = step.answer.clone();
        let over = self.engine.forgotten_by(&step.events);
        let effects = match self.engine.apply(step) {
            Ok(effects) => effects,
            // Nobody else applies anything. The next start finds the events.
            Err(stale) => {
                log::error!("{stale}");
                answer(reply, Err(stale.into()));
                return;
            }
        };
        // Before anybody can act on it: a peer opens as soon as it reads our `expecting`.
        self.inbox.view.update_expecting(&self.engine);
        match reorg {
            Some(height) => self.handled.cut(height),
            None if moves_tip => self.handled.note(self.engine.tip()),
            None => {}
        }
        // Before a client hears that it is watched for: a start has to look there again.
        let back = self.engine.unsettled().zip(self.tip_kept);
        let back = back.is_some_and(|(first, (_, (kept, _)))| first <= kept);
        let late = || self.tip_kept.is_none_or(|(kept, _)| now().abs_diff(kept) >= KEEP_TIP);
        if caught_up || back || moves_tip && (!step_is_empty || late()) {
            self.keep_tip().await;
        }
        if moves_tip {
            self.refresh_view();
        }
        answer(reply, result);
        let height = self.height();
        forgotten(&mut self.engine, &mut self.store, &over, height).await;
        for effect in effects {
            #[cfg(feature = "faults")]
            super::faults::before_effect(&effect).await;
            self.carry_out(effect);
        }
        // S26: last. It takes a call to lightningd for each record, and what is due doesn't wait for that.
        if caught_up {
            self.stale_view |= self.finished.tidy(&mut self.engine, &mut self.store, height).await;
        }
    }

    async fn commit(&mut self, step: &Step) -> Result<(), StoreError> {
        if step.events.is_empty() {
            return Ok(());
        }
        let encode = |(instance, events): &(InstanceId, Vec<_>)| (*instance, encode_record(events));
        let records: Vec<(InstanceId, Vec<u8>)> = step.events.iter().map(encode).collect();
        // The first failure says the most: later ones may be about clearing up after it.
        let Err(first) = self.store.append(&records).await else { return Ok(()) };
        for pause in RETRIES {
            tokio::time::sleep(pause).await;
            if self.store.append(&records).await.is_ok() {
                return Ok(());
            }
        }
        Err(first)
    }

    /// Remembers the last handled block, so that a restart needn't read the chain again. Losing it
    /// costs that time only.
    async fn keep_tip(&mut self) {
        // A start reads the blocks again of which somebody's appointment isn't noted yet.
        let Some((height, hash)) = self.handled.below(self.engine.unsettled()) else { return };
        if self.engine.scan_from().is_none() && !self.engine.is_tower() {
            return;
        }
        if self.recovered || self.tip_kept.is_some_and(|(_, kept)| kept == (height, hash)) {
            return;
        }
        self.tip_kept = Some((now(), (height, hash)));
        let mut bytes = height.to_be_bytes().to_vec();
        bytes.extend(hash.as_byte_array());
        if let Err(error) = self.store.put(TIP, bytes).await {
            log::warn!("cannot note block {height} as handled: {error}");
        }
    }

    async fn set_prices(&mut self, prices: PriceList, reply: Reply) {
        let stored = self.store.put(PRICES, prices.to_bytes()).await;
        let result = stored.map_err(|error| Refusal::NotStored(error.to_string()));
        if result.is_ok() {
            self.engine.set_prices(prices);
        }
        answer(Some(reply), result.map(|()| Answer::Done));
    }

    async fn set_ladder(&mut self, ladder: Option<Ladder>, reply: Reply) {
        let stored = self.store.put(LADDER, ladder.map_or_else(Vec::new, Ladder::to_bytes)).await;
        let result = stored.map_err(|error| Refusal::NotStored(error.to_string()));
        if result.is_ok() {
            self.engine.set_ladder(ladder);
        }
        answer(Some(reply), result.map(|()| Answer::Done));
    }

    fn refresh_view(&mut self) {
        if std::mem::take(&mut self.stale_view) {
            self.inbox.view.update_htlc(&self.engine);
        }
    }

    #[cfg(feature = "faults")]
    fn tampered(&self, effect: Effect) -> Option<Effect> {
        let (effect, vanish_from) = super::faults::effect(effect);
        if let Some(peer) = vanish_from {
            self.node.disconnect(peer);
        }
        effect
    }

    fn carry_out(&mut self, effect: Effect) {
        #[cfg(feature = "faults")]
        let Some(effect) = self.tampered(effect) else { return };
        match effect {
            Effect::Send { peer, message } => self.inbox.peers.send(peer, &message, &self.node),
            Effect::Log { level, text } => write_log(level, &text),
            Effect::BringBack { keeper, copy } => self.newer.push((keeper, copy)),
            Effect::ReadAgain { peer, payload } => self.again.push(Input::Message { peer, payload }),
            Effect::Appoint { instance } => self.again.push(Input::Appoint { instance }),
            Effect::StateChanged { instance, new, .. } => {
                // Nobody may be listening.
                let _ = self.inbox.transitions.send(Transition { instance, new });
                self.node.execute(effect);
            }
            effect => {
                // Whatever acts on lightningd's channels finds hooks that know them (S18).
                self.refresh_view();
                self.node.execute(effect);
            }
        }
    }
}

fn answer(reply: Option<Reply>, result: Result<Answer, Refusal>) {
    if let Some(reply) = reply {
        // Whoever asked may have given up.
        let _ = reply.send(result);
    }
}

fn write_log(level: Level, text: &str) {
    match level {
        Level::Debug => log::debug!("{text}"),
        Level::Info => log::info!("{text}"),
        Level::Unusual => log::warn!("{text}"),
        Level::Broken => log::error!("{text}"),
    }
}

/// Stands in for a runtime whose store can't be read: refuses every command with `reason`, lets hooks know
/// that every channel may be a factory's (S33), and writes nothing. Who is connected, and which protocols it says
/// that it speaks, it notes with a `node` for the runtime that comes; of anything else it takes no notice. Runs
/// until nobody is left, or it is dropped.
pub async fn run_unavailable<N: Node>(inbox: &mut Inbox, reason: &str, node: Option<&N>) {
    inbox.view.know_nothing(reason);
    while let Some(request) = inbox.requests.recv().await {
        match request {
            Request::Input(_, reply) => answer(reply, Err(Refusal::ReadOnly(reason.to_owned()))),
            Request::Read(read) => refuse_read(read, reason),
            Request::Records(_, reply) => {
                // Whoever asked may have given up.
                let _ = reply.send(Err(Refusal::ReadOnly(reason.to_owned())));
            }
            Request::Prices(_, reply) | Request::Ladder(_, reply) | Request::Recover(_, reply) => {
                answer(Some(reply), Err(Refusal::ReadOnly(reason.to_owned())));
            }
            Request::Flush(done) => {
                // Whoever waits for it may be gone.
                let _ = done.send(());
            }
            Request::Raw(peer, bytes) => {
                inbox.waiting.taken(peer, bytes.len());
                if let Some(node) = node {
                    let _ = inbox.peers.receive(peer, &bytes, now(), node);
                }
            }
            // As long as nobody hears from us no input follows: no peer is up.
            Request::Connected(peer, number) => drop(inbox.peers.connected(peer, number)),
            Request::Disconnected(peer) => drop(inbox.peers.disconnected(peer)),
            Request::Features(peer, number, supports, channels) => {
                if let Some(node) = node {
                    let _ = inbox.peers.features(peer, number, (supports, channels), node);
                }
            }
            Request::Flood(peer) => {
                if let Some(node) = node {
                    inbox.peers.end(peer, "it sends faster than we can handle", node);
                }
            }
            // Of whoever follows the chain, which nobody does yet.
            Request::Listed(..) | Request::Height(_) | Request::CaughtUp => {}
        }
    }
}

fn refuse_read(read: Read, reason: &str) {
    read(Err(reason));
}
