//! What people read of the engine's reasons: they say what is wrong, and here is added what to do about it,
//! with the names of commands and options.

use factory_engine::admission::hold::Full;
use factory_engine::tx::sale::{SaleError, SaleLimits};
use factory_engine::types::Height;
use factory_engine::{CannotClose, CannotMove, Level, NextAction, NotCooperative, Phase, Refusal, TOLD_TO};

/// What to do about a factory whose records are not understood.
pub const MEND: &str = "Start the version of the plugin that wrote them, or put the record back from a backup of \
                        the datastore (its key is cln-factory/factory/<factory_instance>/<record>); or leave the \
                        factory: factory-exit publishes what can be read. Until then no HTLC moves on its channels";

/// Why a command was not carried out, and what to do.
pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NamedTwice(_) => format!("{refusal}: name each client once"),
        Refusal::NotConnected(_) => format!("{refusal}: connect to it; it has to run this plugin, too"),
        Refusal::LifetimeTooShort { .. } => format!("{refusal}; make it longer, or dying_blocks shorter"),
        Refusal::NoTimeToEvict { stock_csv, .. } => {
            format!("{refusal}; make it longer, or factory-stock-csv (now {stock_csv}) shorter")
        }
        Refusal::Unknown(_) => format!("{refusal}: see factory-list and factory-invitations"),
        Refusal::Deleted(_) => {
            format!(
                "{refusal} (factory-keep-finished-blocks); lightningd's own accounts stay (bkpr-listincome)"
            )
        }
        Refusal::OwnFactory(_) | Refusal::NotAnInvitation { .. } => format!("{refusal}: see factory-list"),
        Refusal::TermsChanged { .. } => {
            format!("{refusal}: read factory-invitations again, and accept what it shows")
        }
        Refusal::OutOfBounds(bound) => match bound.setting() {
            Some(setting) => format!("{refusal}: nothing was accepted; the option is factory-{setting}"),
            None => format!("{refusal}: nothing was accepted; try again when fees have fallen"),
        },
        Refusal::OperatorAway(_) => format!("{refusal}: connect to it, and try again"),
        Refusal::NothingOnChain { .. } => format!("{refusal}: see next_action of factory-list"),
        Refusal::CannotLeave { .. } => {
            format!("{refusal}; factory-exit needs nobody")
        }
        Refusal::LeavesAlready(_) => format!("{refusal}: factory-status says how far it is"),
        Refusal::CannotComeOn { .. } => format!("{refusal}: see listpeerchannels"),
        Refusal::HasLeft(_) => {
            format!("{refusal}: its money is in the channel that it has moved to (listpeerchannels)")
        }
        Refusal::NoPrices => format!("{refusal}: set it again with factory-price"),
        Refusal::AllGoneOver(_) | Refusal::GoneOver(_) => {
            format!("{refusal}: the operator's own key takes it, by itself (factory-show)")
        }
        Refusal::OperatorEvicts => format!("{refusal}: to leave this factory use factory-exit"),
        Refusal::NoSuchClient { .. } => format!("{refusal}: see factory-show"),
        Refusal::IsOut(_) => format!("{refusal}: leave it out of clients"),
        Refusal::OperatorSells => format!("{refusal}, with factory-buy on their nodes"),
        Refusal::NoStock => {
            format!("{refusal}: have an ordinary channel opened, or wait for a factory with stock_sat")
        }
        Refusal::NotCooperative(why) => not_cooperative(why),
        Refusal::Amount(why) => amount(why),
        Refusal::Move(why) => cannot_move(why),
        Refusal::Close(why) => close(why),
        Refusal::Closing(_) => format!("{refusal}; factory-status says how far it is"),
        Refusal::Damaged { .. } => format!("{refusal}. {MEND}"),
        Refusal::NotStored(_) | Refusal::NotRead(_) => {
            format!("{refusal}; nothing has changed: see lightningd's log and its disk, and try again")
        }
        Refusal::Stale(_) => format!("{refusal}; nothing has changed: try again"),
        Refusal::ReadOnly(_) => {
            format!("{refusal}; nothing is done until that is mended: see factory-status")
        }
        Refusal::Stopping => "the plugin is shutting down: try again once lightningd is back".to_owned(),
        // These say it all.
        Refusal::NoClients
        | Refusal::ThisNode(_)
        | Refusal::Terms(_)
        | Refusal::NoShape(_)
        | Refusal::NoChannelToExit { .. }
        | Refusal::Reason { .. }
        | Refusal::SaleUnderWay
        | Refusal::PaymentUnderWay
        | Refusal::ChannelsLost { .. } => refusal.to_string(),
    }
}

/// Why nothing is signed for a client's sub-factory, and what to do.
fn not_cooperative(why: &NotCooperative) -> String {
    match why {
        NotCooperative::Damaged(_) => format!("{why}. {MEND}"),
        NotCooperative::Restored(_) => format!("{why}: it can only be left (factory-exit, docs/recovery.md)"),
        NotCooperative::Leaving | NotCooperative::HandedOver | NotCooperative::OnChain => {
            format!("{why}: have an ordinary channel opened, or buy in the next factory")
        }
        NotCooperative::State(_) | NotCooperative::Channel(_) => {
            format!("{why}: see next_action of factory-list")
        }
    }
}

/// Why so much can't be bought, and what to do.
fn amount(why: &SaleError) -> String {
    match why {
        SaleError::NoStock
        | SaleError::Gone
        | SaleError::Amount { limits: SaleLimits { everything: None, .. }, .. } => {
            format!("{why}: have an ordinary channel opened, or buy in the next factory")
        }
        // It says what can be asked for.
        SaleError::Amount { .. } => why.to_string(),
        SaleError::NotAMember(_) | SaleError::Tree(_) => format!("{why}: please report it as a bug"),
    }
}

/// Why a balance can't go from one channel to another, and what to do.
fn cannot_move(why: &CannotMove) -> String {
    match why {
        CannotMove::SameChannel(_) => format!("{why}: name two"),
        CannotMove::NoSuchChannel(_) | CannotMove::TwoPeers { .. } => format!("{why}: see listpeerchannels"),
        CannotMove::NoOperator(_) => format!("{why}: see lsp in factory-list"),
        CannotMove::NotLive(_) => format!("{why}: see its state in listpeerchannels"),
        CannotMove::Unconfirmed(_) => format!("{why}: try again once it is"),
        CannotMove::TooYoung { .. } => format!("{why}; try again then"),
        CannotMove::Unusable(..) => format!("{why}: see next_action of factory-list"),
        CannotMove::HandedOver(_) => format!("{why}: see listpeerchannels for where its money went"),
        CannotMove::UnderWay { .. } => format!("{why}: try again once it is done"),
        CannotMove::Nothing { .. } => format!("{why}: name another channel as from"),
        CannotMove::Full { .. } => {
            format!("{why}: name another channel as to, or make room with factory-buy")
        }
        CannotMove::TooMuch { .. } => format!("{why}; leave amount_msat out for all that can go"),
        CannotMove::TooLittle { .. } => format!("{why}: ask for more"),
        CannotMove::TooLate { .. } => format!("{why}: to leave this factory use factory-exit"),
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
        CannotClose::State(_) => format!("{why}: see next_action of factory-list"),
        CannotClose::Restored(_) | CannotClose::Outputs(_) => format!("{why}: use factory-evict"),
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
