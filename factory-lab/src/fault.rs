//! What can go wrong, how often, and whether it does: every decision is a numbered point, and what
//! happens there depends on the seed and the number alone.

use std::collections::{BTreeMap, BTreeSet};

macro_rules! kinds {
    ($($kind:ident $name:literal $ppm:literal $what:literal;)*) => {
        /// A kind of fault that the simulator knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $what] $kind,)*
        }

        impl Kind {
            /// Every kind, in the order of the list.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// Its usual rate, in a million chances.
            pub fn usual(self) -> u32 {
                match self { $(Kind::$kind => $ppm,)* }
            }

            /// What happens, and what one chance is.
            pub fn what(self) -> &'static str {
                match self { $(Kind::$kind => $what,)* }
            }
        }
    };
}

kinds! {
    Lose "lose" 1_500 "A message is lost (chance: each message).";
    Delay "delay" 10_000 "A connection stands still for a while, in one direction (each message).";
    Duplicate "duplicate" 6_000 "A message arrives twice (each message).";
    Cut "cut" 1_000 "A connection is cut, and what is under way is lost (each step).";
    CrashBefore "crash-before" 3_000 "A crash right before a step is stored (each commit).";
    CrashAfter "crash-after" 3_000 "A crash right after a step is stored (each commit).";
    CrashBetween "crash-between" 1_000 "A crash between two effects (each effect).";
    CrashAgain "crash-again" 150_000 "Another crash at the first commit after a restart (each restart).";
    CrashAt "crash-at" 150_000 "A crash or a failing store at one member's first commit with some event (each run).";
    CrashRare "crash-rare" 100_000 "A crash or a failing store at a commit of a kind that is rare (each such commit).";
    CrashSeveral "crash-several" 600_000 "The same at a commit of several events that few runs come to (each such commit).";
    StoreFails "store-fails" 2_000 "The store refuses a step (each commit).";
    Restore "restore" 40_000 "A node comes back with an older copy of its database (each run).";
    Damage "damage" 30_000 "A record of a node's comes back as garbage: shorter, changed, or of a later version (each run).";
    LspGone "lsp-gone" 40_000 "The operator is gone for good, from some height on (each run).";
    Withhold "withhold" 60_000 "A client never sends its signatures of sales, or never says that it has stored one (each run).";
    Strangers "strangers" 15_000 "A thousand strangers invite a client (each run).";
    Silence "silence" 30_000 "A member says nothing any more from some message on (each run).";
    ForeignScript "foreign-script" 20_000 "The operator funds another script than a client's channel (each run).";
    SiblingScript "sibling-script" 20_000 "The operator proposes a script that is no channel's for a neighbour (each run).";
    ForeignKey "foreign-key" 20_000 "The operator proposes another key in a client's place (each run).";
    OtherTree "other-tree" 20_000 "The operator shows one client another tree (each run).";
    WrongAmounts "wrong-amounts" 20_000 "The operator changes amounts after they were agreed (each run).";
    OtherSale "other-sale" 40_000 "The operator shows one client another sale than the others, or another price (each run).";
    SameFunding "same-funding" 20_000 "The operator proposes a second tree on an earlier funding (each run).";
    OldFunding "old-funding" 15_000 "The operator broadcasts the funding of an attempt that was given up (each run).";
    DoubleSpend "double-spend" 20_000 "The operator spends its funding's input otherwise (each run).";
    BadNonce "bad-nonce" 20_000 "A client's nonce is none, or not its own (each run).";
    BadSignature "bad-signature" 30_000 "A member's signature is wrong (each run).";
    Replay "replay" 20_000 "A member sends again what it once heard or said (each run).";
    Transcript "transcript" 20_000 "A client signs off on another transcript (each run).";
    FalseBlame "false-blame" 20_000 "A member aborts and blames another one (each run).";
    Collusion "collusion" 15_000 "The operator and a client lie together, in two ways (each run).";
    ThiefTerms "thief-terms" 20_000 "The operator chooses terms under which it could steal, or nobody could leave (each run).";
    AnchorSpent "anchor-spent" 20_000 "A stranger spends an anchor (each block).";
    FundingChild "funding-child" 5_000 "The operator's wallet spends the change of a funding (each block).";
    PaymentStuck "payment-stuck" 150_000 "A payment for liquidity is under way for some blocks (each such payment).";
    OpenFails "open-fails" 100_000 "lightningd can't open an ordinary channel (each such open).";
    CloseAlone "close-alone" 8_000 "lightningd closes a channel, by itself or because its user told it to (each block).";
    StockTaken "stock-taken" 60_000 "The operator takes its stock as soon as it may (each run).";
    Reorg "reorg" 15_000 "Up to 6 blocks leave the chain; transactions wait again (each block).";
    ReorgDrop "reorg-drop" 10_000 "The same, and the mempool is lost (each block).";
    Censor "censor" 20_000 "No miner takes one transaction for up to 3 blocks (each block).";
    FeeSpike "fee-spike" 40_000 "For up to 12 blocks miners take more than the tree pays, sometimes the mempool too (each block).";
    FeeStorm "fee-storm" 4_000 "For 20 blocks the mempool takes nothing under 50 sat/vB, and what miners take rises to twenty times within 12 (each block).";
    Pin "pin" 60_000 "A stranger's large child with a low feerate, or a small one with a high one, is on an anchor (each block).";
    WalletLocked "wallet-locked" 20_000 "A member's wallet can't be used for up to 5 blocks (each block).";
    Held "held" 250_000 "A payment of any size is held for up to 80 blocks, and its preimage perhaps told and not taken (each payment).";
    Dust "dust" 150_000 "It is so small that perhaps no commitment transaction shows it (each payment).";
    Straggler "straggler" 80_000 "A client is away until its factory is about to end, ends, or has ended (each client, of runs that renew).";
    KeyRefused "key-refused" 60_000 "The operator never acknowledges a key, refuses it, or sends one back (each run that renews).";
    KeyKept "key-kept" 60_000 "A client moves and keeps its key, or hands a wrong one over (each run that renews).";
    TreePublished "tree-published" 60_000 "A client publishes its path after it has handed its key over (each run that renews).";
    GoneBetween "gone-between" 40_000 "The operator is gone for good once a balance has moved and no key was handed over (each run that renews).";
    MoveStands "move-stands" 200_000 "The HTLCs of a move stand for a while (each HTLC).";
    NotFree "not-free" 30_000 "The operator's node can't set fees, or says so and doesn't (each run that renews).";
    SlowBlock "slow-block" 20_000 "The next block takes hours (each block).";
    MachineLost "machine-lost" 400_000 "A client's machine burns: it comes back with its seed alone, and with what its operator keeps (each run with copies).";
    KeeperLies "keeper-lies" 150_000 "The operator says that it keeps a newer copy, keeps an old one, or none (each run with copies).";
}

