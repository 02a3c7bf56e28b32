//! Where inputs go: each to the handlers of the capabilities that it concerns.

use crate::chain::channels::close_again;
use crate::engine::Engine;
use crate::memory::Volatile;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::step::Step;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::types::{Height, Millis, NodeId};
use crate::wire::message::Message;
use crate::{Answer, Command, Entropy, Input, KnownChannel, Level, Refusal, sale};

impl Engine {
    /// What `input` leads to. Changes nothing.
    ///
    /// `now` is the time, `height` the last block that was handled, `rng` where fresh nonces and
    /// instance ids come from.
    pub fn handle(&self, input: Input, now: Millis, height: Height, rng: &mut dyn Entropy) -> Step {
        let mut d = StepBuilder::new(self.generation, now, height, rng);
        let answer = match input {
            Input::Command(command) => self.on_command(&mut d, command),
            Input::OpenChannel(open) => Ok(self.on_open_channel(&mut d, &open)),
            other => {
                self.on_happening(&mut d, other);
                Ok(Answer::Done)
            }
        };
        d.finish(answer)
    }

    fn on_command(&self, d: &mut StepBuilder<'_>, command: Command) -> Result<Answer, Refusal> {
        match command {
            Command::Create(create) => self.create(d, &create),
            Command::Accept { instance } => self.accept(d, instance),
            Command::Decline { instance, reason } => self.decline(d, instance, &reason),
            Command::Exit { instance } => self.exit(d, instance),
            Command::Evict { instance, clients } => self.evict(d, instance, &clients),
            Command::Buy { instance, amount, max_price_msat } => {
                self.buy(d, instance, amount, max_price_msat)
            }
            Command::AskPrice { instance, amount } => self.ask_price(d, instance, amount),
        }
    }

    fn on_happening(&self, d: &mut StepBuilder<'_>, input: Input) {
        match input {
            Input::Started { channels } => self.on_started(d, &channels),
            Input::PeerUp { peer } => {
                d.volatile(Volatile::PeerUp(peer));
                self.lsp_peer_up(d, peer);
                self.client_peer_up(d, peer);
                for factory in self.factories.values() {
                    if factory.client_of(peer).is_some() {
                        self.resume_sales(d, factory, Some(peer));
                        self.resume_waiting(d, factory, peer);
                        self.repeat_jit(d, factory, peer);
                    }
                }
            }
            Input::PeerDown { peer } => {
                d.volatile(Volatile::PeerDown(peer));
                self.lsp_peer_down(d, peer);
                self.client_peer_down(d, peer);
                self.lsp_sales_peer_down(d, peer);
                self.client_sales_peer_down(d, peer);
            }
            Input::Message { peer, payload } => self.on_message(d, peer, &payload),
            Input::FundingPrepared { instance, attempt, result } => {
                self.on_funding_prepared(d, instance, attempt, result);
            }
            Input::PayoutReady { instance, attempt, result } => {
                match self.factories.get(&instance).map(|factory| factory.current.role) {
                    Some(Role::Lsp) => self.on_stock_payout(d, instance, result),
                    _ => self.on_payout_ready(d, instance, attempt, result),
                }
            }
            Input::ChannelStarted { instance, attempt, client, sale, result } => match sale {
                None => self.on_channel_started(d, instance, attempt, client, result),
                Some(number) => self.on_sale_channel_started(d, instance, client, number, result),
            },
            Input::ChannelCompleted { instance, attempt, client, sale, result } => match sale {
                None => self.on_channel_completed(d, instance, attempt, client, result),
                Some(number) => self.on_sale_channel_completed(d, instance, client, number, result),
            },
            Input::ChannelChecked { instance, attempt, sale, result } => match sale {
                None => self.on_channel_check(d, instance, attempt, result),
                Some(number) => self.on_sale_channel_check(d, instance, number, result),
            },
            Input::InvoiceMade { instance, label, result } => {
                self.on_invoice_made(d, instance, label, result);
            }
            Input::InvoiceEnded { instance, label, result } => {
                self.on_invoice_ended(d, instance, &label, result);
            }
            Input::PaymentEnded { instance, payment_hash, result } => {
                self.on_payment_ended(d, instance, payment_hash, result);
            }
            Input::ChannelFunded { instance, buyer, result } => {
                self.on_channel_funded(d, instance, buyer, result);
            }
            Input::Unspent { instance, attempt, height, result } => {
                self.on_unspent(d, instance, attempt, height, result);
            }
            Input::Block(block) => self.on_block(d, &block),
            Input::Htlcs(htlcs) => self.on_htlcs(d, &htlcs),
            Input::Channels(open) => self.on_channels(d, &open),
            Input::Reorg { height } => self.on_reorg(d, height),
            Input::Fees(news) => self.on_fees(d, news),
            Input::Published { txid, report } => self.on_published(d, txid, *report),
            Input::Tick => {
                self.lsp_tick(d);
                self.client_tick(d);
                self.lsp_sales_tick(d);
                self.client_sales_tick(d);
            }
            Input::Command(_) | Input::OpenChannel(_) => {}
        }
    }

