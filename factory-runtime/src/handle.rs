//! How the rest of the plugin talks to the runtime.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use factory_engine::types::{Height, InstanceId, NodeId};
use factory_engine::{Answer, Engine, Input, Ladder, PriceList, Refusal, RefusalKind, State};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::peers::Peers;
use super::store::History;
use super::view::View;

/// Bytes of one peer's messages that may wait for the runtime (S28). lightningd passes a million a
/// second at most, so this is what comes in during a pause of some seconds.
const PEER_INBOX_BYTES: usize = 4 << 20;
/// Between two tries to have something stored.
const INSIST: Duration = Duration::from_secs(1);
/// What a waiting message costs beside its bytes.
const MESSAGE_OVERHEAD: usize = 256;

/// The runtime has ended: nothing more is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl From<Gone> for Refusal {
    fn from(_: Gone) -> Self {
        Refusal::Stopping
    }
}

/// A factory's state changed; sent to whoever [`Handle::transitions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The factory (factory_instance).
    pub instance: InstanceId,
    /// State that it is in now.
    pub new: State,
}

pub(super) type Reply = oneshot::Sender<Result<Answer, Refusal>>;
pub(super) type Read = Box<dyn FnOnce(Result<(&Engine, Height), &str>) + Send>;

pub(super) enum Request {
    Input(Input, Option<Reply>),
    /// A connection was announced: its number, from 1.
    Connected(NodeId, u64),
    /// A peer was found connected at start-up.
    Listed(NodeId, u64),
    /// Whether the peer of this connection set our feature bit.
    Features(NodeId, u64, bool, bool),
    Disconnected(NodeId),
    Raw(NodeId, Vec<u8>),
    Flood(NodeId),
    Read(Read),
    /// The chain's height, before the first block is handled.
    Height(Height),
    /// Every block up to the tip was handled: peers are talked to.
    CaughtUp,
    /// What liquidity costs from now on.
    Prices(PriceList, Reply),
    /// When factories follow on those that end, from now on.
    Ladder(Option<Ladder>, Reply),
    /// The records of a factory, as they are stored.
    Records(InstanceId, oneshot::Sender<Result<Vec<Vec<u8>>, Refusal>>),
    /// Records of factories that this node has lost, and the word that it has.
    Recover(Vec<History>, Reply),
    Flush(oneshot::Sender<()>),
}

/// A cheap clone for everybody who has something to say to the engine.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::UnboundedSender<Request>,
    transitions: broadcast::Sender<Transition>,
    view: Arc<View>,
    waiting: Arc<Waiting>,
    connections: Arc<AtomicU64>,
}

/// The runtime's end of a [`Handle`].
pub struct Inbox {
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    pub(super) transitions: broadcast::Sender<Transition>,
    pub(super) view: Arc<View>,
    pub(super) waiting: Arc<Waiting>,
    /// Connections last longer than whoever reads this.
    pub(super) peers: Peers,
}

/// Both ends, before either the engine or the node exists.
pub fn channel() -> (Handle, Inbox) {
    let (sender, requests) = mpsc::unbounded_channel();
    let (transitions, _) = broadcast::channel(256);
    let view = Arc::new(View::default());
    let waiting = Arc::new(Waiting::default());
    let handle = Handle {
        requests: sender,
        transitions: transitions.clone(),
        view: Arc::clone(&view),
        waiting: Arc::clone(&waiting),
        connections: Arc::default(),
    };
    (handle, Inbox { requests, transitions, view, waiting, peers: Peers::default() })
}

impl Handle {
    /// Something happened; nobody waits for what follows.
    pub fn input(&self, input: Input) {
        self.send(Request::Input(input, None));
    }

    /// Asks the engine, and waits for its answer. When it comes, everything that it rests on is
    /// stored.
    pub async fn ask(&self, input: Input) -> Result<Answer, Refusal> {
        self.answered(|reply| Request::Input(input, Some(reply))).await
    }