impl Kind {
    /// The kind with this name on the command line.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// How often each kind happens, in a million chances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates(BTreeMap<Kind, u32>);

impl Default for Rates {
    fn default() -> Self {
        Self(Kind::ALL.iter().map(|kind| (*kind, kind.usual())).collect())
    }
}

impl Rates {
    /// Rates at which nothing goes wrong.
    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Sets a rate, in a million chances.
    pub fn set(&mut self, kind: Kind, ppm: u32) {
        self.0.insert(kind, ppm);
    }

    /// A kind's rate, in a million chances; 0 unless set.
    pub fn get(&self, kind: Kind) -> u32 {
        self.0.get(&kind).copied().unwrap_or(0)
    }
}

/// A stream of numbers from one number (SplitMix64): fast, the same everywhere, and no secret.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The stream of a seed and a place.
    pub fn new(seed: u64, place: u64) -> Self {
        let mut dice = Self(seed ^ place.wrapping_mul(0xd1b5_4a32_d192_ed03));
        dice.next_number();
        dice
    }

    /// The next number of the stream, any of 64 bits.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        usize::try_from(self.next_number().checked_rem(bound).unwrap_or(0)).unwrap_or(0)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below_u32(&mut self, bound: u32) -> u32 {
        let number = self.next_number().checked_rem(u64::from(bound)).unwrap_or(0);
        u32::try_from(number).unwrap_or(0)
    }

    /// True with one chance in `of`; true if that is 0.
    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

/// A fault that happened, and at which decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired {
    /// Number of the decision: the point that `only` of [`Chances::new`] names.
    pub point: u64,
    /// Which kind of fault it was.
    pub kind: Kind,
    /// To whom it happened and when, for people.
    pub text: String,
}

/// Decides at each point whether a fault happens, by seed, number and rate.
#[derive(Debug, Clone)]
pub struct Chances {
    seed: u64,
    point: u64,
    rates: Rates,
    only: Option<BTreeSet<u64>>,
    /// Off: no point is counted and nothing happens.
    pub on: bool,
    /// Faults that happened, in order.
    pub fired: Vec<Fired>,
}

impl Chances {
    /// `only`: nothing happens at points that it doesn't name.
    pub fn new(seed: u64, rates: Rates, only: Option<BTreeSet<u64>>) -> Self {
        Self { seed, point: 0, rates, only, on: true, fired: vec![] }
    }

    /// A chance for a fault: nothing, or the dice for its details.
    pub fn roll(&mut self, kind: Kind, text: impl FnOnce() -> String) -> Option<Dice> {
        if !self.on {
            return None;
        }
        self.point = self.point.wrapping_add(1);
        let mut dice = Dice::new(self.seed, self.point);
        if dice.below_u32(1_000_000) >= self.rates.get(kind) {
            return None;
        }
        if self.only.as_ref().is_some_and(|only| !only.contains(&self.point)) {
            return None;
        }
        self.fired.push(Fired { point: self.point, kind, text: text() });
        Some(dice)
    }
}
