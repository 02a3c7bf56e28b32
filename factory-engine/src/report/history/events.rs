//! Each kind of event, told: what it says by itself, and what the factory before it adds.

use crate::record::attempt::Role;
use crate::record::event::{Event, SaleDue};
use crate::record::factory::Factory;
use crate::record::sales::Sold;
use crate::report::counting::counted;
use crate::report::history::kind::Kind;
use crate::report::history::sums::{Invoices, Prices, Sums};
use crate::report::history::told::Told;
use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::CoinIndex;
use crate::types::{Amount, PaymentHash, Transaction};

/// Tells an event. `factory` is as it was before; nothing before the first, and after a record that can't be read.
/// What a transaction on chain is follows from the factory after it (`onchain`).
pub(super) fn tell(event: &Event, factory: Option<&Factory>) -> Told {
    match event {
        Event::Created(_)
        | Event::AttemptStarted(_)
        | Event::Invited(_)
        | Event::Accepted(_)
        | Event::Declined(_)
        | Event::Rung(_)
        | Event::Woken(_)
        | Event::Aborted(_)
        | Event::Forgotten(_)
        | Event::Restored(_)
        | Event::Recovered(_) => beginnings_and_ends(event, factory),
        Event::Signing(e) => {
            let what = "the transactions are fixed: this node may sign";
            let txid = e.funding_tx().compute_txid();
            Told::new(Kind::Signed, what).attempt(e.attempt).txid(txid)
        }
        Event::Signed(e) => {
            let what = format!("{} stored", counted(e.signatures.len(), "finished signature"));
            Told::new(Kind::Signed, what)
        }
        Event::AllStored(_) => Told::new(Kind::Signed, "every client has stored what is signed"),
        Event::OpenAccepted(e) => {
            Told::new(Kind::Channel, "the operator's open of the channel is accepted").attempt(e.attempt)
        }
        Event::ChannelCommitted(e) => Told::new(Kind::Channel, "lightningd has committed the channel")
            .clients(factory, [e.client])
            .channel(e.channel_id),
        Event::ChannelChecked(e) => Told::new(Kind::Channel, "the channel is what the leaf pays")
            .clients(factory, [e.client])
            .channel(e.channel_id),
        Event::ChannelResolved(e) => {
            Told::new(Kind::Channel, "lightningd is done with the channel").clients(factory, [e.client])
        }
        Event::ChannelEnded(e) => {
            Told::new(Kind::Channel, "the channel ends").channel(e.channel_id).reason(e.how.to_string())
        }
        Event::FundingReserved(e) => Told::new(Kind::Funding, "the wallet's inputs are reserved")
            .attempt(e.attempt)
            .txid(e.tx.compute_txid())
            .amount(factory.map(|factory| factory.current.layout.funding_value()))
            .fee(fee(e.prevouts.iter().map(|prevout| prevout.value), &e.tx)),
        Event::FundingReleased(e) => Told::new(Kind::Funding, "the funding transaction may be sent")
            .at(e.height)
            .txid(factory.and_then(|factory| Some(factory.funding()?.txid)))
            .amount(factory.map(|factory| factory.current.layout.funding_value()))
            .fee(factory.and_then(funding_fee)),
        Event::Confirmed(e) => {
            Told::new(Kind::Chain, "a transaction that concerns the factory is in a block")
                .at(e.height)
                .txid(e.txid)
                .amount(e.pays)
        }
        Event::Reorged(e) => {
            let what = format!("blocks above height {} have left the chain", e.height);
            Told::new(Kind::Chain, what).at(e.height)
        }
        Event::StockPayout(_) => Told::new(Kind::Reclaim, "stock will go to an address of this wallet"),
        Event::ExitStarted(e) => Told::new(Kind::Exit, "this node takes channels on chain")
            .at(e.height)
            .clients(factory, e.clients.iter().copied())
            .reason(e.reason.clone()),
        Event::EvictionStarted(e) => Told::new(Kind::Eviction, "clients' channels are put on chain")
            .at(e.height)
            .clients(factory, e.clients.iter().copied())
            .reason(e.reason.clone()),
        Event::HandedOver(_)
        | Event::HandoverStored(_)
        | Event::KeyReceived(_)
        | Event::RenewalPaid(_)
        | Event::Renewed(_)
        | Event::LeaveWanted(_)
        | Event::LeaveOver(_)
        | Event::LeaveOpened(_)
        | Event::LeaveOpening(_)
        | Event::LeaveFunded(_) => goings(event, factory),
        Event::SaleOpening(_)
        | Event::SaleDropped(_)
        | Event::SaleOpenAccepted(_)
        | Event::SaleSigning(_)
        | Event::SaleSigned(_)
        | Event::SaleStored(_)
        | Event::SaleVoid(_)
        | Event::SaleResolved(_)
        | Event::SaleDue(_)
        | Event::SaleDueEnded(_)
        | Event::SaleJit(_)
        | Event::SaleJitAgreed(_)
        | Event::SaleJitFailed(_)
        | Event::SaleJitOpened(_) => sales(event, factory),
        Event::MoveWanted(_) | Event::MoveStarted(_) | Event::MoveEnded(_) | Event::MoveOver(_) => {
            moves(event, factory)
        }
        Event::CloseSigning(e) => {
            let paid = e.outputs.iter().map(|output| output.value);
            Told::new(Kind::Close, "a cooperative close is fixed: this node may sign")
                .at(e.height)
                .clients(factory, e.shares.iter().map(|share| share.client))
                .amount(total(paid))
        }
        Event::CloseSigned(_) => Told::new(Kind::Close, "the cooperative close is finished")
            .txid(factory.and_then(|factory| Some(factory.current.close.as_ref()?.txid()))),
        Event::CloseGivenUp(e) => {
            Told::new(Kind::Close, "the cooperative close is given up").at(e.height).reason(e.reason.clone())
        }
    }
}

