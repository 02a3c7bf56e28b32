//! Planted bugs: deliberate mistakes, one for each property that matters most, so that the simulator can
//! show that it would find them. They exist only with the feature `planted-bugs`; without it
//! [`planted`] is `false` at compile time and nothing of them is left in the program.

macro_rules! bugs {
    ($($bug:ident $name:literal $property:literal $what:literal;)*) => {
        /// A deliberate mistake.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = $what] $bug,)*
        }

        impl Bug {
            /// Every bug.
            pub const ALL: &'static [Bug] = &[$(Bug::$bug,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name,)* }
            }

            /// The property that it breaks first.
            pub fn property(self) -> &'static str {
                match self { $(Bug::$bug => $property,)* }
            }

            /// What it does.
            pub fn what(self) -> &'static str {
                match self { $(Bug::$bug => $what,)* }
            }
        }
    };
}

bugs! {
    SendBeforeStore "send-before-store" "S10" "Effects are carried out before the step is stored.";
    AppliedUnstored "applied-unstored" "S10" "A step whose store failed is applied all the same.";
    NonceReused "nonce-reused" "S2" "Nonces and keys follow from the instance: a restart brings the same ones again.";
    LedgerForgotten "ledger-forgotten" "S8" "A restart forgets the sign-once ledger.";
    SignTwice "sign-twice" "S8" "The ledger is not asked, and an attempt has no keys of its own: two ceremonies, one coin.";
    FundingBeforeStored "funding-before-stored" "S11" "The funding goes out one `stored` early.";
    FundingBeforeChecked "funding-before-checked" "S11" "The funding goes out one `channel_checked` early.";
    DistributionOmitsOne "distribution-omits-one" "S20" "Distribution transactions lack the last client's output.";
    SiblingScript "sibling-script" "S3" "A neighbour's channel may have any script.";
    ForeignKey "foreign-key" "S3" "A client signs although its place has another key.";
    UnverifiedSignature "unverified-signature" "S4" "A client stores finished signatures without verifying them.";
    UncheckedChannel "unchecked-channel" "S18" "A leaf that pays another script than the channel's is accepted.";
    WrongBlame "wrong-blame" "S4" "For a bad partial signature the first client is left out.";
    ForgetSigned "forget-signed" "S12" "An aborted factory is forgotten although a partial signature of ours left.";
    ConflictNotBuried "conflict-not-buried" "S12" "One confirmation of a conflict with the funding is enough to forget.";
    ExitOnce "exit-once" "S26" "An exit is published once, at the command, and at no block after it.";
    ExitForgotten "exit-forgotten" "S10" "A restart forgets that this node was leaving.";
    ExitLate "exit-late" "S26" "Timelocked transactions are published one block late.";
    NoDistribution "no-distribution" "S26" "A client doesn't take its distribution after the timeout.";
    ReorgIgnored "reorg-ignored" "S25" "What a reorganisation took out of the chain still counts as confirmed.";
    HtlcMargin "htlc-margin" "S15" "An HTLC may be one block inside the margin.";
    HtlcTooLong "htlc-too-long" "S15" "An HTLC may outlive the factory's safe end.";
    HtlcUnusable "htlc-unusable" "S18" "HTLCs move on a channel that is not usable.";
    HtlcExpires "htlc-expires" "S16" "An HTLC that is not settled in time starts no exit.";
    EvictNever "evict-never" "S21" "The operator evicts nobody.";
    EvictLate "evict-late" "S21" "The operator begins to evict one block late.";
    StockLeft "stock-left" "S21" "The operator leaves its stock where it is after an exit.";
    AnchorsUncounted "anchors-uncounted" "account" "The account of a factory leaves out anchors.";
    ChildNeverReplaced "child-never-replaced" "S26" "The child of a transaction keeps its fee, whatever fees have become.";
    CapIgnored "cap-ignored" "S26" "A child pays more than what is at stake.";
    WrongAnchor "wrong-anchor" "S26" "A child spends another output than the anchor.";
    ReservationLeaked "reservation-leaked" "S27" "Coins of a child stay reserved although its parent's end came without it.";
    SaleForgotten "sale-forgotten" "S8" "A restart forgets what was signed for sales.";
    SaleDropped "sale-dropped" "S12" "The operator gives up a sale that it has signed.";
    SaleUsableEarly "sale-usable-early" "S18" "A bought channel is used before its sale's signatures are stored.";
    SaleMargin "sale-margin" "S15" "The margin of a bought channel's HTLCs leaves out the chain of sales.";
    SaleHeldBack "sale-held-back" "S26" "A sale is not published before the timeout, whatever the stock's CSV is.";
    RestUnchecked "rest-unchecked" "S4" "A client doesn't verify the distribution of what a sale leaves.";
    PriceIgnored "price-ignored" "S3" "A client pays whatever is asked for a channel.";
    SoldUnpaid "sold-unpaid" "price" "The operator sells before its invoice is paid.";
    LatePaymentLost "late-payment-lost" "price" "A payment that arrives after the end of its sale is no credit.";
    JitForgotten "jit-forgotten" "price" "A restart takes every ordinary channel under way for one that failed.";
    SaleAfterExit "sale-after-exit" "S24" "Sales are signed although the leaf is on chain.";
    SoldStockTaken "sold-stock-taken" "S26" "The operator takes stock home that it has sold.";
    BuyerStays "buyer-stays" "S19" "Who has bought waits for a distribution, which shares out what it bought.";
    SaleBlame "sale-blame" "S4" "For a bad partial signature of a sale the first client is named.";
    SaleNoDeadline "sale-no-deadline" "S29" "The operator waits for ever in a sale.";
    NoDeadline "no-deadline" "S29" "The operator waits for ever.";
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, in place of the one before.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.with(|planted| planted.set(bug));
}

/// Whether this bug is planted.
#[cfg(feature = "planted-bugs")]
#[inline]
pub fn planted(bug: Bug) -> bool {
    PLANTED.with(|planted| planted.get() == Some(bug))
}

/// Whether this bug is planted: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

/// The seed of the nonce with this number: `fresh`, unless [`Bug::NonceReused`] is planted.
#[inline]
pub fn nonce_seed(fresh: [u8; 32], number: usize) -> [u8; 32] {
    if planted(Bug::NonceReused) {
        let mut seed = [1; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        return seed;
    }
    fresh
}
