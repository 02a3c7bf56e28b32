//! Effects, carried out by lightningd. Each that has an outcome comes back as an input.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitcoin::hex::DisplayHex;
use bitcoin::psbt::Psbt;
use bitcoin::{ScriptBuf, Transaction, TxOut};
use factory_engine::io::fees::{Refused, Report, Trouble};
use factory_engine::tx::child::Coin;
use factory_engine::types::{Amount, ChannelId, InstanceId, NodeId, OutPoint};
use factory_engine::{CheckFailure, Effect, Input, Invoice, NodeError, OpenFailure};
use factory_runtime::store::shelf::Shelves;
use factory_runtime::{Handle, Node};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::backup::{Wanted, Wish};
use super::bump::Bumper;
use super::client::{Call, CallError, Rpc, field};
use super::datastore::{self, Datastore};
use super::failures::{CANNOT_AFFORD, fund_failure, open_failure};
use super::kept::Kept;
use super::lanes::Lanes;
use super::outbox::Outbox;
use super::raises::Raises;
use super::tower::Tower;
use super::waker::Waker;
use super::wallet_db::WalletDb;
use super::{
    balances, chain, funding, funding_script, moves, ordinary, payments, sent, spend, wallet, words,
};

/// How long a call may take that waits for a peer.
const PEER_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a backend that is away.
const BACKEND_PAUSE: Duration = Duration::from_secs(2);
/// Notification topic for changes of state.
pub const STATE_TOPIC: &str = "factory_state_changed";
/// Notification topic for factories that end before they are renewed.
pub const RENEWAL_TOPIC: &str = "factory_renewal";
/// static_remotekey, anchors, scid_alias and zeroconf.
const CHANNEL_TYPE: [u32; 4] = [12, 22, 46, 50];
/// Messages that lightningd gets at once, of all that wait: it has one thread, and takes what comes in on its
/// sockets in turns, HTLCs among it (S28). A busy lightningd answers later, and so gets fewer.
const MESSAGES_AT_ONCE: usize = 2;
/// lightningd commits a channel to its database a moment after the peer has heard of it.
const CHECK_PAUSES: [u64; 5] = [100, 200, 500, 1000, 2000];

/// lightningd, as the runtime sees it.
pub struct Executor {
    rpc: Rpc,
    runtime: Handle,
    database: WalletDb,
    outbox: Outbox,
    kept: Kept<Rpc>,
    raises: Raises,
    away: Away,
    messages: Lanes,
    turns: Arc<Semaphore>,
    channels: Lanes,
    fees: Lanes,
    waker: Waker,
    copies: Wanted,
    tower: Tower,
    shelves: Shelves<Datastore<Rpc>>,
    /// One request about a peer's shelf after the other.
    kept_for: Lanes,
}

impl Executor {
    /// An executor whose outcomes go to `runtime` as inputs.
    pub fn new(
        rpc: Rpc,
        runtime: Handle,
        database: WalletDb,
        outbox: Outbox,
        kept: Kept<Rpc>,
        bumper: Bumper<Rpc>,
        (waker, copies): (Waker, Wanted),
    ) -> Self {
        let away = Away { rpc: rpc.clone(), runtime: runtime.clone(), waits: Arc::default() };
        let raises = Raises::default();
        let tower = Tower::new(rpc.clone(), runtime.clone());
        tokio::spawn(raise_all(raises.clone(), bumper, runtime.clone(), away.clone()));
        Self {
            runtime,
            database,
            outbox,
            kept,
            raises,
            away,
            messages: Lanes::default(),
            turns: Arc::new(Semaphore::new(MESSAGES_AT_ONCE)),
            channels: Lanes::default(),
            fees: Lanes::default(),
            waker,
            copies,
            tower,
            shelves: Shelves::new(datastore::keys(rpc.clone())),
            kept_for: Lanes::default(),
            rpc,
        }
    }

    /// What it does for those whom this node watches for.
    pub fn tower(&self) -> &Tower {
        &self.tower
    }

