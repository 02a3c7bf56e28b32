//! A member's side. It signs only what its use has rebuilt (S3).

use std::sync::Arc;

use crate::signing::partial::sign_all;
use crate::signing::{Plan, SignError, Unfinished};
use crate::tx::musig::{
    AggNonce, FactoryKey, PartialSig, PubNonce, Round, SecNonce, new_nonce, verify_alone,
};

/// A proposal as it was sent. Two that differ in anything are not the same.
pub trait Request: PartialEq {
    /// The message with the partial signatures.
    type Answer: Clone;

    /// The aggregate nonce of each session.
    fn nonces(&self) -> &[AggNonce];

    /// The answer to it. It names the transcript, so that L sees whether all have signed the same (S6).
    fn answer(&self, transcript: [u8; 32], signatures: Vec<PartialSig>) -> Self::Answer;
}

/// What lives only in memory: secret nonces never touch a disk (S1).
pub struct Signer<R: Request> {
    /// In the order of this member's sessions; taken when they sign.
    nonces: Vec<SecNonce>,
    /// What was signed, and what was answered if that went well.
    signed: Option<(Arc<R>, Option<R::Answer>)>,
}

/// What a proposal is to a [`Signer`].
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'a, A> {
    /// The first one: it may be signed.
    First,
    /// The one that it has signed, and what it answered.
    Again(Option<&'a A>),
    /// Another than the one that it has signed: its nonces are used (S2).
    Other,
}

impl<R: Request> Signer<R> {
    /// Fresh nonces for so many sessions (S2), and what is sent of them. `seed` gives 32 bytes for each
    /// nonce that are used for nothing else.
    pub fn fresh(
        sessions: usize,
        key: &FactoryKey,
        mut seed: impl FnMut() -> [u8; 32],
    ) -> (Self, Vec<PubNonce>) {
        let (nonces, public) = (0..sessions).map(|_| new_nonce(seed(), key)).unzip();
        (Self { nonces, signed: None }, public)
    }

    /// Whether a proposal may be signed, or was.
    pub fn asked(&self, request: &R) -> Asked<'_, R::Answer> {
        match &self.signed {
            None => Asked::First,
            Some((before, answer)) if **before == *request => Asked::Again(answer.as_ref()),
            Some(_) => Asked::Other,
        }
    }

    /// Whether it has signed, or tried to.
    pub fn has_signed(&self) -> bool {
        self.signed.is_some()
    }

    /// Makes this member's partial signatures, and the answer that has them. Their ledger entries are durable by
    /// now (S8, S10); the nonces are consumed whatever comes of it (S2).
    ///
    /// # Errors
    /// When it can't sign. No other proposal can be signed after that.
    pub fn sign(
        &mut self,
        plan: &Plan,
        request: Arc<R>,
        transcript: [u8; 32],
        key: &FactoryKey,
    ) -> Result<R::Answer, SignError> {
        if self.has_signed() {
            return Err(SignError::Count);
        }
        let nonces = std::mem::take(&mut self.nonces);
        let signed = rounds(plan, request.nonces()).and_then(|rounds| sign_all(plan, key, nonces, &rounds));
        let answer = signed.map(|signatures| request.answer(transcript, signatures));
        self.signed = Some((request, answer.as_ref().ok().cloned()));
        answer
    }
}

/// The round of each session, from the aggregate nonces that L sent.
fn rounds(plan: &Plan, sums: &[AggNonce]) -> Result<Vec<Round>, SignError> {
    if sums.len() != plan.sessions() {
        return Err(SignError::Count);
    }
    let round = |(part, sum): (&crate::signing::plan::Part, &AggNonce)| {
        let agg = plan.key(part).map_err(|_| SignError::NotAMember(part.entry.session))?;
        Round::new(agg, sum, &part.entry.sighash).map_err(SignError::Musig)
    };
    plan.parts().iter().zip(sums).map(round).collect()
}

/// Whether every finished signature verifies (S4), so that they may be stored.
///
/// # Errors
/// When they are not as many as the plan's sessions, or one of them isn't valid.
pub fn check_finished(plan: &Plan, signatures: &[[u8; 64]]) -> Result<(), Unfinished> {
    if signatures.len() != plan.sessions() {
        return Err(Unfinished::Count { given: signatures.len(), expected: plan.sessions() });
    }
    for (part, signature) in plan.parts().iter().zip(signatures) {
        let key = plan.key(part).map(|agg| agg.output_key());
        if !key.is_ok_and(|key| verify_alone(signature, &part.entry.sighash, &key)) {
            return Err(Unfinished::Invalid(part.entry.session));
        }
    }
    Ok(())
}