/// How it began, with whom, and how it ended.
#[expect(clippy::wildcard_enum_match_arm, reason = "`tell` has all of them")]
fn beginnings_and_ends(event: &Event, factory: Option<&Factory>) -> Told {
    match event {
        Event::Created(e) => {
            let what = format!("begun with {}", counted(e.clients.len(), "client"));
            Told::new(Kind::Created, what)
                .attempt(1)
                .nodes(&e.clients)
                .amount(capacities(&e.terms))
                .price(e.prices_msat.as_deref().map(sum))
        }
        Event::AttemptStarted(e) => {
            let what = format!("begun again with {}", counted(e.clients.len(), "client"));
            Told::new(Kind::Created, what)
                .attempt(e.attempt)
                .nodes(&e.clients)
                .left_out(&e.left_out)
                .amount(capacities(&e.terms))
                .price(e.prices_msat.as_deref().map(sum))
                .reason(e.reason.clone())
        }
        Event::Invited(e) => {
            let place = usize::try_from(e.client).ok();
            let capacity = place.and_then(|place| e.terms.capacities.get(place).copied());
            Told::new(Kind::Created, "this node is invited")
                .at(e.height)
                .attempt(e.attempt)
                .clients(None, [e.client])
                .amount(capacity)
                .price(e.price_msat)
        }
        Event::Accepted(e) => {
            let what = match e.from {
                Some(_) => "this node has accepted: its ordinary channel moves in",
                None => "this node has accepted",
            };
            Told::new(Kind::Joined, what).channel(e.from)
        }
        Event::Declined(e) => {
            Told::new(Kind::End, "this node has declined").at(e.height).reason(e.reason.clone())
        }
        Event::Rung(e) => Told::new(
            Kind::Created,
            format!("rung {} of a ladder, which opened at height {}", e.number, e.opens),
        ),
        Event::Woken(e) => Told::new(Kind::Created, "clients that are due and away were sent for")
            .at(e.height)
            .clients(factory, e.clients.iter().copied()),
        Event::Aborted(e) => Told::new(Kind::End, "given up").at(e.height).reason(e.reason.clone()),
        Event::Forgotten(e) => Told::new(Kind::End, "forgotten").reason(e.reason.clone()),
        Event::Restored(e) => {
            let what = "the records came from a backup: nothing new is signed from now on";
            Told::new(Kind::Recovery, what).reason(e.reason.clone())
        }
        Event::Recovered(e) => {
            let what = "the records came from a copy, and the channels are lost";
            Told::new(Kind::Recovery, what).reason(e.reason.clone())
        }
        other => unheard_of(other),
    }
}