    fn spawn(&self, outcome: impl Future<Output = Input> + Send + 'static) {
        let runtime = self.runtime.clone();
        tokio::spawn(async move { runtime.deliver_durably(outcome.await).await });
    }

    /// Spawns a task for an effect whose outcome nobody waits for; an error goes to the log.
    fn spawn_logged(
        &self,
        what: String,
        call: impl Future<Output = Result<String, CallError>> + Send + 'static,
    ) {
        tokio::spawn(async move {
            match call.await {
                Ok(result) => log::debug!("{what}: {result}"),
                Err(error) => log::warn!("{what}: {error}"),
            }
        });
    }

    fn new_payout(&self, instance: InstanceId, attempt: u32) {
        let rpc = self.rpc.clone();
        self.spawn(async move {
            let result = wallet::payout(&rpc).await.map_err(NodeError::from);
            Input::PayoutReady { instance, attempt, result }
        });
    }

    fn prepare_funding(
        &self,
        instance: InstanceId,
        attempt: u32,
        (script, amount): (ScriptBuf, Amount),
        reclaims: Vec<Coin>,
    ) {
        let (rpc, kept) = (self.rpc.clone(), self.kept.clone());
        self.spawn(async move {
            let result = funding::prepare(&rpc, &kept, script, amount, &reclaims).await;
            Input::FundingPrepared {
                instance,
                attempt,
                result: result.map_err(|error| error.to_string().into()),
            }
        });
    }

    /// A step of opening a channel; after one another with each peer. `answer` makes an input of what comes of
    /// it.
    fn open<T: Send + 'static>(
        &self,
        peer: NodeId,
        call: impl Future<Output = Result<T, CallError>> + Send + 'static,
        answer: impl FnOnce(Result<T, OpenFailure>) -> Input + Send + 'static,
    ) {
        let runtime = self.runtime.clone();
        self.channels.push(peer, async move { runtime.input(answer(call.await.map_err(open_failure))) });
    }

    fn cancel_channel(&self, peer: NodeId) {
        let rpc = self.rpc.clone();
        self.channels.push(peer, async move {
            let params = json!({"id": peer.to_string()});
            if let Err(error) = rpc.call_within(PEER_PATIENCE, "fundchannel_cancel", params).await {
                // Most often there is nothing to cancel: the open failed, or the peer went away.
                log::debug!("{peer}: {error}");
            }
        });
    }

    fn check_channel(
        &self,
        channel: ChannelId,
        outpoint: OutPoint,
        output: TxOut,
        answer: impl FnOnce(Result<(), CheckFailure>) -> Input + Send + 'static,
    ) {
        let database = self.database.clone();
        self.spawn(async move { answer(check(&database, channel, outpoint, &output).await) });
    }

    fn wait_invoice(&self, instance: InstanceId, label: String) {
        let (rpc, runtime) = (self.rpc.clone(), self.runtime.clone());
        tokio::spawn(async move {
            match payments::wait_invoice(&rpc, &label).await {
                Ok(paid) => {
                    runtime.deliver_durably(Input::InvoiceEnded { instance, label, result: Ok(paid) }).await
                }
                // It was taken back, which has an answer of its own; or lightningd stops.
                Err(error) => log::debug!("invoice {label}: {error}"),
            }
        });
    }

    fn pay(&self, instance: InstanceId, peer: NodeId, invoice: Invoice) {
        let (rpc, view) = (self.rpc.clone(), self.runtime.clone());
        self.spawn(async move {
            // Not over a channel that isn't to be relied on (S18), such as the one that is being bought.
            let usable = |channel: ChannelId| {
                view.view()
                    .htlc(|htlc| htlc.policies.get(&channel).is_none_or(|policy| policy.usable.is_ok()))
            };
            let paid = payments::pay(&rpc, peer, &invoice, usable).await;
            let result = paid.map_err(NodeError::from);
            Input::PaymentEnded { instance, payment_hash: invoice.payment_hash, result }
        });
    }

    fn state_changed(&self, instance: InstanceId, old: Option<&str>, new: &str) {
        let mut body = json!({"factory_instance": instance.to_string(), "new_state": new});
        if let Some(old) = old {
            body["old_state"] = old.into();
        }
        self.outbox.publish(STATE_TOPIC, body);
    }
}

