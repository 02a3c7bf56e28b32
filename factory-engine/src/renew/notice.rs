//! A renewal that isn't done is never silent: it says so more and more often, and louder, as its end comes near.

use crate::io::{Effect, Level};
use crate::renew::{Renewal, Stage};
use crate::step::builder::StepBuilder;
use crate::types::Height;

/// From here on at every block.
const LAST_BLOCKS: u32 = 6;
/// Blocks of a day.
const DAY: u32 = 144;

/// How loud a renewal is at a height; nothing at most heights. The time that is left is halved again and again; in
/// the first half nothing is unusual.
pub(crate) fn loudness(due: Height, by: Height, height: Height) -> Option<Level> {
    let all = by.saturating_sub(due);
    let left = by.saturating_sub(height);
    let halved = (0..u32::BITS).any(|times| all >> times == left);
    if left > LAST_BLOCKS && !halved {
        return None;
    }
    Some(urgency(due, by, height))
}

/// How much it matters at a height that it isn't done.
fn urgency(due: Height, by: Height, height: Height) -> Level {
    match by.saturating_sub(height) {
        left if left > by.saturating_sub(due) / 2 => Level::Info,
        left if left > LAST_BLOCKS => Level::Unusual,
        _ => Level::Broken,
    }
}

/// Whether an operator that is away is looked for at this height: at each block at first and near the end, and less
/// and less often in between.
pub(crate) fn looks_for_it(due: Height, by: Height, height: Height) -> bool {
    let (waited, left) = (height.saturating_sub(due), by.saturating_sub(height));
    let pause = if left <= DAY { 1 } else { (waited / LAST_BLOCKS).clamp(1, LAST_BLOCKS) };
    waited.is_multiple_of(pause)
}

impl Renewal {
    /// How much it matters that it isn't done: more and more as its end comes near.
    pub fn urgency(&self, height: Height) -> Level {
        match self.stage {
            // Nothing can be lost any more.
            Stage::Acknowledgement | Stage::Done => Level::Info,
            Stage::Invitation
            | Stage::Answer { .. }
            | Stage::Creation { .. }
            | Stage::Depth { .. }
            | Stage::Move { .. }
            | Stage::HandOver { .. } => urgency(self.due, self.by, height),
        }
    }

    /// What a person can do about it.
    pub fn advice(&self) -> &'static str {
        match (&self.stage, self.connected) {
            (Stage::Done, _) | (Stage::Acknowledgement, true) => {
                "nothing: this node's money is in its new channel"
            }
            (Stage::Answer { .. }, true) => "read factory-invitations and use factory-accept",
            (_, false) => "its operator is not connected: this node tries again at each block",
            (Stage::Invitation | Stage::Creation { .. }, true) => {
                "keep the node online; ask the operator if it stays like that"
            }
            (Stage::Depth { .. }, true) => "keep the node online",
            (Stage::Move { .. } | Stage::HandOver { .. }, true) => {
                "keep the node online; factory-status says what is in the way"
            }
        }
    }
}

/// Says it, if its time has come.
pub(crate) fn tell(step: &mut StepBuilder<'_>, renewal: &Renewal) {
    if loudness(renewal.due, renewal.by, step.height).is_none() {
        return;
    }
    let level = renewal.urgency(step.height);
    let (instance, by) = (renewal.instance, renewal.by);
    let blocks_left = by.saturating_sub(step.height);
    let waits_for = format!("{}; {}", renewal.stage, renewal.advice());
    let failed = renewal.failed.as_ref().map(|last| format!("at height {}: {}", last.height, last.what));
    let times = renewal.failures.len();
    let last = match &failed {
        Some(failed) if times > 1 => format!("; it has failed at least {times} times, last {failed}"),
        Some(failed) => format!("; last failure {failed}"),
        None => String::new(),
    };
    let text = format!(
        "{instance}: not renewed, {blocks_left} blocks (about {} days) before height {by}, else {}: \
         {waits_for}{last}",
        blocks_left / DAY,
        renewal.otherwise()
    );
    // lightningd's BROKEN is for what can't be: an operator that is away can.
    step.log(level.min(Level::Unusual), text);
    step.effect(Effect::RenewalDue { instance, by, blocks_left, level, waits_for, failed });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heights at which something is said, with how loud it is.
    #[test]
    fn it_grows_louder_and_comes_more_often() {
        let all: Vec<(Height, Level)> =
            (1_000..=1_433).filter_map(|height| Some((height, loudness(1_000, 1_432, height)?))).collect();
        let heights: Vec<Height> = all.iter().map(|(height, _)| *height).collect();
        assert_eq!(
            heights,
            [1000, 1216, 1324, 1378, 1405, 1419, 1426, 1427, 1428, 1429, 1430, 1431, 1432, 1433]
        );
        assert_eq!(all.first().map(|(_, level)| *level), Some(Level::Info));
        assert!(all.iter().skip(1).take(5).all(|(_, level)| *level == Level::Unusual));
        assert!(all.iter().skip(6).all(|(_, level)| *level == Level::Broken), "{all:?}");
    }

    #[test]
    fn it_looks_for_its_operator_less_often_in_between() {
        let tries =
            |from: Height, to: Height| (from..to).filter(|at| looks_for_it(1_000, 1_432, *at)).count();
        assert_eq!((tries(1_000, 1_006), tries(1_288, 1_432)), (6, 144));
        assert!((20..100).contains(&tries(1_006, 1_288)), "{}", tries(1_006, 1_288));
    }
}
