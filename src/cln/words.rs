//! What people read of the engine's reasons: they say what is wrong, and here is added what to do about it,
//! with the names of commands and options.

use factory_engine::admission::hold::Full;
use factory_engine::types::Height;
use factory_engine::{CannotClose, Level, NextAction, Phase, Refusal, TOLD_TO};

/// What to do about a factory whose records are not understood.
pub const MEND: &str = "Start the version of the plugin that wrote them, or put the record back from a backup of \
                        the datastore (its key is cln-factory/factory/<factory_instance>/<record>); or leave the \
                        factory: factory-exit publishes what can be read. Until then no HTLC moves on its channels";

/// Why a command was not carried out, and what to do.
pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotConnected(_) => format!("{refusal}: connect to it; it has to run this plugin, too"),
        Refusal::NoTimeToEvict { stock_csv, .. } => {
            format!("{refusal}; make it longer, or factory-stock-csv (now {stock_csv}) shorter")
        }
        Refusal::Unknown(_) => format!("{refusal}: see factory-list and factory-invitations"),
        Refusal::Deleted(_) => format!("{refusal} (factory-keep-finished-blocks)"),
        Refusal::NotAnInvitation { .. } => format!("{refusal}: see factory-list"),
        Refusal::TermsChanged { .. } => {
            format!("{refusal}: read factory-invitations again, and accept what it shows")
        }
        Refusal::OutOfBounds(bound) => match bound.setting() {
            Some(setting) => format!("{refusal}: nothing was accepted; the option is factory-{setting}"),
            None => format!("{refusal}: nothing was accepted"),
        },
        Refusal::CannotLeave { .. } => {
            format!("{refusal}; factory-exit needs nobody")
        }
        Refusal::LeavesAlready(_) => format!("{refusal}: factory-status says how far it is"),
        Refusal::CannotComeOn { .. } => format!("{refusal}: see listpeerchannels"),
        Refusal::HasLeft(_) => format!("{refusal}: its money is in the channel that it has moved to"),
        Refusal::NoPrices => format!("{refusal}: set it again with factory-price"),
        Refusal::AllGoneOver(_) | Refusal::GoneOver(_) => {
            format!("{refusal}: the operator's own key takes it, by itself (factory-show)")
        }
        Refusal::OperatorEvicts => format!("{refusal}: to leave this factory use factory-exit"),
        Refusal::NoSuchClient { .. } => format!("{refusal}: see factory-show"),
        Refusal::Close(why) => close(why),
        Refusal::Damaged { .. } => format!("{refusal}. {MEND}"),
        Refusal::Stopping => "the plugin is shutting down".to_owned(),
        // These say it all.
        Refusal::NoClients
        | Refusal::ThisNode(_)
        | Refusal::NamedTwice(_)
        | Refusal::Terms(_)
        | Refusal::NoShape(_)
        | Refusal::LifetimeTooShort { .. }
        | Refusal::OwnFactory(_)
        | Refusal::OperatorAway(_)
        | Refusal::NothingOnChain { .. }
        | Refusal::NoChannelToExit { .. }
        | Refusal::IsOut(_)
        | Refusal::OperatorSells
        | Refusal::NoStock
        | Refusal::Reason { .. }
        | Refusal::NotCooperative(_)
        | Refusal::SaleUnderWay
        | Refusal::PaymentUnderWay
        | Refusal::Amount(_)
        | Refusal::Move(_)
        | Refusal::Closing(_)
        | Refusal::NotStored(_)
        | Refusal::NotRead(_)
        | Refusal::ChannelsLost { .. }
        | Refusal::Stale(_)
        | Refusal::ReadOnly(_) => refusal.to_string(),
    }
}

/// Why a factory can't be closed by all together, and what to do.
fn close(why: &CannotClose) -> String {
    match why {
        CannotClose::Client => format!("{why}: to leave it alone use factory-exit"),
        CannotClose::Leaving => format!("{why}: factory-evict takes the others there"),
        CannotClose::AllHandedOver => format!("{why}, by itself (factory-show)"),
        CannotClose::Sale | CannotClose::Move(_) | CannotClose::Htlc(_) => {
            format!("{why}: try again once it is done")
        }
        CannotClose::UnderWay => format!("{why}: see factory-status"),
        CannotClose::GivenUp(_) => format!("{why}: use factory-evict"),
        CannotClose::Away(_) => format!("{why}: try again when they are, or evict them (factory-evict)"),
        CannotClose::NotLive(_) => {
            format!("{why}: see listpeerchannels; or evict its client (factory-evict)")
        }
        CannotClose::Restored(_) | CannotClose::State(_) | CannotClose::Outputs(_) => why.to_string(),
    }
}