impl Node for Executor {
    fn execute(&self, effect: Effect) {
        let rpc = self.rpc.clone();
        match effect {
            Effect::NewPayout { instance, attempt } => self.new_payout(instance, attempt),
            Effect::PrepareFunding { instance, attempt, script, amount, reclaims } => {
                self.prepare_funding(instance, attempt, (script, amount), reclaims);
            }
            Effect::ReleaseFunding { inputs } => {
                self.spawn_logged("releasing reserved inputs".to_owned(), async move {
                    wallet::release(&rpc, &inputs).await.map(|()| "done".to_owned())
                });
            }
            Effect::StartChannel { instance, attempt, client, sale, peer, capacity, push_msat } => {
                let params = json!({
                    "id": peer.to_string(),
                    "amount": capacity.to_sat(),
                    "announce": false,
                    "mindepth": 0,
                    "push_msat": push_msat,
                    // What the client keeps at least: nothing, it never held more than it was pushed.
                    "reserve": 0,
                    "channel_type": CHANNEL_TYPE,
                });
                let call = async move { start(&rpc, params).await };
                self.open(peer, call, move |result| Input::ChannelStarted {
                    instance,
                    attempt,
                    client,
                    sale,
                    result,
                });
            }
            Effect::CancelChannel { peer } => self.cancel_channel(peer),
            Effect::CompleteChannel { instance, attempt, client, sale, peer, leaf, prevout } => {
                let call = async move { complete(&rpc, peer, leaf, prevout).await };
                self.open(peer, call, move |result| Input::ChannelCompleted {
                    instance,
                    attempt,
                    client,
                    sale,
                    result,
                });
            }
            Effect::CheckChannel { instance, attempt, sale, channel_id, outpoint, output } => {
                self.check_channel(channel_id, outpoint, output, move |result| Input::ChannelChecked {
                    instance,
                    attempt,
                    sale,
                    result,
                });
            }
            Effect::CheckUnspent { instance, attempt, height, outpoint } => self.spawn(async move {
                let spent = sent::is_spent(&rpc, outpoint).await;
                let result = spent.map(|spent| !spent).map_err(|error| error.to_string().into());
                Input::Unspent { instance, attempt, height, result }
            }),
            Effect::SendFunding { instance, tx, prevouts, witnesses } => {
                let away = self.away.clone();
                self.spawn_logged(format!("{instance}: sending the funding"), async move {
                    let sent = wallet::send(&rpc, tx, prevouts, &witnesses).await;
                    if let Err(error) = &sent {
                        away.note(sent::refused(&error.message).as_ref());
                    }
                    sent.map(|txid| txid.to_string())
                });
            }
            Effect::Broadcast { instance, what, tx } => {
                let away = self.away.clone();
                self.spawn(async move {
                    let txid = tx.compute_txid();
                    let refused = sent::send(&rpc, &tx).await.err();
                    away.note(refused.as_ref());
                    let trouble = refused.map(Trouble::Parent);
                    let report = Report { instance, what, target: None, child: None, trouble };
                    Input::Published { txid, report: Box::new(report) }
                });
            }
            Effect::Bump(raise) => self.raises.push(*raise),
            Effect::Copy { instance, urgent, peers } => self.copies.push(Wish { instance, urgent, peers }),
            Effect::Shelf { peer, request } => {
                let (shelves, runtime) = (self.shelves.clone(), self.runtime.clone());
                self.kept_for.push(peer, async move {
                    if let Some(answer) = shelves.serve(peer, request).await {
                        runtime.input(Input::Shelf { peer, answer });
                    }
                });
            }
            Effect::Tower { peer, request } => self.tower.serve(peer, request),
            Effect::KeepReceipt(signed) => self.tower.keep_receipt(*signed),
            Effect::MakeInvoice { instance, label, amount_msat, description, expiry } => {
                self.spawn(async move {
                    let expiry = Duration::from_millis(expiry);
                    let made = payments::make_invoice(&rpc, &label, amount_msat, &description, expiry).await;
                    Input::InvoiceMade { instance, label, result: made.map_err(NodeError::from) }
                });
            }
            Effect::WaitInvoice { instance, label } => self.wait_invoice(instance, label),
            Effect::EndInvoice { instance, label } => self.spawn(async move {
                let ended = payments::end_invoice(&rpc, &label).await;
                Input::InvoiceEnded { instance, label, result: ended.map_err(NodeError::from) }
            }),
            Effect::PayInvoice { instance, peer, invoice } => self.pay(instance, peer, invoice),
            Effect::LookPayment { instance, payment_hash } => self.spawn(async move {
                let result = payments::look(&rpc, payment_hash).await.map_err(NodeError::from);
                Input::PaymentEnded { instance, payment_hash, result }
            }),
            Effect::FundChannel { instance, buyer, peer, amount } => {
                let kept = self.kept.clone();
                self.spawn(async move {
                    let result = fund(&rpc, &kept, peer, amount).await.map_err(fund_failure);
                    Input::ChannelFunded { instance, buyer, result }
                });
            }
            Effect::SendMove(send) => self.spawn(async move {
                let result = moves::send(&rpc, &send).await.map_err(NodeError::from);
                Input::MoveEnded { instance: send.instance, payment_hash: send.payment_hash, result }
            }),
            Effect::LookMove { instance, payment_hash, label } => self.spawn(async move {
                let result = moves::look(&rpc, payment_hash, &label).await.map_err(NodeError::from);
                Input::MoveEnded { instance, payment_hash, result }
            }),
            Effect::SetFees { peer, channel_id, free } => {
                let runtime = self.runtime.clone();
                self.fees.push(peer, async move {
                    let result = moves::set_fees(&rpc, peer, channel_id, free).await.map_err(NodeError::from);
                    runtime.input(Input::FeesSet { peer, channel_id, free, result });
                });
            }
            Effect::FindOrdinary { instance, peer, opened } => self.spawn(async move {
                let found = find_ordinary(&rpc, peer, opened.channel_id, opened.amount).await;
                Input::OrdinaryFound { instance, opened, result: found.map_err(NodeError::from) }
            }),
            Effect::ReadBalances { peer } => {
                let (rpc, runtime) = (self.rpc.clone(), self.runtime.clone());
                tokio::spawn(async move {
                    match balances::read(&rpc, peer).await {
                        Ok(list) => runtime.input(Input::Balances(list)),
                        Err(error) => log::debug!("{peer}: looking what its channels hold: {error}"),
                    }
                });
            }
            Effect::CheckEmpty { instance, peer, freeze } => self.spawn(async move {
                let result = balances::read(&rpc, peer).await.map_err(NodeError::from);
                Input::Emptied { instance, freeze, result }
            }),
            Effect::CheckOrdinary { instance, peer, channel_id } => {
                let database = self.database.clone();
                self.spawn(async move {
                    let result = ordinary::check(&rpc, &database, peer, channel_id).await;
                    Input::OrdinaryChecked { instance, channel_id, result }
                });
            }
            Effect::Disconnect { peer } => self.disconnect(peer),
            Effect::Connect { peer } => {
                self.spawn_logged(format!("{peer}: connecting"), async move {
                    let params = json!({"id": peer.to_string()});
                    rpc.call_within(PEER_PATIENCE, "connect", params).await.map(|_| "done".to_owned())
                });
            }
            Effect::MutualClose { channel_id } => {
                self.spawn_logged(format!("closing channel {channel_id} with its peer"), async move {
                    // 0 is for ever: never by one side alone. Once it has begun lightningd goes on by itself.
                    let params = json!({"id": channel_id.to_string(), "unilateraltimeout": 0});
                    let closed = rpc.call_within(PEER_PATIENCE, "close", params).await;
                    closed.map(|closed| closed["type"].to_string())
                });
            }
            Effect::RenewalDue { instance, by, blocks_left, level, waits_for, failed } => {
                let mut body = json!({
                    "factory_instance": instance.to_string(),
                    "by_block": by,
                    "blocks_left": blocks_left,
                    "level": words::level(level),
                    "waits_for": waits_for,
                });
                if let Some(failed) = failed {
                    body["failed"] = failed.into();
                }
                self.outbox.publish(RENEWAL_TOPIC, body);
            }
            Effect::Wake { instance, peer, by, reason } => self.waker.wake(instance, peer, by, reason),
            Effect::CloseChannel { channel_id, on_chain } => {
                self.spawn_logged(format!("closing channel {channel_id}"), async move {
                    let seconds = if on_chain { 1 } else { 10 };
                    let params = json!({"id": channel_id.to_string(), "unilateraltimeout": seconds});
                    rpc.call("close", params).await.map(|closed| closed["type"].to_string())
                });
            }
            Effect::StateChanged { instance, old, new } => {
                self.state_changed(instance, old.map(|state| state.name()), new.name());
            }
            // The runtime keeps these to itself.
            Effect::Send { .. }
            | Effect::Log { .. }
            | Effect::BringBack { .. }
            | Effect::Appoint { .. }
            | Effect::ReadAgain { .. } => {}
        }
    }

