//! When clients are connected.

use crate::fault::Dice;

/// How often a client is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Habit {
    /// Always.
    Always,
    /// For an hour in the morning and two in the evening, at hours of its own.
    TwiceADay,
    /// For three hours, after a time that is a week on average (exponentially distributed).
    Weekly,
    /// For eight hours, after a month on average.
    Monthly,
}

impl Habit {
    /// Each with its share, in hundredths.
    pub const SHARES: [(Self, usize); 4] =
        [(Self::Always, 60), (Self::TwiceADay, 30), (Self::Weekly, 8), (Self::Monthly, 2)];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always there",
            Self::TwiceADay => "twice a day",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    fn drawn(dice: &mut Dice) -> Self {
        let mut place = dice.below(100);
        for (habit, share) in Self::SHARES {
            if place < share {
                return habit;
            }
            place = place.saturating_sub(share);
        }
        Self::Always
    }
}

/// One client's comings and goings; an hour is a block.
#[derive(Debug, Clone)]
pub struct Person {
    /// How often it is there.
    pub habit: Habit,
    dice: Dice,
    /// Hour of the morning, of the evening.
    hours: (u32, u32),
    /// From which hour, until which hour it is there next.
    next: (u32, u32),
}

impl Person {
    /// A client whose habit is drawn.
    pub fn new(seed: u64, number: usize) -> Self {
        let place = u64::try_from(number).unwrap_or(0).wrapping_add(1 << 40);
        let mut dice = Dice::new(seed, place);
        let habit = Habit::drawn(&mut dice);
        let hours = (6 + dice.below_u32(4), 18 + dice.below_u32(4));
        let mut person = Self { habit, dice, hours, next: (0, 0) };
        person.draw(0);
        person
    }

    fn draw(&mut self, now: u32) {
        let (days, stays) = match self.habit {
            Habit::Weekly => (7.0, 3),
            Habit::Monthly => (30.0, 8),
            Habit::Always | Habit::TwiceADay => return,
        };
        let part = (f64::from(self.dice.below_u32(1_000_000)) + 1.0) / 1_000_001.0;
        let hours = -part.ln() * days * 24.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand hours")]
        let from = now.saturating_add(hours as u32);
        self.next = (from, from.saturating_add(stays));
    }

    /// Whether it is there in an hour; hours come in order.
    pub fn is_there(&mut self, hour: u32) -> bool {
        let of_day = hour % 24;
        match self.habit {
            Habit::Always => true,
            Habit::TwiceADay => {
                of_day == self.hours.0 || (self.hours.1..self.hours.1.saturating_add(2)).contains(&of_day)
            }
            Habit::Weekly | Habit::Monthly => {
                if hour >= self.next.1 {
                    self.draw(hour);
                }
                hour >= self.next.0
            }
        }
    }
}
