//! Where inputs go: each to the handlers of the capabilities that it concerns.

use crate::chain::channels::close_again;
use crate::close;
use crate::engine::Engine;
use crate::io::{Answer, Command, Entropy, Input, KnownChannel, Level, Refusal};
use crate::memory::keepers::VolatileKeepers;
use crate::memory::{Volatile, keepers};
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::sale;
use crate::step::Step;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::types::{Height, Millis, NodeId};
use crate::wire::message::Message;

impl Engine {
    /// What `input` leads to. Changes nothing.
    ///
    /// `now` is the time, `height` the last block that was handled, `rng` where fresh nonces and
    /// instance ids come from.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "those that nobody waits for: on_happening lists them"
    )]
    pub fn handle(&self, input: Input, now: Millis, height: Height, rng: &mut dyn Entropy) -> Step {
        let mut step = StepBuilder::new(self.generation, now, height, rng);
        let answer = match input {
            Input::Command(command) => self.on_command(&mut step, command),
            Input::OpenChannel(open) => Ok(self.on_open_channel(&mut step, &open)),
            other => {
                self.on_happening(&mut step, other);
                Ok(Answer::Done)
            }
        };
        step.finish(answer)
    }

    fn on_command(&self, step: &mut StepBuilder<'_>, command: Command) -> Result<Answer, Refusal> {
        self.refuse_damaged(&command)?;
        match command {
            Command::Create(create) => self.create(step, &create),
            Command::Accept { instance, terms, from } => self.accept(step, instance, terms, from),
            Command::Decline { instance, reason } => self.decline(step, instance, &reason),
            Command::Exit { instance } => self.exit(step, instance),
            Command::Evict { instance, clients } => self.evict(step, instance, &clients),
            Command::Buy { instance, amount, max_price_msat } => {
                self.buy(step, instance, amount, max_price_msat)
            }
            Command::AskPrice { instance, amount } => self.ask_price(step, instance, amount),
            Command::Close { instance } => self.close(step, instance),
            Command::Move { from, to, amount_msat } => self.begin_move(step, from, to, amount_msat),
            Command::AskLeave { instance } => self.ask_leave_price(step, instance),
            Command::Leave { instance, max_price_msat } => self.begin_leave(step, instance, max_price_msat),
        }
    }

    /// S33: where records are damaged nothing is agreed any more. What can be read of them is enough for an
    /// exit, or it isn't.
    fn refuse_damaged(&self, command: &Command) -> Result<(), Refusal> {
        let (instance, leaves) = match command {
            // A move chooses the factory that it is kept in.
            Command::Create(_) | Command::Move { .. } => return Ok(()),
            Command::Exit { instance } | Command::Evict { instance, .. } => (*instance, true),
            Command::Accept { instance, .. }
            | Command::AskLeave { instance }
            | Command::Leave { instance, .. }
            | Command::Decline { instance, .. }
            | Command::Buy { instance, .. }
            | Command::Close { instance }
            | Command::AskPrice { instance, .. } => (*instance, false),
        };
        match self.damage(instance) {
            Some(why) if !leaves || !self.factories.contains_key(&instance) => {
                Err(Refusal::Damaged { instance, why: why.to_owned() })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn on_happening(&self, step: &mut StepBuilder<'_>, input: Input) {
        match input {
            Input::Started { channels } => self.on_started(step, &channels),
            Input::PeerUp { peer, channels } => {
                step.volatile(Volatile::PeerUp(peer, channels));
                self.keepers_peer_up(step, peer);
                self.towers_peer_up(step, peer);
                self.lsp_peer_up(step, peer);
                self.client_peer_up(step, peer);
                self.handover_peer_up(step, peer);
                self.closes_peer_up(step, peer);
                for factory in self.whole() {
                    if factory.client_of(peer).is_some() {
                        self.ask_for_unfinished(step, factory, peer);
                        self.resume_sales(step, factory, Some(peer));
                        self.resume_waiting(step, factory, peer);
                        self.repeat_jit(step, factory, peer);
                        self.repeat_void(step, factory, peer);
                        self.repeat_leave(step, factory, peer);
                    }
                }
                self.resume_moves(step, Some(peer));
                self.climb_soon(step);
            }
            Input::PeerDown { peer } => {
                step.volatile(Volatile::PeerDown(peer));
                self.lsp_peer_down(step, peer);
                self.client_peer_down(step, peer);
                self.lsp_sales_peer_down(step, peer);
                self.client_sales_peer_down(step, peer);
                self.moves_peer_down(step, peer);
                self.closes_peer_down(step, peer);
            }
            Input::Message { peer, payload } => self.on_message(step, peer, &payload),
            Input::FundingPrepared { instance, attempt, result } => {
                self.on_funding_prepared(step, instance, attempt, result);
            }
            Input::PayoutReady { instance, attempt, result } => {
                match self.factories.get(&instance).map(|factory| factory.current.role) {
                    Some(Role::Lsp) => self.on_stock_payout(step, instance, result),
                    _ => self.on_payout_ready(step, instance, attempt, result),
                }
            }
            Input::ChannelStarted { instance, attempt, client, sale, result } => match sale {
                None => self.on_channel_started(step, instance, attempt, client, result),
                Some(number) => self.on_sale_channel_started(step, instance, client, number, result),
            },
            Input::ChannelCompleted { instance, attempt, client, sale, result } => match sale {
                None => self.on_channel_completed(step, instance, attempt, client, result),
                Some(number) => self.on_sale_channel_completed(step, instance, client, number, result),
            },
            Input::ChannelChecked { instance, attempt, sale, result } => match sale {
                None => self.on_channel_check(step, instance, attempt, result),
                Some(number) => self.on_sale_channel_check(step, instance, number, result),
            },
            Input::InvoiceMade { instance, label, result } => {
                self.on_invoice_made(step, instance, label, result);
            }
            Input::InvoiceEnded { instance, label, result } => {
                self.on_invoice_ended(step, instance, &label, result);
            }
            Input::PaymentEnded { instance, payment_hash, result } => {
                self.on_payment_ended(step, instance, payment_hash, result);
            }
            Input::MoveEnded { instance, payment_hash, result } => {
                self.on_move_ended(step, instance, payment_hash, result);
            }
            Input::FeesSet { channel_id, free, result, .. } => {
                self.on_fees_set(step, channel_id, free, result)
            }
            Input::ChannelFunded { instance, buyer, result } if self.is_leaving_channel(instance, buyer) => {
                self.on_leave_funded(step, instance, buyer, result.map(|(channel_id, _)| channel_id));
            }
            Input::ChannelFunded { instance, buyer, result } => {
                self.on_channel_funded(step, instance, buyer, result);
            }
            Input::OrdinaryFound { instance, opened, result } => {
                self.on_ordinary_found(step, instance, opened, result);
            }
            Input::Unspent { instance, attempt, height, result } => {
                self.on_unspent(step, instance, attempt, height, result);
            }
            Input::Block(block) => {
                self.on_block(step, &block);
                self.appoint_all(step);
                self.resume_moves(step, None);
                self.end_free_moves(step);
                self.climb(step);
                self.wake(step);
            }
            Input::Htlcs(htlcs) => self.on_htlcs(step, &htlcs),
            Input::Channels { list, whole } => self.on_channels(step, &list, whole),
            Input::Balances(list) => {
                self.moves_on_balances(step, &list);
                self.find_free_moves(step, &list);
                self.note_what_was_paid(step, &list);
                self.on_balances(step, list);
            }
            Input::OrdinaryChecked { instance, channel_id, result } => {
                self.on_ordinary_checked(step, instance, channel_id, result);
            }
            Input::Emptied { instance, freeze, result } => {
                if !self.on_close_looked(step, instance, freeze, &result) {
                    self.on_emptied(step, instance, freeze, result);
                }
            }
            Input::Reorg { height } => self.on_reorg(step, height),
            Input::Fees(news) => self.on_fees(step, news),
            Input::BackendBack => self.on_backend_back(step),
            Input::Published { txid, report } => {
                self.on_reclaim_published(step, txid, &report);
                self.on_published(step, txid, *report);
            }
            Input::Kept { keeper, list } => self.on_kept(step, keeper, list),
            Input::NotKept { keeper, reason, lost } => self.on_no_keeper(step, keeper, reason, lost),
            Input::KeeperHas { keeper, copy } => self.on_keeper_has(step, keeper, copy),
            Input::Copied { instance, copies } => self.on_copied(step, instance, &copies),
            Input::Shelf { peer, answer } => self.on_shelf_answer(step, peer, answer),
            Input::BroughtBack { keeper, instance, had, copied, compared } => {
                self.on_brought_back(step, (keeper, instance), had, copied, compared);
            }
            Input::Appoint { instance } => self.appoint(step, instance),
            Input::Revoked { channel_id, commitment, penalty } => {
                self.on_revoked(step, channel_id, commitment, penalty);
            }
            Input::Tower { peer, answer } => self.on_tower_answer(step, peer, answer),
            Input::Tick => {
                self.keepers_tick(step);
                self.lsp_tick(step);
                self.client_tick(step);
                self.lsp_sales_tick(step);
                self.client_sales_tick(step);
                self.moves_tick(step);
                self.closes_tick(step);
                self.climb_tick(step);
            }
            Input::Command(_) | Input::OpenChannel(_) => {}
        }
    }

    fn on_message(&self, step: &mut StepBuilder<'_>, peer: NodeId, payload: &[u8]) {
        let message = match Message::decode(payload) {
            Ok(message) => message,
            Err(error) => {
                step.log(Level::Unusual, format!("{peer}: ignored a message that doesn't decode: {error}"));
                return;
            }
        };
        let name = message.name();
        let instance = message.instance();
        if let Some(why) = self.damage(instance) {
            // S33: silence ends whatever the peer waits for, and commits us to nothing.
            step.log(Level::Unusual, format!("{instance}: ignored {name} from {peer}: {why}"));
            return;
        }
        let has_us_sign =
            matches!(message, Message::Propose(_) | Message::SalePropose(_) | Message::ClosePropose(_));
        if has_us_sign && self.may_be_outdated(instance) {
            let waits = self.keeping.keepers.may_defer(instance, peer);
            let what = if waits { "waits" } else { "is ignored" };
            let why = "a keeper may know more of it than this node (S9)";
            step.log(Level::Info, format!("{instance}: {name} from {peer} {what}: {why}"));
            if waits {
                let change = VolatileKeepers::Deferred(instance, peer, payload.to_vec());
                step.volatile(keepers(change));
            }
            return;
        }
        let of_sale = sale::ends_sale(&message);
        let of_close = close::ends_close(&message);
        let result = match message {
            Message::Invite(m) => self.on_invite(step, peer, m),
            Message::Join(m) => self.on_join(step, peer, m),
            Message::ExpectChannel(m) => self.on_expect_channel(step, peer, &m),
            Message::Expecting(m) => self.on_expecting(step, peer, m.instance, m.attempt),
            Message::Propose(m) => self.on_propose(step, peer, m),
            Message::PartialSignatures(m) => self.on_partial_signatures(step, peer, m),
            Message::Ready(m) => self.on_ready(step, peer, m),
            Message::Stored(m) => self.on_stored(step, peer, m.instance, m.attempt),
            Message::ChannelCommitted(m) => self.on_channel_committed(step, peer, &m),
            Message::ChannelChecked(m) => self.on_client_checked(step, peer, &m),
            Message::FundingBroadcast(m) => self.on_funding_broadcast(step, peer, &m),
            Message::Resume(m) => self.on_resume(step, peer, &m),
            Message::Abort(m) => self.on_abort(step, peer, &m),
            Message::Buy(m) => self.on_buy(step, peer, &m),
            Message::SaleOffer(m) => self.on_sale_offer(step, peer, &m),
            Message::SaleJoin(m) => self.on_sale_join(step, peer, &m),
            Message::SaleCommitted(m) => self.on_sale_committed(step, peer, &m),
            Message::SaleChecked(m) => self.on_sale_checked(step, peer, &m),
            Message::SalePropose(m) => self.on_sale_propose(step, peer, &m),
            Message::SalePartialSignatures(m) => self.on_sale_partials(step, peer, &m),
            Message::SaleReady(m) => self.on_sale_ready(step, peer, &m),
            Message::SaleStored(m) => self.on_sale_stored(step, peer, &m),
            Message::SaleAbort(m) => self.on_sale_abort(step, peer, &m),
            Message::AskPrice(m) => self.on_ask_price(step, peer, &m),
            Message::Price(m) => self.on_price(step, peer, &m),
            Message::SaleInvoice(m) => self.on_sale_invoice(step, peer, &m),
            Message::SaleWait(m) => self.on_sale_wait(step, peer, &m),
            Message::JitOffer(m) => self.on_jit_offer(step, peer, &m),
            Message::JitAccept(m) => self.on_jit_accept(step, peer, &m),
            Message::JitOpened(m) => self.on_jit_opened(step, peer, &m),
            Message::SaleVoid(m) => self.on_sale_void(step, peer, &m),
            Message::CreditBack(m) => self.on_credit_back(step, peer, &m),
            Message::SaleMissing(m) => self.on_sale_missing(step, peer, &m),
            Message::SaleShown(m) => self.on_sale_shown(step, peer, &m),
            Message::Handover(m) => self.on_handover(step, peer, &m),
            Message::HandoverStored(m) => self.on_handover_stored(step, peer, &m),
            Message::HandoverRefused(m) => self.on_handover_refused(step, peer, &m),
            Message::MoveAsk(m) => self.on_move_ask(step, peer, &m),
            Message::MoveReady(m) => self.on_move_ready(step, peer, &m),
            Message::MoveRefused(m) => self.on_move_refused(step, peer, &m),
            Message::CloseAsk(m) => self.on_close_ask(step, peer, &m),
            Message::CloseJoin(m) => self.on_close_join(step, peer, &m),
            Message::ClosePropose(m) => self.on_close_propose(step, peer, &m),
            Message::ClosePartialSignatures(m) => self.on_close_partials(step, peer, &m),
            Message::CloseReady(m) => self.on_close_ready(step, peer, &m),
            Message::CloseAbort(m) => self.on_close_abort(step, peer, &m),
            Message::LeaveAsk(m) => self.on_leave_ask(step, peer, &m),
            Message::LeavePrice(m) => self.on_leave_price(step, peer, &m),
            Message::LeaveOpened(m) => self.on_leave_opened(step, peer, &m),
            Message::LeaveRefused(m) => self.on_leave_refused(step, peer, &m),
            Message::AskCopies(_) => self.on_ask_copies(step, peer),
            Message::Copies(m) => self.on_copies(step, peer, m),
            Message::Keep(m) => self.on_keep(step, peer, m),
            Message::Kept(m) => self.on_peer_kept(step, peer, &m),
            Message::AskCopy(m) => self.on_ask_copy(step, peer, m.tag),
            Message::CopyBack(m) => self.on_copy_back(step, peer, m),
            Message::ForgetCopy(m) => self.on_forget_copy(step, peer, m.tag),
            Message::AskAppointments(m) => self.on_ask_appointments(step, peer, m),
            Message::Appointments(m) => self.on_appointments(step, peer, m),
            Message::Locators(m) => self.on_locators(step, peer, m),
            Message::Watch(m) => self.on_watch(step, peer, m),
            Message::Watched(m) => self.on_watched(step, peer, m),
            Message::Unwatch(m) => self.on_unwatch(step, peer, m),
            Message::AskReceipt(m) => self.on_ask_receipt(step, peer, m),
            Message::Receipt(m) => self.on_receipt(step, peer, m),
        };
        match result {
            Ok(()) => {}
            Err(Fault::Stale(reason)) => {
                step.log(Level::Debug, format!("{instance}: ignored {name} from {peer}: {reason}"));
            }
            Err(Fault::Peer(reason)) => {
                step.log(Level::Unusual, format!("{instance}: fault of {peer} in {name}: {reason}"));
                match self.factories.get(&instance) {
                    Some(factory) if of_close => self.close_fault(step, factory, peer, &reason),
                    Some(factory) if of_sale => self.on_sale_fault(step, factory, peer, &reason),
                    Some(factory) => self.on_fault(step, factory, peer, &reason),
                    None => {}
                }
            }
        }
    }

    /// A peer broke the protocol: L goes on without it, a client gives the attempt up.
    fn on_fault(&self, step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId, reason: &str) {
        match factory.current.role {
            Role::Lsp => self.lsp_fault(step, factory, peer, reason),
            Role::Client { lsp, .. } if lsp == peer => self.client_gives_up(step, factory, reason),
            Role::Client { .. } => {}
        }
    }

    fn on_started(&self, step: &mut StepBuilder<'_>, channels: &[KnownChannel]) {
        self.watching_started(step);
        for factory in self.factories.values() {
            close_again(step, factory, channels);
            if factory.damage().is_some() {
                continue;
            }
            match factory.current.role {
                Role::Lsp => {
                    self.lsp_started(step, factory, channels);
                    self.lsp_sales_started(step, factory, channels);
                    self.jits_started(step, factory, channels);
                    self.leaves_started(step, factory, channels);
                }
                Role::Client { .. } => self.client_started(step, factory, channels),
            }
            self.sale_payments_started(step, factory);
            self.moves_started(step, factory);
        }
    }

    fn on_abort(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        abort: &crate::wire::message::Abort,
    ) -> Result<(), Fault> {
        let factory = self.known(abort.instance)?;
        if abort.attempt != factory.current.number {
            return Err(Fault::stale("it is of another attempt"));
        }
        match factory.current.role {
            Role::Lsp => self.on_client_abort(step, factory, peer, abort),
            Role::Client { lsp, .. } if lsp == peer => self.on_lsp_abort(step, factory, abort),
            Role::Client { .. } => Err(Fault::stale("it is not from the operator")),
        }
    }
}
