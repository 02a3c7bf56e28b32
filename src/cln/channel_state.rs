//! lightningd's states of a channel, and what they mean for a factory (S34).

use std::str::FromStr;

use factory_engine::Ended;
use factory_engine::types::ChannelId;
use serde_json::Value;

macro_rules! states {
    ($($state:ident $name:literal $ended:expr;)*) => {
        /// A state of lightningd's, under its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ChannelState {
            $(#[doc = $name] $state,)*
        }

        impl ChannelState {
            /// Its name in lightningd.
            pub fn name(self) -> &'static str {
                match self { $(Self::$state => $name,)* }
            }

            /// How a channel in this state has ended, or is about to; nothing while it is opened or used.
            pub fn ended(self) -> Option<Ended> {
                match self { $(Self::$state => $ended,)* }
            }
        }

        impl FromStr for ChannelState {
            type Err = UnknownState;

            fn from_str(text: &str) -> Result<Self, UnknownState> {
                match text {
                    $($name => Ok(Self::$state),)*
                    _ => Err(UnknownState),
                }
            }
        }
    };
}

impl ChannelState {
    /// Whether the peers still settle HTLCs between them; otherwise the chain does.
    pub fn settles_off_chain(self) -> bool {
        match self.ended() {
            None | Some(Ended::Closing | Ended::Spliced) => true,
            Some(Ended::Failed | Ended::OnChain | Ended::Forgotten) => false,
        }
    }
}

states! {
    DualopendOpenInit "DUALOPEND_OPEN_INIT" None;
    DualopendOpenCommitReady "DUALOPEND_OPEN_COMMIT_READY" None;
    DualopendOpenCommitted "DUALOPEND_OPEN_COMMITTED" None;
    DualopendAwaitingLockin "DUALOPEND_AWAITING_LOCKIN" None;
    AwaitingLockin "CHANNELD_AWAITING_LOCKIN" None;
    Normal "CHANNELD_NORMAL" None;
    AwaitingSplice "CHANNELD_AWAITING_SPLICE" Some(Ended::Spliced);
    ShuttingDown "CHANNELD_SHUTTING_DOWN" Some(Ended::Closing);
    ClosingSigexchange "CLOSINGD_SIGEXCHANGE" Some(Ended::Closing);
    ClosingComplete "CLOSINGD_COMPLETE" Some(Ended::Closing);
    AwaitingUnilateral "AWAITING_UNILATERAL" Some(Ended::Failed);
    FundingSpendSeen "FUNDING_SPEND_SEEN" Some(Ended::OnChain);
    Onchain "ONCHAIN" Some(Ended::OnChain);
    Closed "CLOSED" Some(Ended::Forgotten);
}

/// Of `listpeerchannels`: channels that both sides have closed while nothing of them is on chain. lightningd keeps them
/// for ever.
pub fn kept_for_ever(channels: &[Value]) -> Vec<ChannelId> {
    let kept = channels.iter().filter(|channel| {
        channel["state"] == ChannelState::ClosingComplete.name() && channel.get("short_channel_id").is_none()
    });
    kept.filter_map(|channel| channel["channel_id"].as_str()?.parse().ok()).collect()
}

/// The text names no state that this plugin knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownState;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_kept_for_ever() {
        let channel =
            |of: u8, state: &str| json!({"channel_id": ChannelId([of; 32]).to_string(), "state": state});
        let mut on_chain = channel(3, "CLOSINGD_COMPLETE");
        on_chain["short_channel_id"] = "103x1x0".into();
        let list = [channel(1, "CHANNELD_NORMAL"), channel(2, "CLOSINGD_COMPLETE"), on_chain];
        assert_eq!(kept_for_ever(&list), [ChannelId([2; 32])]);
    }

    // S34
    #[test]
    fn what_a_state_means() {
        let ended = |name: &str| name.parse::<ChannelState>().map(ChannelState::ended);
        assert_eq!(ended("CHANNELD_NORMAL"), Ok(None));
        assert_eq!(ended("CHANNELD_AWAITING_LOCKIN"), Ok(None));
        assert_eq!(ended("CHANNELD_SHUTTING_DOWN"), Ok(Some(Ended::Closing)));
        assert_eq!(ended("CLOSINGD_COMPLETE"), Ok(Some(Ended::Closing)));
        assert_eq!(ended("AWAITING_UNILATERAL"), Ok(Some(Ended::Failed)));
        assert_eq!(ended("CHANNELD_AWAITING_SPLICE"), Ok(Some(Ended::Spliced)));
        assert_eq!(ended("ONCHAIN"), Ok(Some(Ended::OnChain)));
        assert_eq!(ended("CLOSED"), Ok(Some(Ended::Forgotten)));
        assert_eq!(ended("RESTING"), Err(UnknownState));
    }
}
