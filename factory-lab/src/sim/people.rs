//! Who is not what it should be: liars, the silent, an operator that goes away.

use factory_engine::record::event::Event;

use crate::fault::{Dice, Kind};
use crate::world::LSP;
use crate::world::chaos::Commit;
use crate::world::chaos::lie::Lie;

use super::parts::{Damage, Restore};
use super::run::Run;

/// What an operator may do when it does not lie alone.
const LSP_LIES: [Kind; 9] = [
    Kind::OtherSale,
    Kind::ForeignScript,
    Kind::SiblingScript,
    Kind::ForeignKey,
    Kind::OtherTree,
    Kind::SameFunding,
    Kind::OldFunding,
    Kind::DoubleSpend,
    Kind::Replay,
];
/// What a client may do then.
const CLIENT_LIES: [Kind; 5] =
    [Kind::BadNonce, Kind::BadSignature, Kind::Transcript, Kind::Replay, Kind::FalseBlame];

/// Events that only an operator stores.
const LSP_EVENTS: [&str; 14] = [
    "created",
    "attempt_started",
    "all_stored",
    "channel_committed",
    "funding_released",
    "funding_reserved",
    "eviction_started",
    "stock_payout",
    "sale_opening",
    "sale_dropped",
    "sale_stored",
    "sale_jit",
    "sale_jit_failed",
    "sale_void",
];
/// Events that only a client stores.
const CLIENT_EVENTS: [&str; 8] = [
    "invited",
    "accepted",
    "declined",
    "open_accepted",
    "sale_open_accepted",
    "restored",
    "sale_void",
    "sale_jit_agreed",
];
/// What an operator says, from which on it may be silent.
const LSP_SAYS: [&str; 12] = [
    "invite",
    "expect_channel",
    "propose",
    "ready",
    "channel_committed",
    "sale_offer",
    "sale_committed",
    "sale_propose",
    "sale_ready",
    "sale_invoice",
    "jit_offer",
    "jit_opened",
];
/// Messages that a client sends: it may fall silent from one of them on.
const CLIENT_SAYS: [&str; 10] = [
    "join",
    "expecting",
    "partial_signatures",
    "stored",
    "channel_checked",
    "sale_join",
    "sale_checked",
    "sale_partial_signatures",
    "sale_stored",
    "jit_accept",
];

impl Run {
    /// Who lies, who falls silent, who is gone for good.
    pub(super) fn choose_people(&mut self, clients: usize) {
        for kind in Kind::ALL {
            let lsp_only = match kind {
                Kind::BadNonce | Kind::Transcript | Kind::Withhold | Kind::Strangers => false,
                Kind::BadSignature | Kind::Replay | Kind::FalseBlame | Kind::Silence => self.dice.one_in(3),
                Kind::LspGone
                | Kind::CrashAt
                | Kind::Restore
                | Kind::Damage
                | Kind::Collusion
                | Kind::StockTaken
                | Kind::ForeignScript
                | Kind::SiblingScript
                | Kind::ForeignKey
                | Kind::OtherTree
                | Kind::WrongAmounts
                | Kind::OtherSale
                | Kind::SameFunding
                | Kind::OldFunding
                | Kind::DoubleSpend => true,
                _ => continue,
            };
            let client = self.dice.below(clients).saturating_add(1);
            let at = if lsp_only { LSP } else { client };
            let Some(mut dice) = self.roll(*kind, || format!("member {at}, client {client}")) else {
                continue;
            };
            match kind {
                Kind::StockTaken => self.takes_stock = true,
                Kind::Strangers => self.strangers = Some(client),
                Kind::Restore => {
                    let who = dice.below(clients.saturating_add(1));
                    self.restores.push(Restore::new(who, &mut dice));
                    if who != LSP && dice.one_in(2) {
                        self.restores.push(Restore::new(LSP, &mut dice));
                    }
                }
                Kind::Damage => {
                    let who = dice.below(clients.saturating_add(1));
                    self.damages.push(Damage::new(who, dice));
                }
                Kind::Collusion => {
                    let first = LSP_LIES[dice.below(LSP_LIES.len())];
                    let second = CLIENT_LIES[dice.below(CLIENT_LIES.len())];
                    // The victim of the operator's lie is often another client.
                    let victim = dice.below(clients).saturating_add(1);
                    self.lie(LSP, first, victim, &mut dice);
                    self.lie(client, second, victim, &mut dice);
                }
                Kind::LspGone => self.dies_at = Some(dice.next_number() % 500),
                Kind::CrashAt => {
                    let lsp = dice.one_in(2);
                    let who = if lsp { LSP } else { client };
                    let events: Vec<&'static str> = Event::NAMES
                        .iter()
                        .copied()
                        .filter(|name| !(if lsp { &CLIENT_EVENTS[..] } else { &LSP_EVENTS }).contains(name))
                        .collect();
                    let event = events[dice.below(events.len())];
                    let what = [Commit::CrashBefore, Commit::CrashAfter, Commit::Fails][dice.below(3)];
                    if let Some(chaos) = &mut self.world.chaos {
                        chaos.planned = Some((who, event, what));
                    }
                }
                Kind::Silence => {
                    let names = if at == LSP { &LSP_SAYS[..] } else { &CLIENT_SAYS };
                    let name = names[dice.below(names.len())];
                    if let Some(chaos) = &mut self.world.chaos {
                        chaos.silent.insert(at, name);
                    }
                }
                kind => self.lie(at, *kind, client, &mut dice),
            }
        }
    }

    fn lie(&mut self, at: usize, kind: Kind, to: usize, dice: &mut Dice) {
        if kind == Kind::ForeignScript {
            let script = self.world.members[LSP].lightningd.new_script().to_p2wsh();
            self.world.foreign_scripts.insert(to, script);
        }
        if matches!(kind, Kind::OldFunding | Kind::DoubleSpend) {
            self.acts_at = Some((kind, 100 + dice.next_number() % 300));
        }
        if let Some(chaos) = &mut self.world.chaos {
            chaos.lies.push(Lie::new(at, kind, to, dice.clone()));
        }
    }

    /// A dishonest operator's doings on the chain; true once it has done it.
    pub(super) fn act(&mut self, kind: Kind) -> bool {
        let Some(chaos) = &self.world.chaos else { return true };
        let Some(tx) = chaos.fundings.first().cloned() else { return false };
        match kind {
            Kind::OldFunding => {
                let lightningd = &self.world.members[LSP].lightningd;
                // The chain may not take it: then it has done what it could.
                let _ = lightningd.send_funding(&mut self.world.chain, tx, &[]);
            }
            _ => {
                if let Some(input) = tx.input.first() {
                    // As above: where its own funding is in the mempool it can't any more.
                    let _ = self.world.spend(LSP, input.previous_output);
                }
            }
        }
        true
    }
}