    /// Something happened. What is [said once](Input::is_said_once) is brought until it is stored.
    pub async fn deliver_durably(&self, input: Input) {
        if input.is_said_once() {
            self.insist(input).await;
        } else {
            self.input(input);
        }
    }

    /// Until it is stored, or the plugin ends.
    pub(super) async fn insist(&self, input: Input) {
        while let Err(why) = self.ask(input.clone()).await {
            if why.kind() != RefusalKind::Unavailable || self.requests.is_closed() {
                return;
            }
            log::debug!("trying again to store what happened: {why}");
            tokio::time::sleep(INSIST).await;
        }
    }

    /// Looks at the engine, between two inputs. The closure should be short: everything waits. It isn't called if
    /// whoever asked has given up by then. One that panics does so where it was asked for: it has changed nothing, and the
    /// engine goes on.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine, Height) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let read = |reply: oneshot::Sender<_>| {
            Request::Read(Box::new(move |engine| {
                if reply.is_closed() {
                    return;
                }
                let seen = match engine {
                    Ok((engine, height)) => Ok(catch_unwind(AssertUnwindSafe(|| look(engine, height)))),
                    Err(reason) => Err(Refusal::ReadOnly(reason.to_owned())),
                };
                // Whoever asked may have given up meanwhile; then nobody wants the answer.
                let _ = reply.send(seen);
            }))
        };
        match self.answered(read).await? {
            Ok(seen) => Ok(seen),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// What liquidity costs from now on. Stored when it returns.
    pub async fn set_prices(&self, prices: PriceList) -> Result<(), Refusal> {
        self.answered(|reply| Request::Prices(prices, reply)).await.map(drop)
    }

    /// When factories follow on those that end, from now on. Stored when it returns.
    pub async fn set_ladder(&self, ladder: Option<Ladder>) -> Result<(), Refusal> {
        self.answered(|reply| Request::Ladder(ladder, reply)).await.map(drop)
    }

    /// The records of one factory, as they are stored now.
    pub async fn records(&self, instance: InstanceId) -> Result<Vec<Vec<u8>>, Refusal> {
        self.answered(|reply| Request::Records(instance, reply)).await
    }

    /// Stores records of factories of which this node has none, all of them or nothing; the next start follows
    /// them, from where the chain has the first of them on. `Recovered` is for the caller to add.
    pub async fn recover(&self, histories: Vec<History>) -> Result<(), Refusal> {
        self.answered(|reply| Request::Recover(histories, reply)).await.map(drop)
    }

    /// A peer connected. Gives the connection's number, for [`Handle::features`].
    pub fn connected(&self, peer: NodeId) -> u64 {
        let number = self.next_connection();
        self.send(Request::Connected(peer, number));
        number
    }

    /// Like [`Handle::connected`], for a peer that was found connected at start-up: nothing changes
    /// if its connection is known already.
    pub fn listed(&self, peer: NodeId) -> u64 {
        let number = self.next_connection();
        self.send(Request::Listed(peer, number));
        number
    }

    /// Whether that connection's peer set feature bit 270 or 271, and whether this node has a channel with it.
    pub fn features(&self, peer: NodeId, connection: u64, supports: bool, channels: bool) {
        self.send(Request::Features(peer, connection, supports, channels));
    }

    /// A peer disconnected, as lightningd says.
    pub fn disconnected(&self, peer: NodeId) {
        self.send(Request::Disconnected(peer));
    }

    /// A lightning message of type 32800 arrived. Keeps the order of calls.
    pub fn raw(&self, peer: NodeId, bytes: Vec<u8>) {
        if self.waiting.add(peer, bytes.len()) {
            self.send(Request::Raw(peer, bytes));
        } else {
            self.send(Request::Flood(peer));
        }
    }

    /// Tells the runtime how high the chain is, before it has seen a block.
    pub fn height(&self, height: Height) {
        self.send(Request::Height(height));
    }

    /// Every block was handled: from the first time on peers are talked to.
    pub fn caught_up(&self) {
        self.send(Request::CaughtUp);
    }

    /// Returns once everything sent before is handled and stored.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        self.send(Request::Flush(done));
        // An error means that the runtime has ended: it has handled all that it ever will.
        let _ = flushed.await;
    }

    /// A receiver of every change of state from now on.
    pub fn transitions(&self) -> broadcast::Receiver<Transition> {
        self.transitions.subscribe()
    }

    /// What hooks answer from, without asking the engine.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Sends a request, and waits for its answer.
    async fn answered<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply));
        answer.await.unwrap_or_else(|_| Err(Gone.into()))
    }

    fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    fn send(&self, request: Request) {
        // Fails only when the runtime has ended, which happens when the process does.
        let _ = self.requests.send(request);
    }
}