/// Clients that leave, with their keys or without.
#[expect(clippy::wildcard_enum_match_arm, reason = "`tell` has all of them")]
fn goings(event: &Event, factory: Option<&Factory>) -> Told {
    let own = factory.and_then(own);
    match event {
        Event::HandedOver(e) => {
            let wish = factory.and_then(|factory| factory.leaves.wish());
            let price = wish.map(|wish| wish.price_msat).filter(|msat| *msat > 0);
            Told::new(Kind::Handover, "this node's key goes to the operator")
                .at(e.height)
                .clients(factory, own)
                .price(price)
                .money(own.map(|own| priced(factory, own, leave(price))).unwrap_or_default())
        }
        Event::HandoverStored(_) => {
            Told::new(Kind::Handover, "the operator has stored this node's key").clients(factory, own)
        }
        Event::KeyReceived(e) => {
            let opened = factory.and_then(|factory| factory.leaves.opened(e.client));
            let price = opened.map(|(_, msat)| msat);
            Told::new(Kind::Handover, "a client has handed its key over")
                .at(e.height)
                .clients(factory, [e.client])
                .price(price)
                .money(priced(factory, e.client, leave(price)))
        }
        Event::RenewalPaid(e) => {
            let renewals = Prices { renewals_msat: e.msat, ..Prices::default() };
            Told::new(Kind::Renewal, "a client has paid for its place here")
                .clients(factory, [e.client])
                .other(e.of)
                .price(e.msat)
                .money(priced(factory, e.client, renewals))
        }
        Event::Renewed(e) => {
            let renewals = Prices { renewals_msat: e.msat, ..Prices::default() };
            Told::new(Kind::Renewal, "this node has left another factory for this one")
                .clients(factory, own)
                .other(e.of)
                .price(e.msat)
                .money(own.map(|own| priced(factory, own, renewals)).unwrap_or_default())
        }
        Event::LeaveWanted(e) => Told::new(Kind::Leave, "this node is to leave for an ordinary channel")
            .at(e.height)
            .clients(factory, own)
            .to(e.to),
        Event::LeaveOver(e) => Told::new(Kind::Leave, "nothing comes of leaving")
            .at(e.height)
            .clients(factory, own)
            .reason(e.reason.clone()),
        Event::LeaveOpened(e) => Told::new(Kind::Leave, "the operator has opened the ordinary channel")
            .at(e.height)
            .clients(factory, own)
            .price(e.price_msat)
            .to(e.channel_id),
        Event::LeaveOpening(e) => {
            Told::new(Kind::Leave, "an ordinary channel is about to be opened to a client that leaves")
                .at(e.height)
                .clients(factory, [e.client])
                .amount(e.amount)
                .price(e.price_msat)
        }
        Event::LeaveFunded(e) => {
            let opening = factory.and_then(|factory| factory.leaves.opening().get(&e.client));
            let what = match e.channel_id {
                Some(_) => "the ordinary channel of a client that leaves is opened",
                None => "the ordinary channel of a client that leaves could not be opened",
            };
            Told::new(Kind::Leave, what)
                .at(e.height)
                .clients(factory, [e.client])
                .amount(opening.map(|opening| opening.amount))
                .price(opening.map(|opening| opening.price_msat))
                .to(e.channel_id)
        }
        other => unheard_of(other),
    }
}

