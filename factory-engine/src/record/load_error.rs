//! Why stored records are not understood as a factory.

use std::fmt;

use crate::record::RecordError;

/// Why stored events don't make a factory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// A record was not understood.
    Record(RecordError),
    /// Its events contradict each other.
    Inconsistent {
        /// Name of the event that doesn't fit.
        event: &'static str,
        /// What it contradicts.
        reason: String,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(error) => error.fmt(f),
            Self::Inconsistent { event, reason } => {
                write!(f, "the stored event {event} doesn't fit what was stored before it: {reason}")
            }
        }
    }
}

impl std::error::Error for LoadError {}

impl From<RecordError> for LoadError {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

pub(crate) fn inconsistent(event: &'static str, reason: impl fmt::Display) -> LoadError {
    LoadError::Inconsistent { event, reason: reason.to_string() }
}