/// What happens next in a factory.
pub fn next_action(action: NextAction, height: Height) -> String {
    match action {
        NextAction::Answer => format!("{action}: factory-accept, factory-decline"),
        NextAction::MoveOut { before } => {
            format!("move out before height {before}: factory-exit, or let the operator do it")
        }
        // What somebody who counts blocks at bitcoind wonders about.
        NextAction::Fund | NextAction::Deepen { .. } => {
            format!("{action}; this node is at height {height}, and lightningd looks for blocks every 30 s")
        }
        NextAction::Join
        | NextAction::Sign
        | NextAction::Store
        | NextAction::Open
        | NextAction::Evict { .. }
        | NextAction::Reclaim { .. }
        | NextAction::PublishRest
        | NextAction::GoOn
        | NextAction::Wait { .. }
        | NextAction::Distribute
        | NextAction::PublishPath
        | NextAction::TakeStock { .. }
        | NextAction::Close
        | NextAction::CloseSome { .. }
        | NextAction::Forgotten { .. }
        | NextAction::Stands
        | NextAction::PaidOut
        | NextAction::Reclaimed
        | NextAction::Closing
        | NextAction::FinishClose { .. }
        | NextAction::Acknowledge
        | NextAction::Left
        | NextAction::Settled
        | NextAction::Declined
        | NextAction::Failed => action.to_string(),
    }
}

/// lightningd's name of a level.
pub fn level(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Unusual => "unusual",
        Level::Broken => "broken",
    }
}

/// Why an exit or an eviction has begun: the command, if it was one.
pub fn why_begun<'a>(reason: &'a str, command: &'a str) -> &'a str {
    if reason == TOLD_TO { command } else { reason }
}

/// Why an HTLC isn't held.
pub fn full(full: Full) -> String {
    match full {
        Full::Number(_) => format!("{full} (factory-hold-max)"),
        Full::Amount(_) => format!("{full} (factory-hold-max-msat)"),
        Full::Late(_) => full.to_string(),
    }
}

/// Why a purchase came to nothing. `waited` is whether it had to wait for somebody, `jit` whether this node
/// takes an ordinary channel instead.
pub fn not_sold(reason: &str, waited: bool, jit: bool) -> String {
    if waited && !jit { format!("{reason} (factory-jit is off here)") } else { reason.to_owned() }
}

/// What an operator's attempt waits for, as `factory-status` calls it.
pub fn waits_for(phase: Phase) -> &'static str {
    match phase {
        Phase::Inviting => "invitations",
        Phase::Opening => "channel_opens",
        Phase::Signing => "signatures",
        Phase::Storing => "storing",
        Phase::Completing => "channel_checks",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_engine::types::InstanceId;

    #[test]
    fn what_to_do_comes_with_the_names_of_commands_and_options() {
        let unknown = Refusal::Unknown(InstanceId([1; 32]));
        let early = Refusal::NoTimeToEvict { lifetime_blocks: 9, needed: 10, stock_csv: 144 };
        let all = [
            (unknown, "factory-invitations"),
            (early, "factory-stock-csv (now 144)"),
            (Refusal::OperatorEvicts, "factory-exit"),
        ];
        for (why, name) in all {
            let (text, bare) = (refusal(&why), why.to_string());
            assert!(text.starts_with(&bare) && text.contains(name), "{text}");
            assert!(!bare.contains("factory-"), "{bare}");
        }
    }

    #[test]
    fn commands_are_named_as_people_type_them() {
        assert!(next_action(NextAction::Answer, 5).contains("factory-accept"));
        assert!(next_action(NextAction::MoveOut { before: 7 }, 5).contains("7: factory-exit"));
        assert_eq!(next_action(NextAction::Declined, 5), "nothing");
        let young = next_action(NextAction::Deepen { usable: 7 }, 5);
        assert!(young.contains("usable at height 7; this node is at height 5"), "{young}");
        assert_eq!(why_begun(TOLD_TO, "factory-exit"), "factory-exit");
        assert_eq!(why_begun("its buyer leaves", "factory-exit"), "its buyer leaves");
        assert!(full(Full::Number(2)).ends_with("2 HTLCs are held already (factory-hold-max)"));
        assert!(full(Full::Amount(2)).contains("factory-hold-max-msat"));
        assert!(!full(Full::Late(2)).contains("factory-"));
    }

    #[test]
    fn the_option_is_named_where_it_would_have_helped() {
        assert!(not_sold("nobody is here", true, false).contains("factory-jit"));
        for (waited, jit) in [(true, true), (false, true), (false, false)] {
            assert_eq!(not_sold("the operator went silent", waited, jit), "the operator went silent");
        }
    }
}