/// Liquidity that is sold: sales, what is paid for them, ordinary channels in their place.
#[expect(clippy::wildcard_enum_match_arm, reason = "`tell` has all of them")]
fn sales(event: &Event, factory: Option<&Factory>) -> Told {
    let own = factory.and_then(own);
    match event {
        Event::SaleOpening(e) => Told::new(Kind::Sale, format!("a sale of coin {} begins", e.coin))
            .clients(factory, [e.buyer])
            .sale(e.number)
            .amount(e.amount)
            .price(e.price_msat),
        Event::SaleDropped(e) => {
            let sale = factory.and_then(|factory| factory.current.sales.opening(e.coin));
            let what = format!("the sale of coin {} is dropped before anybody has signed it", e.coin);
            Told::new(Kind::Sale, what)
                .clients(factory, sale.map(|sale| sale.buyer))
                .sale(e.number)
                .amount(sale.map(|sale| sale.amount()))
        }
        Event::SaleOpenAccepted(e) => {
            Told::new(Kind::Sale, "the operator's open of a bought channel is accepted")
                .clients(factory, own)
                .sale(e.number)
                .amount(e.amount)
                .price(e.price_msat)
        }
        Event::SaleSigning(e) => {
            Told::new(Kind::Sale, format!("the sale of coin {} is fixed: this node may sign", e.coin))
                .at(e.height)
                .clients(factory, [e.buyer])
                .sale(e.number)
                .amount(e.amount)
                .price(e.price_msat)
        }
        Event::SaleSigned(e) => {
            let what = format!("the sale of coin {} is signed: its channel is there", e.coin);
            let sold = factory.and_then(|factory| sold(factory, e.coin, e.number));
            let told = Told::new(Kind::Sale, what).sale(e.number);
            let Some(sold) = sold else { return told };
            let prices = Prices { sales_msat: sold.price_msat, ..Prices::default() };
            told.clients(factory, [sold.sale.buyer])
                .amount(sold.sale.amount())
                .price(sold.price_msat)
                .txid(sold.txid())
                .fee(sale_fee(sold))
                .channel(sold.channel_id())
                .money(priced(factory, sold.sale.buyer, prices))
        }
        Event::SaleStored(e) => {
            let what = format!("every client of the sub-factory has stored the sale of coin {}", e.coin);
            Told::new(Kind::Sale, what).sale(e.number)
        }
        Event::SaleVoid(e) => {
            let sold = factory.and_then(|factory| sold(factory, e.coin, e.number));
            let what = format!("the sale of coin {} never will be finished: its price is credit", e.coin);
            let blamed = e.blamed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let reason = (!e.blamed.is_empty()).then(|| format!("not signed by {blamed}"));
            Told::new(Kind::Sale, what)
                .at(e.height)
                .clients(factory, sold.map(|sold| sold.sale.buyer))
                .sale(e.number)
                .amount(sold.map(|sold| sold.sale.amount()))
                .price(sold.map(|sold| sold.price_msat))
                .reason(reason)
        }
        Event::SaleResolved(e) => {
            Told::new(Kind::Channel, "lightningd is done with a bought channel").channel(e.channel_id)
        }
        Event::SaleDue(e) => {
            let what = match e.back {
                false => "an invoice for liquidity may be paid",
                true => "credit may be paid back",
            };
            Told::new(Kind::Payment, what)
                .clients(factory, [e.buyer])
                .amount_msat(e.amount_msat)
                .payment(e.payment_hash)
        }
        Event::SaleDueEnded(e) => {
            let due = factory.and_then(|factory| due(factory, e.payment_hash));
            let what = match (due.map(|due| due.back), e.paid) {
                (Some(true), true) => "credit is paid back",
                (Some(true), false) => "credit was not paid back",
                (Some(false) | None, true) => "an invoice for liquidity is paid",
                (Some(false) | None, false) => "an invoice for liquidity was not paid",
            };
            let money = due.filter(|_| e.paid).map(|due| invoiced(factory, due)).unwrap_or_default();
            Told::new(Kind::Payment, what)
                .at(e.height)
                .clients(factory, due.map(|due| due.buyer))
                .amount_msat(due.map(|due| due.amount_msat))
                .payment(e.payment_hash)
                .money(money)
        }
        Event::SaleJit(e) => {
            Told::new(Kind::OrdinaryChannel, "an ordinary channel is about to be opened in place of a sale")
                .at(e.height)
                .clients(factory, [e.buyer])
                .amount(e.amount)
                .price(e.price_msat)
        }
        Event::SaleJitAgreed(e) => {
            Told::new(Kind::OrdinaryChannel, "this node takes an ordinary channel in place of a sale")
                .clients(factory, own)
                .amount(e.amount)
                .price(e.price_msat)
        }
        Event::SaleJitFailed(e) => {
            let opening = factory.and_then(|factory| factory.current.sales.jits().funding.get(&e.buyer));
            Told::new(Kind::OrdinaryChannel, "the ordinary channel could not be opened: its price is credit")
                .at(e.height)
                .clients(factory, [e.buyer])
                .amount(opening.map(|opening| opening.amount))
                .price(opening.map(|opening| opening.price_msat))
        }
        Event::SaleJitOpened(e) => {
            let prices = Prices { ordinary_channels_msat: e.price_msat, ..Prices::default() };
            Told::new(Kind::OrdinaryChannel, "an ordinary channel is opened in place of a sale")
                .clients(factory, [e.buyer])
                .amount(e.amount)
                .price(e.price_msat)
                .channel(e.channel_id)
                .txid(e.outpoint.map(|outpoint| outpoint.txid))
                .money(priced(factory, e.buyer, prices))
        }
        other => unheard_of(other),
    }
}

