//! A close that was signed for and isn't finished: for how long it is waited for, and what follows.

use std::borrow::Cow;

use crate::chain::record;
use crate::io::Level;
use crate::record::attempt::Role;
use crate::record::close::CLOSE_BLOCKS;
use crate::record::event::{CloseGivenUp, ExitStarted};
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;

/// L gives it up when its time is over, or somebody leaves: nothing can finish it without L. A client that has signed
/// can't know that, and leaves by its path, which is the end of the close for sure.
pub(crate) fn end_unfinished_close(step: &mut StepBuilder<'_>, factory: &mut Cow<'_, Factory>) {
    let Some(since) = factory.unfinished_close().map(|close| close.since) else { return };
    if factory.funding_height().is_none() {
        return;
    }
    let (instance, height) = (factory.instance, step.height);
    let late = height >= since.saturating_add(CLOSE_BLOCKS);
    match factory.current.role {
        Role::Lsp => {
            let reason = match (factory.is_whole() && !factory.is_being_left(), late) {
                (false, _) => "part of the tree is on chain, or on its way there",
                (true, true) => "not everybody has signed it in time",
                (true, false) => return,
            };
            step.log(Level::Unusual, format!("{instance}: its close is given up: {reason}"));
            record(step, factory, CloseGivenUp { reason: reason.into(), height });
        }
        Role::Client { index, .. } => {
            // Once something else spends what it would, nothing has to be done: it ends by itself.
            if !late || factory.has_left() || !factory.is_whole() || factory.is_leaving(index) {
                return;
            }
            let reason = format!("a close that this node signed is not finished after {CLOSE_BLOCKS} blocks");
            step.log(Level::Unusual, format!("{instance}: taking its channels on chain: {reason}"));
            record(step, factory, ExitStarted { height, reason, clients: vec![index] });
        }
    }
}