    fn transmit(&self, peer: NodeId, raw: Vec<u8>) {
        let (rpc, turns) = (self.rpc.clone(), Arc::clone(&self.turns));
        self.messages.push(peer, async move {
            // lightningd answers before the message is delivered: no peer can keep another's turn.
            // Nobody closes the semaphore, so there is always one.
            let _turn = turns.acquire().await;
            let params = json!({"node_id": peer.to_string(), "msg": raw.to_lower_hex_string()});
            if let Err(error) = rpc.call_within(PEER_PATIENCE, "sendcustommsg", params).await {
                // The peer has gone; its disconnect says so to the engine.
                log::debug!("{peer}: {error}");
            }
        });
    }

    fn disconnect(&self, peer: NodeId) {
        let rpc = self.rpc.clone();
        self.spawn_logged(format!("{peer}: disconnecting"), async move {
            let params = json!({"id": peer.to_string(), "force": true});
            rpc.call("disconnect", params).await.map(|_| "done".to_owned())
        });
    }
}

/// One after the other, for as long as the plugin runs.
async fn raise_all(raises: Raises, bumper: Bumper<Rpc>, runtime: Handle, away: Away) {
    loop {
        let raise = raises.next().await;
        let report = bumper.raise_of_round(&raise, raises.is_empty()).await;
        if let Some(Trouble::Parent(refused) | Trouble::Child(refused)) = &report.trouble {
            away.note(Some(refused));
        }
        let txid = raise.parent.compute_txid();
        runtime.deliver_durably(Input::Published { txid, report: Box::new(report) }).await;
    }
}