/// A client's balance that goes from one channel to another.
#[expect(clippy::wildcard_enum_match_arm, reason = "`tell` has all of them")]
fn moves(event: &Event, factory: Option<&Factory>) -> Told {
    let moves = factory.map(|factory| &factory.moves);
    let told = match event {
        Event::MoveWanted(e) => Told::new(Kind::Move, "a balance is to move")
            .at(e.height)
            .channel(e.from)
            .to(e.to)
            .amount_msat(e.amount_msat),
        Event::MoveStarted(e) => Told::new(Kind::Move, "an HTLC of the move may leave")
            .channel(e.from)
            .to(moves.and_then(|moves| Some(moves.of(e.from)?.to)))
            .amount_msat(e.amount_msat)
            .payment(e.payment_hash),
        Event::MoveEnded(e) => {
            let open = moves.and_then(|moves| moves.by_hash(e.payment_hash));
            let what = match e.arrived {
                true => "an HTLC of the move has arrived",
                false => "an HTLC of the move has not arrived",
            };
            Told::new(Kind::Move, what)
                .at(e.height)
                .channel(open.map(|open| open.from))
                .to(open.map(|open| open.to))
                .amount_msat(open.and_then(|open| Some(open.started?.amount_msat)))
                .payment(e.payment_hash)
        }
        Event::MoveOver(e) => {
            let open = moves.and_then(|moves| moves.of(e.from));
            Told::new(Kind::Move, "the move is over: so much has arrived")
                .channel(e.from)
                .to(open.map(|open| open.to))
                .amount_msat(open.map(|open| open.moved_msat))
                .reason(e.reason.clone())
        }
        other => unheard_of(other),
    };
    told.clients(factory, factory.and_then(own))
}

/// One that `tell` hands to a function that doesn't know it: a test tells every kind.
fn unheard_of(event: &Event) -> Told {
    Told::new(Kind::Unreadable, event.name())
}

/// This client's own index.
fn own(factory: &Factory) -> Option<ClientIndex> {
    match factory.current.role {
        Role::Lsp => None,
        Role::Client { index, .. } => Some(index),
    }
}

/// What a client pays: the operator earns it, and the client itself spends it. A neighbour's is nobody's here.
fn priced(factory: Option<&Factory>, client: ClientIndex, prices: Prices) -> Sums {
    match factory.map(|factory| factory.current.role) {
        Some(Role::Lsp) => Sums { earned: prices, ..Sums::default() },
        Some(Role::Client { index, .. }) if index == client => Sums { paid: prices, ..Sums::default() },
        Some(Role::Client { .. }) | None => Sums::default(),
    }
}

fn leave(price_msat: Option<u64>) -> Prices {
    Prices { leaves_msat: price_msat.unwrap_or(0), ..Prices::default() }
}

/// An invoice that was paid: to this node, or by it.
fn invoiced(factory: Option<&Factory>, due: &SaleDue) -> Sums {
    let received = match factory.map(|factory| factory.current.role) {
        Some(Role::Lsp) => !due.back,
        Some(Role::Client { index, .. }) if index == due.buyer => due.back,
        Some(Role::Client { .. }) | None => return Sums::default(),
    };
    let invoices = match received {
        true => Invoices { received_msat: due.amount_msat, paid_msat: 0 },
        false => Invoices { received_msat: 0, paid_msat: due.amount_msat },
    };
    Sums { invoices, ..Sums::default() }
}

fn due(factory: &Factory, payment_hash: PaymentHash) -> Option<&SaleDue> {
    factory.current.sales.account().due_of(payment_hash)
}

fn sold(factory: &Factory, coin: CoinIndex, number: u32) -> Option<&Sold> {
    factory.current.sales.of(coin).iter().find(|sold| sold.sale.number == number)
}

/// What the sale's transaction pays miners, should it come on chain.
fn sale_fee(sold: &Sold) -> Option<Amount> {
    let session = sold.sale.sessions.first()?;
    fee([session.prevout.value], &session.tx)
}

/// What a transaction pays miners.
pub(super) fn fee(spent: impl IntoIterator<Item = Amount>, tx: &Transaction) -> Option<Amount> {
    total(spent)?.checked_sub(total(tx.output.iter().map(|output| output.value))?)
}

/// L: what its funding transaction pays miners, in whichever attempt. A client doesn't know what it spends.
pub(super) fn funding_fee(factory: &Factory) -> Option<Amount> {
    let reserved = factory.current.reserved.as_deref()?;
    // The inputs of another would be worth something else.
    let is_it = factory.funding().is_some_and(|funding| funding.txid == reserved.tx.compute_txid());
    let spent = reserved.prevouts.iter().map(|prevout| prevout.value);
    fee(spent, &reserved.tx).filter(|_| is_it)
}

/// All together; nothing if that is more money than there is.
pub(super) fn total(amounts: impl IntoIterator<Item = Amount>) -> Option<Amount> {
    amounts.into_iter().try_fold(Amount::ZERO, Amount::checked_add)
}

fn capacities(terms: &Terms) -> Option<Amount> {
    total(terms.capacities.iter().copied())
}

fn sum(msat: &[u64]) -> u64 {
    msat.iter().copied().fold(0, u64::saturating_add)
}
