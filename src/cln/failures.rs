//! Whose fault it is that a channel was not opened (S4).

use factory_engine::OpenFailure;

use super::client::CallError;

/// lightningd's `FUNDING_PEER_NOT_CONNECTED`: the peer is gone.
const PEER_NOT_CONNECTED: i32 = 305;
/// lightningd's `FUNDING_UNKNOWN_PEER`: the peer isn't even known.
const UNKNOWN_PEER: i32 = 306;
/// lightningd's `FUND_CANNOT_AFFORD`.
pub const CANNOT_AFFORD: i32 = 301;
/// lightningd's codes for what is this node's own doing: besides that one `FUND_OUTPUT_IS_DUST`,
/// `FUNDING_BROADCAST_FAIL`, `FUNDING_STILL_SYNCING_BITCOIN`, `FUNDING_PSBT_INVALID`,
/// `FUND_CANNOT_AFFORD_WITH_EMERGENCY` and `FUND_INPUT_IS_ZERO`.
const OWN_FAILURES: [i32; 7] = [CANNOT_AFFORD, 302, 303, 304, 309, 313, 314];
/// How what it says begins where it has no code of its own for that.
const OWN_WORDS: [&str; 6] = [
    "Cannot estimate fees",
    "Feerate for ",
    "Already funding channel",
    "Key generation failure",
    "cannot reach lightningd",
    "too many calls at once",
];

/// What lightningd says when a connection ends under an open: at once, before it tells of the disconnect;
/// and afterwards, to whoever goes on with the open. And what is this node's own doing.
pub fn open_failure(error: CallError) -> OpenFailure {
    let texts = ["openingd died", "No channel funding in progress"];
    let lost = matches!(error.code, Some(PEER_NOT_CONNECTED | UNKNOWN_PEER))
        || texts.iter().any(|text| error.message.contains(text));
    let own = error.code.is_some_and(|code| OWN_FAILURES.contains(&code))
        || OWN_WORDS.iter().any(|words| error.message.starts_with(words));
    match (lost, own) {
        (true, _) => OpenFailure::Disconnected(error.to_string()),
        (false, true) => OpenFailure::Own(error.to_string()),
        (false, false) => OpenFailure::Refused(error.to_string()),
    }
}

/// The same of `fundchannel`, most of which isn't about the peer: it connects, chooses coins, signs and broadcasts.
pub fn fund_failure(error: CallError) -> OpenFailure {
    let asked_peer = error
        .part
        .as_ref()
        .is_some_and(|part| part.starts_with("fundchannel_") || part.starts_with("openchannel_"));
    match open_failure(error) {
        OpenFailure::Refused(text) if !asked_peer => OpenFailure::Own(text),
        failure @ (OpenFailure::Refused(_) | OpenFailure::Own(_) | OpenFailure::Disconnected(_)) => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Option<i32>, message: &str, part: Option<&str>) -> CallError {
        CallError { code, part: part.map(str::to_owned), ..CallError::new("fundchannel", message) }
    }

    // S4: the peer is to blame for what the peer has said, and for nothing else.
    #[test]
    fn whose_fault_it_is_that_there_is_no_channel() {
        let own = |failure| matches!(failure, OpenFailure::Own(_));
        let refused = |failure| matches!(failure, OpenFailure::Refused(_));
        let lost = |failure| matches!(failure, OpenFailure::Disconnected(_));
        let said = "They sent ERROR channel 00: Cannot estimate fees";
        let start = Some("fundchannel_start");
        assert!(refused(open_failure(error(Some(-1), said, None))));
        assert!(refused(open_failure(error(None, "no answer within 60 s", None))));
        assert!(refused(fund_failure(error(Some(-1), said, start))));
        assert!(refused(fund_failure(error(
            Some(-1),
            "channel_reserve too high",
            Some("fundchannel_complete")
        ))));
        assert!(lost(fund_failure(error(Some(305), "Peer not connected", start))));
        assert!(lost(fund_failure(error(Some(-1), "Owning subdaemon openingd died (9)", start))));
        for (code, message) in [
            (Some(301), "Could not afford 50000sat"),
            (Some(313), "We would not have enough left for min-emergency-msat"),
            (Some(-1), "Cannot estimate fees"),
            (None, "cannot reach lightningd: gone"),
        ] {
            assert!(own(open_failure(error(code, message, None))), "{message}");
            assert!(own(fund_failure(error(code, message, start))), "{message}");
        }
        // Before or after the peer was asked.
        assert!(own(fund_failure(error(Some(-1), "Error broadcasting transaction: no", None))));
        assert!(own(fund_failure(error(Some(401), "Unable to connect", Some("connect")))));
    }
}