/// S26: what could not be sent because the backend was away goes out when it is back, and not only at the
/// next block.
#[derive(Clone)]
struct Away {
    rpc: Rpc,
    runtime: Handle,
    /// Whether somebody waits for it already.
    waits: Arc<AtomicBool>,
}

impl Away {
    fn note(&self, refused: Option<&Refused>) {
        // What isn't understood may be one more way to say that it is away: it is asked.
        let unclear = matches!(refused, Some(Refused::Other(_)));
        let suspect = unclear || matches!(refused, Some(Refused::Backend(_)));
        if !suspect || self.waits.swap(true, Ordering::Relaxed) {
            return;
        }
        let away = self.clone();
        tokio::spawn(async move {
            if unclear && chain::tip_height(&away.rpc).await.is_ok() {
                away.waits.store(false, Ordering::Relaxed);
                return;
            }
            loop {
                tokio::time::sleep(BACKEND_PAUSE).await;
                if chain::tip_height(&away.rpc).await.is_ok() {
                    break;
                }
            }
            log::info!("the bitcoin backend is back: sending what could not be sent");
            // Whatever fails from now on is another outage.
            away.waits.store(false, Ordering::Relaxed);
            away.runtime.input(Input::BackendBack);
        });
    }
}

async fn start(rpc: &Rpc, params: Value) -> Result<ScriptBuf, CallError> {
    let started = rpc.call_within(PEER_PATIENCE, "fundchannel_start", params).await?;
    field("fundchannel_start", &started, "scriptpubkey")
}

