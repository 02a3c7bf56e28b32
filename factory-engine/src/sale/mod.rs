//! Sales of liquidity: a client buys some of its sub-factory's stock as a second channel.
//!
//! ```text
//! buyer                     L                         other clients of the sub-factory
//! │ buy ──────────────────▶ │
//! │ ◀────────── sale_offer  │ sale_offer ──────────────▶ │
//! │ sale_join ────────────▶ │ ◀──────────────  sale_join │
//! │ ◀══ fundchannel_start, fundchannel_complete          │
//! │ ◀────── sale_committed  │                            │
//! │ sale_checked ─────────▶ │                            │
//! │ ◀──────── sale_invoice  │ if it costs something      │
//! │ ═══ pays it ══════════▶ │ only now does anybody sign │
//! │ ◀──────── sale_propose  │ sale_propose ────────────▶ │
//! │ partial signatures ───▶ │ ◀────── partial signatures │
//! │ ◀────────── sale_ready  │ sale_ready ──────────────▶ │
//! │ sale_stored ──────────▶ │ ◀──────────── sale_stored  │
//! ```
//!
//! Unlike in creation the channel is committed *before* anybody signs. A stock output is signed for
//! once (S8): if the open failed after the first partial signature, no other channel could ever take
//! its place, and the stock would be stuck. So whatever can fail comes first, and once a partial
//! signature may have left, the very same sale is taken up again until it is done, with fresh nonces
//! (S2), whoever was restarted meanwhile.

use crate::engine::Engine;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::record::unusable::NotCooperative;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::tx::layout::{CoinIndex, MIN_CHANNEL};
use crate::tx::sale::{SaleError, SaleLimits, rest};
use crate::types::{Amount, Height, NodeId};
use crate::wire::message::{Message, SaleAbort};

pub mod buy;
pub mod client;
pub mod credit;
pub mod ends;
pub mod error;
pub mod jit;
pub mod lsp;
pub mod lsp_signing;
pub mod payment;
pub mod price;
pub mod proof;
pub mod selling;
pub mod void;

/// What a purchase would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Node id of the operator, who sells.
    pub lsp: NodeId,
    /// Number of the factory's attempt, from 1.
    pub attempt: u32,
    /// Stock coin of the buyer's sub-factory.
    pub coin: CoinIndex,
    /// The sale's place in the chain, from 1.
    pub number: u32,
    /// Value of the stock output that the sale spends.
    pub stock: Amount,
    /// `blocks_early` of the new channel.
    pub blocks_early: u16,
}

/// How many sessions a sale of `amount` would have: its own, and its rest's distribution if there is a
/// rest. What is wrong with the amount otherwise.
fn session_count(
    factory: &Factory,
    coin: CoinIndex,
    number: u32,
    amount: Amount,
) -> Result<usize, SaleError> {
    let stock = factory.stock_before(coin, number).ok_or(SaleError::Gone)?;
    let rest = rest(&factory.current.layout, stock, amount)?;
    Ok(if rest.is_some() { 2 } else { 1 })
}

/// What is wrong with the amount of a purchase, if something is. Where no sale can follow it is an ordinary
/// channel's: no larger than the whole stock was.
fn check_amount(factory: &Factory, coin: CoinIndex, amount: Amount) -> Result<(), SaleError> {
    if factory.current.sales.of(coin).last().is_none_or(|last| last.void.is_none()) {
        return session_count(factory, coin, factory.next_sale(coin), amount).map(|_| ());
    }
    let most = factory.current.layout.coin(coin).map_or(Amount::ZERO, |coin| coin.value);
    if amount < MIN_CHANNEL || amount > most {
        let limits = SaleLimits { with_rest: Some(most), everything: None };
        return Err(SaleError::Amount { asked: amount, limits });
    }
    Ok(())
}

/// A sale's place in its chain.
fn place(number: u32) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