/// Bytes that wait to be handled, by peer.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<HashMap<NodeId, usize>>);

impl Waiting {
    /// False if the peer has no room left.
    fn add(&self, peer: NodeId, bytes: usize) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = waiting.entry(peer).or_default();
        let after = held.saturating_add(bytes).saturating_add(MESSAGE_OVERHEAD);
        if after > PEER_INBOX_BYTES {
            return false;
        }
        *held = after;
        true
    }

    pub(super) fn taken(&self, peer: NodeId, bytes: usize) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = waiting.get_mut(&peer) {
            *held = held.saturating_sub(bytes.saturating_add(MESSAGE_OVERHEAD));
            if *held == 0 {
                waiting.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::AtomicBool;

    use factory_engine::Config;
    use factory_engine::tx::musig::MasterSecret;

    #[tokio::test]
    async fn nobody_looks_for_those_who_have_given_up() {
        let (handle, mut inbox) = channel();
        let engine = Engine::new(NodeId([2; 33]), MasterSecret::new([7; 32]), Config::default());
        let looked = Arc::new(AtomicBool::new(false));
        let look = || {
            let looked = Arc::clone(&looked);
            handle.read(move |_, _| looked.store(true, Ordering::Relaxed))
        };
        assert!(tokio::time::timeout(Duration::ZERO, look()).await.is_err());
        let Some(Request::Read(read)) = inbox.requests.recv().await else { panic!("nothing was asked") };
        read(Ok((&engine, 0)));
        assert!(!looked.load(Ordering::Relaxed));
        // One who waits has an answer.
        let serve = async {
            let Some(Request::Read(read)) = inbox.requests.recv().await else { panic!("nothing was asked") };
            read(Ok((&engine, 0)));
        };
        let (seen, ()) = tokio::join!(look(), serve);
        assert!(seen.is_ok() && looked.load(Ordering::Relaxed));
    }

    // S33
    #[tokio::test]
    async fn a_look_that_panics_ends_whoever_looks_and_nobody_else() {
        let (handle, mut inbox) = channel();
        let engine = Engine::new(NodeId([2; 33]), MasterSecret::new([7; 32]), Config::default());
        let asker = tokio::spawn({
            let handle = handle.clone();
            async move { handle.read(|_, _| -> Height { panic!("on purpose") }).await }
        });
        let Some(Request::Read(read)) = inbox.requests.recv().await else { panic!("nothing was asked") };
        // What owns the engine would end here.
        read(Ok((&engine, 0)));
        assert!(asker.await.unwrap_err().is_panic());
    }

    // S28
    #[test]
    fn a_peer_that_floods_takes_no_room_from_others() {
        let waiting = Waiting::default();
        let (noisy, quiet) = (NodeId([2; 33]), NodeId([3; 33]));
        let accepted = (0..10_000).filter(|_| waiting.add(noisy, 65_535)).count();
        assert!(accepted < 100, "{accepted}");
        assert!(waiting.add(quiet, 65_535));
        (0..accepted).for_each(|_| waiting.taken(noisy, 65_535));
        assert!(waiting.add(noisy, 65_535));
    }
}
