//! How a channel stopped being one that payments can use: in lightningd, not in the factory (S34).

use std::fmt;

use crate::wire::codec::{Codec, DecodeError, Malformed, Reader};

/// What lightningd has done with a channel, by itself, by its user's command or by its peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// Both sides close it together: what they sign spends the channel's funding output.
    Closing,
    /// One side fails it: a commitment transaction waits for the funding output.
    Failed,
    /// A splice moves it to another funding output, that no transaction of the factory has.
    Spliced,
    /// Its funding output is spent on chain.
    OnChain,
    /// lightningd doesn't have it any more, although nothing of it was settled.
    Forgotten,
}

impl Ended {
    const ALL: [Ended; 5] = [Ended::Closing, Ended::Failed, Ended::Spliced, Ended::OnChain, Ended::Forgotten];

    /// Whether lightningd waits for the funding output: then that has to be on chain. Of what it has
    /// forgotten it claims nothing there, while the distribution pays all of it.
    pub fn needs_path(self) -> bool {
        match self {
            Self::Closing | Self::Failed | Self::Spliced | Self::OnChain => true,
            Self::Forgotten => false,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Closing => 0,
            Self::Failed => 1,
            Self::Spliced => 2,
            Self::OnChain => 3,
            Self::Forgotten => 4,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closing => "lightningd closes it together with its peer",
            Self::Failed => "lightningd has closed it, by one side alone",
            Self::Spliced => "lightningd splices it",
            Self::OnChain => "its funding output is spent on chain",
            Self::Forgotten => "lightningd has forgotten it",
        })
    }
}

impl Codec for Ended {
    fn write(&self, out: &mut Vec<u8>) {
        self.number().write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = u8::read(r)?;
        let known = Self::ALL.into_iter().find(|ended| ended.number() == value);
        known.ok_or_else(|| {
            Malformed::BadValue { value: value.into(), expected: "how a channel ended" }.into()
        })
    }
}
