//! A later attempt at a factory: whether it is still what was accepted.

use crate::policy::NotAcceptable;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::Layout;
use crate::types::Amount;
use crate::wire::message::Invite;

/// S32: a later attempt never has worse terms than those that were accepted. It may leave other members out,
/// in whose place nobody comes; this client's channel, the price and every number of the terms stay, and no
/// exit takes longer or more than the longest one did.
pub(super) fn same_offer(factory: &Factory, invite: &Invite) -> Result<(), NotAcceptable> {
    let Role::Client { index, .. } = factory.current.role else {
        return Err(NotAcceptable::Own);
    };
    let before = &factory.current;
    let without_members = |terms: &Terms| Terms { capacities: vec![], ..terms.clone() };
    let places = |capacities: &[Amount], place: ClientIndex| {
        let (left, rest) = capacities.split_at_checked(usize::try_from(place).ok()?)?;
        let (own, right) = rest.split_first()?;
        Some((left.to_vec(), *own, right.to_vec()))
    };
    let same =
        match (places(&before.terms.capacities, index), places(&invite.terms.capacities, invite.client)) {
            (Some((left, own, right)), Some((fewer_left, still_own, fewer_right))) => {
                own == still_own && is_part(&fewer_left, &left) && is_part(&fewer_right, &right)
            }
            _ => false,
        };
    let longest = |layout: &Layout| {
        let exits = (0..layout.terms().clients()).map(|client| layout.exit_cost(client));
        exits.map(|exit| exit.vbytes).max()
    };
    let later = Layout::new(&invite.terms).map_err(NotAcceptable::Terms)?;
    if !same
        || invite.price_msat > before.price_msat
        || without_members(&invite.terms) != without_members(&before.terms)
        || later.worst_blocks_early() > before.layout.worst_blocks_early()
        || longest(&later) > longest(&before.layout)
    {
        return Err(NotAcceptable::Differs);
    }
    Ok(())
}

/// Whether `part` is `whole` with some left out.
fn is_part(part: &[Amount], whole: &[Amount]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|amount| whole.any(|other| other == amount))
}