/// An ordinary channel. Waits as long as lightningd does: else nobody would know what became of it.
async fn fund<C: Call>(
    rpc: &C,
    kept: &Kept<C>,
    peer: NodeId,
    amount: Amount,
) -> Result<(ChannelId, OutPoint), CallError> {
    let method = "fundchannel";
    let params = json!({"id": peer.to_string(), "amount": amount.to_sat(), "announce": false});
    let apart = kept.script().await?;
    let funded = match spend::for_channel(rpc, apart.as_ref(), amount).await {
        None => rpc.call(method, params).await?,
        Some(utxos) => {
            let mut with = params.clone();
            with["utxos"] = utxos.into();
            match rpc.call(method, with).await {
                // lightningd has taken one of them meanwhile, or reckons otherwise: it chooses, and nothing has
                // been said to the peer yet.
                Err(error)
                    if error.code == Some(CANNOT_AFFORD) || error.message.contains("already reserved") =>
                {
                    rpc.call(method, params).await?
                }
                funded => funded?,
            }
        }
    };
    let channel_id = channel_id(method, &funded)?;
    let outpoint =
        OutPoint { txid: field(method, &funded, "txid")?, vout: field(method, &funded, "outnum")? };
    Ok((channel_id, outpoint))
}

/// Whether there is such a channel with a peer.
async fn find_ordinary<C: Call>(
    rpc: &C,
    peer: NodeId,
    channel_id: ChannelId,
    amount: Amount,
) -> Result<bool, CallError> {
    let method = "listpeerchannels";
    let answer = rpc.call(method, json!({"id": peer.to_string()})).await?;
    let list: Vec<Value> = field(method, &answer, "channels")?;
    let msat = amount.to_sat().saturating_mul(1000);
    Ok(list.iter().any(|channel| {
        channel["channel_id"] == channel_id.to_string().as_str() && channel["total_msat"] == msat
    }))
}

async fn complete(
    rpc: &Rpc,
    peer: NodeId,
    leaf: Transaction,
    prevout: TxOut,
) -> Result<ChannelId, CallError> {
    let method = "fundchannel_complete";
    let failed = |message: String| CallError::new(method, message);
    let mut psbt = Psbt::from_unsigned_tx(leaf).map_err(|error| failed(error.to_string()))?;
    // Without it lightningd can't know that the txid is final.
    match psbt.inputs.as_mut_slice() {
        [input] => input.witness_utxo = Some(prevout),
        inputs => return Err(failed(format!("a leaf with {} inputs", inputs.len()))),
    }
    let params = json!({"id": peer.to_string(), "psbt": psbt.to_string()});
    let completed = rpc.call_within(PEER_PATIENCE, method, params).await?;
    channel_id(method, &completed)
}

/// The channel that lightningd has made.
fn channel_id(method: &str, answer: &Value) -> Result<ChannelId, CallError> {
    let text: String = field(method, answer, "channel_id")?;
    let unexpected = |error| CallError::new(method, format!("unexpected channel_id '{text}': {error}"));
    text.parse().map_err(unexpected)
}

async fn check(
    database: &WalletDb,
    channel: ChannelId,
    outpoint: OutPoint,
    output: &TxOut,
) -> Result<(), CheckFailure> {
    for pause in CHECK_PAUSES {
        let result = funding_script::check(database, channel, outpoint, output).await;
        if result != Err(CheckFailure::NotYet) {
            return result;
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    Err(CheckFailure::NotYet)
}