    fn on_message(&self, d: &mut StepBuilder<'_>, peer: NodeId, payload: &[u8]) {
        let message = match Message::decode(payload) {
            Ok(message) => message,
            Err(error) => {
                d.log(Level::Unusual, format!("{peer}: ignored a message that doesn't decode: {error}"));
                return;
            }
        };
        let name = message.name();
        let instance = message.instance();
        let of_sale = sale::ends_sale(&message);
        let result = match message {
            Message::Invite(m) => self.on_invite(d, peer, m),
            Message::Join(m) => self.on_join(d, peer, m),
            Message::ExpectChannel(m) => self.on_expect_channel(d, peer, &m),
            Message::Expecting(m) => self.on_expecting(d, peer, m.instance, m.attempt),
            Message::Propose(m) => self.on_propose(d, peer, m),
            Message::PartialSignatures(m) => self.on_partial_signatures(d, peer, m),
            Message::Ready(m) => self.on_ready(d, peer, m),
            Message::Stored(m) => self.on_stored(d, peer, m.instance, m.attempt),
            Message::ChannelCommitted(m) => self.on_channel_committed(d, peer, &m),
            Message::ChannelChecked(m) => self.on_client_checked(d, peer, &m),
            Message::FundingBroadcast(m) => self.on_funding_broadcast(d, peer, &m),
            Message::Resume(m) => self.on_resume(d, peer, &m),
            Message::Abort(m) => self.on_abort(d, peer, &m),
            Message::Buy(m) => self.on_buy(d, peer, &m),
            Message::SaleOffer(m) => self.on_sale_offer(d, peer, &m),
            Message::SaleJoin(m) => self.on_sale_join(d, peer, &m),
            Message::SaleCommitted(m) => self.on_sale_committed(d, peer, &m),
            Message::SaleChecked(m) => self.on_sale_checked(d, peer, &m),
            Message::SalePropose(m) => self.on_sale_propose(d, peer, &m),
            Message::SalePartialSignatures(m) => self.on_sale_partials(d, peer, &m),
            Message::SaleReady(m) => self.on_sale_ready(d, peer, &m),
            Message::SaleStored(m) => self.on_sale_stored(d, peer, &m),
            Message::SaleAbort(m) => self.on_sale_abort(d, peer, &m),
            Message::AskPrice(m) => self.on_ask_price(d, peer, &m),
            Message::Price(m) => self.on_price(d, peer, &m),
            Message::SaleInvoice(m) => self.on_sale_invoice(d, peer, &m),
            Message::SaleWait(m) => self.on_sale_wait(d, peer, &m),
            Message::JitOffer(m) => self.on_jit_offer(d, peer, &m),
            Message::JitAccept(m) => self.on_jit_accept(d, peer, &m),
            Message::JitOpened(m) => self.on_jit_opened(d, peer, &m),
        };
        match result {
            Ok(()) => {}
            Err(Fault::Stale(reason)) => {
                d.log(Level::Debug, format!("{instance}: ignored {name} from {peer}: {reason}"));
            }
            Err(Fault::Peer(reason)) => {
                d.log(Level::Unusual, format!("{instance}: fault of {peer} in {name}: {reason}"));
                match self.factories.get(&instance) {
                    Some(factory) if of_sale => self.on_sale_fault(d, factory, peer, &reason),
                    Some(factory) => self.on_fault(d, factory, peer, &reason),
                    None => {}
                }
            }
        }
    }

    /// A peer broke the protocol: L goes on without it, a client gives the attempt up.
    fn on_fault(&self, d: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId, reason: &str) {
        match factory.current.role {
            Role::Lsp => self.lsp_fault(d, factory, peer, reason),
            Role::Client { lsp, .. } if lsp == peer => self.client_gives_up(d, factory, reason),
            Role::Client { .. } => {}
        }
    }

    fn on_started(&self, d: &mut StepBuilder<'_>, channels: &[KnownChannel]) {
        for factory in self.factories.values() {
            close_again(d, factory, channels);
            match factory.current.role {
                Role::Lsp => {
                    self.lsp_started(d, factory, channels);
                    self.lsp_sales_started(d, factory, channels);
                    self.jits_started(d, factory, channels);
                }
                Role::Client { .. } => self.client_started(d, factory, channels),
            }
            self.sale_payments_started(d, factory);
        }
    }

    fn on_abort(
        &self,
        d: &mut StepBuilder<'_>,
        peer: NodeId,
        abort: &crate::wire::message::Abort,
    ) -> Result<(), Fault> {
        let factory = self.known(abort.instance)?;
        if abort.attempt != factory.current.number {
            return Err(Fault::stale("it is of another attempt"));
        }
        match factory.current.role {
            Role::Lsp => self.on_client_abort(d, factory, peer, abort),
            Role::Client { lsp, .. } if lsp == peer => self.on_lsp_abort(d, factory, abort),
            Role::Client { .. } => Err(Fault::stale("it is not from the operator")),
        }
    }
}