/// Whether anything may be signed for this sub-factory (S9, S24, S33), and otherwise why not.
fn cooperative(factory: &Factory, coin: CoinIndex, height: Height) -> Result<(), NotCooperative> {
    if let Some(why) = factory.damage() {
        return Err(NotCooperative::Damaged(why.to_owned()));
    }
    if let Some(reason) = factory.restored() {
        return Err(NotCooperative::Restored(reason.to_owned()));
    }
    let clients = factory.current.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
    for client in clients {
        if factory.current.exiting.contains(&client) || factory.current.evicting.contains(&client) {
            return Err(NotCooperative::Leaving);
        }
        if factory.has_handed_over(client) {
            return Err(NotCooperative::HandedOver);
        }
        if factory.leaf_height(client).is_some() {
            return Err(NotCooperative::OnChain);
        }
    }
    match factory.state(height) {
        State::Active | State::Exiting => {}
        state @ (State::Invited
        | State::Joining
        | State::Signing
        | State::Storing
        | State::Opening
        | State::Funding
        | State::Dying
        | State::Exited
        | State::Distributed
        | State::Reclaimed
        | State::Closing
        | State::Left
        | State::Declined
        | State::Aborted
        | State::Closed) => return Err(NotCooperative::State(state)),
    }
    match factory.current.role {
        Role::Client { index, .. } => factory.channel_usable(index, height).map_err(NotCooperative::Channel),
        Role::Lsp => Ok(()),
    }
}

/// Whether a fault in a message ends a sale, and otherwise the attempt at creating the factory.
pub(crate) fn ends_sale(message: &Message) -> bool {
    match message {
        Message::SaleOffer(_)
        | Message::SaleJoin(_)
        | Message::SaleCommitted(_)
        | Message::SaleChecked(_)
        | Message::SalePropose(_)
        | Message::SalePartialSignatures(_)
        | Message::SaleReady(_)
        | Message::SaleStored(_)
        | Message::SaleAbort(_)
        | Message::SaleInvoice(_)
        | Message::SaleWait(_) => true,
        Message::Invite(_)
        | Message::Join(_)
        | Message::ExpectChannel(_)
        | Message::Expecting(_)
        | Message::Propose(_)
        | Message::PartialSignatures(_)
        | Message::Ready(_)
        | Message::Stored(_)
        | Message::ChannelCommitted(_)
        | Message::ChannelChecked(_)
        | Message::FundingBroadcast(_)
        | Message::Resume(_)
        | Message::Abort(_) => false,
        // Nobody is at fault in these, whatever they say.
        Message::Buy(_)
        | Message::AskPrice(_)
        | Message::Price(_)
        | Message::JitOffer(_)
        | Message::JitAccept(_)
        | Message::JitOpened(_)
        | Message::SaleVoid(_)
        | Message::CreditBack(_)
        | Message::SaleMissing(_)
        | Message::SaleShown(_)
        | Message::Handover(_)
        | Message::HandoverStored(_)
        | Message::HandoverRefused(_)
        | Message::MoveAsk(_)
        | Message::MoveReady(_)
        | Message::MoveRefused(_)
        | Message::CloseAsk(_)
        | Message::CloseJoin(_)
        | Message::ClosePropose(_)
        | Message::ClosePartialSignatures(_)
        | Message::CloseReady(_)
        | Message::CloseAbort(_)
        | Message::LeaveAsk(_)
        | Message::LeavePrice(_)
        | Message::LeaveOpened(_)
        | Message::LeaveRefused(_)
        | Message::AskCopies(_)
        | Message::Copies(_)
        | Message::Keep(_)
        | Message::Kept(_)
        | Message::AskCopy(_)
        | Message::CopyBack(_)
        | Message::ForgetCopy(_)
        | Message::AskAppointments(_)
        | Message::Appointments(_)
        | Message::Locators(_)
        | Message::Watch(_)
        | Message::Watched(_)
        | Message::Unwatch(_)
        | Message::AskReceipt(_)
        | Message::Receipt(_) => false,
    }
}

impl Engine {
    /// Either side ends a sale.
    pub(crate) fn on_sale_abort(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        abort: &SaleAbort,
    ) -> Result<(), Fault> {
        match self.known(abort.instance)?.current.role {
            Role::Lsp => self.on_client_sale_abort(step, peer, abort),
            Role::Client { .. } => self.on_lsp_sale_abort(step, peer, abort),
        }
    }

    /// A peer broke the protocol of a sale: it ends here, and the peer is named.
    pub(crate) fn on_sale_fault(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        peer: NodeId,
        reason: &str,
    ) {
        match factory.current.role {
            Role::Lsp => self.lsp_sale_fault(step, factory, peer, reason),
            Role::Client { lsp, .. } if lsp == peer => self.client_sale_fault(step, factory, reason),
            Role::Client { .. } => {}
        }
    }
}
