//! Signing together: L coordinates, members sign. Creation and sales are uses of it.
//!
//! ```text
//! member                        L (coordinator)
//! │ nonces ───────────────────▶ │ checks them; once all are here: plan, own nonces, sums
//! │ ◀─────── proposal: the sums │ ledger entries durable, then its own partial signatures
//! │ rebuilds, ledger entries durable, then
//! │ partial signatures ───────▶ │ same transcript? right number?
//! │ ◀────── finished signatures │ every one verified; who sent a bad part is named
//! ```
//!
//! What is signed, by whom and for which entries of the ledger is a [`Plan`]. What differs from use to use
//! is in the uses: which sessions there are, the messages, what the transcript is over, deadlines, and what
//! follows. So nothing here knows messages, factories, clocks or peers.
//!
//! Whoever uses it asks the ledger and stores what it says before a [`SignJob`] is carried out (S8, S10):
//! the job is a change of memory, made when the step is applied. Nonces are consumed by it whatever comes
//! of it (S1, S2).

mod alone;
mod blame;
mod coordinator;
mod partial;
mod plan;
mod refused;
mod signer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::types::Millis;

pub use crate::signing::alone::sign_with_all;
pub use crate::signing::coordinator::Coordinator;
pub use crate::signing::coordinator::Opened;
pub use crate::signing::partial::SignError;
pub use crate::signing::plan::Plan;
pub use crate::signing::refused::BadNonces;
pub use crate::signing::refused::Failure;
pub use crate::signing::refused::Refused;
pub use crate::signing::refused::Unfinished;
pub use crate::signing::signer::Asked;
pub use crate::signing::signer::Request;
pub use crate::signing::signer::Signer;
pub use crate::signing::signer::check_finished;

/// Inputs of the signing that happens when a step is applied: after its ledger entries are durable.
pub struct SignJob<R> {
    /// What everybody signs off on (S6).
    pub transcript: [u8; 32],
    /// Whose partial signatures are made.
    pub role: SignAs<R>,
    /// Until when the answers to them are waited for.
    pub deadline: Millis,
}

/// For whom a [`SignJob`] signs.
pub enum SignAs<R> {
    /// L, whose nonces were made in the same step.
    Lsp(Opened),
    /// A member, whose nonces wait in its [`Signer`]; their sums are in the request.
    Member {
        /// What it has rebuilt (S3).
        plan: Plan,
        /// L's proposal, with the aggregate nonces.
        request: Arc<R>,
    },
}
