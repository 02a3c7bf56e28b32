//! Time and randomness: the only places that ask the operating system for either.

use std::time::{SystemTime, UNIX_EPOCH};

use factory_engine::Entropy;
use factory_engine::types::Millis;

/// Milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods)] // The one place.
pub fn now() -> Millis {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// Randomness from the operating system's generator (getrandom).
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[allow(clippy::disallowed_methods)] // The one place.
    fn bytes32(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's randomness")]
        if let Err(error) = getrandom::fill(&mut bytes) {
            // A predictable nonce gives a key away. There is nothing to go on with.
            log::error!("the operating system gives no randomness: {error}");
            std::process::abort();
        }
        bytes
    }
}
