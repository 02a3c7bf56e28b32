//! What people read when a command is refused: a cause, and what to do about it. Every reason that the engine has is
//! here in a sample, and `tests/errors/refusals.txt` has the texts, so that none comes in, or changes, without being
//! read.
//!
//! `UPDATE_GOLDEN=1 cargo test --test errors` writes them anew, for a change that is meant.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::fs;
use std::path::{Path, PathBuf};

use cln_factory::cln::error::RpcError;
use cln_factory::cln::words;
use factory_engine::policy::Because;
use factory_engine::tx::close::CloseError;
use factory_engine::tx::layout::LayoutError;
use factory_engine::tx::plan::PlanError;
use factory_engine::tx::sale::{SaleError, SaleLimits};
use factory_engine::tx::tree::TreeError;
use factory_engine::types::{Amount, ChannelId, InstanceId, NodeId, TermsHash};
use factory_engine::{
    BadLadder, BadPrices, Bound, CannotClose, CannotMove, Ended, MoveLimit, NotCooperative, Refusal,
    StaleStep, State, Term, Unusable,
};

const INSTANCE: InstanceId = InstanceId([0xfa; 32]);
const NODE: NodeId = NodeId([0x02; 33]);
const OTHER: NodeId = NodeId([0x03; 33]);
const CHANNEL: ChannelId = ChannelId([0xc1; 32]);
const THERE: ChannelId = ChannelId([0xc2; 32]);

/// An enum of reasons: where it is declared, and what people read of each variant.
struct Reasons {
    name: &'static str,
    source: &'static str,
    /// The variant, and its text.
    texts: Vec<(String, String)>,
}

impl Reasons {
    fn of<T: Debug>(
        name: &'static str,
        source: &'static str,
        samples: Vec<T>,
        tell: impl Fn(&T) -> String,
    ) -> Self {
        let texts = samples.iter().map(|sample| (variant(sample), tell(sample))).collect();
        Self { name, source, texts }
    }

    /// Variants that the source has, in its order.
    fn declared(&self) -> Vec<String> {
        let text = fs::read_to_string(root().join(self.source)).unwrap();
        let begins = format!("pub enum {} {{", self.name);
        let (_, body) = text.split_once(&begins).unwrap();
        let (body, _) = body.split_once("\n}").unwrap();
        let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
        let names = lines.filter(|line| line.starts_with(char::is_uppercase));
        names.map(|line| line.chars().take_while(|c| c.is_alphanumeric()).collect()).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn variant(value: &impl Debug) -> String {
    format!("{value:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

fn sat(sat: u64) -> Amount {
    Amount::from_sat(sat)
}

fn refusals() -> Vec<Refusal> {
    let because = Because::Setting;
    let bound = |value, because| Bound { term: Term::TreeFeerate, value, least: 375, most: 5_000, because };
    vec![
        Refusal::NoClients,
        Refusal::ThisNode(NODE),
        Refusal::NamedTwice(NODE),
        Refusal::NotConnected(NODE),
        Refusal::Terms(LayoutError::NoClients),
        Refusal::NoShape(PlanError::NoClients.to_string()),
        Refusal::LifetimeTooShort { lifetime_blocks: 100, needed: 1_158 },
        Refusal::NoTimeToEvict { lifetime_blocks: 100, needed: 301, stock_csv: 144 },
        Refusal::Unknown(INSTANCE),
        Refusal::Deleted(INSTANCE),
        Refusal::Damaged { instance: INSTANCE, why: "record 3 is damaged".to_owned() },
        Refusal::OwnFactory(INSTANCE),
        Refusal::NotAnInvitation { instance: INSTANCE, state: State::Active },
        Refusal::TermsChanged { instance: INSTANCE, read: TermsHash([1; 32]), now: TermsHash([2; 32]) },
        Refusal::OutOfBounds(bound(100, because)),
        Refusal::OutOfBounds(bound(100, Because::Mempool)),
        Refusal::Reason { characters: 70_000, most: 200 },
        Refusal::OperatorAway(NODE),
        Refusal::NothingOnChain { instance: INSTANCE, state: State::Invited },
        Refusal::NoChannelToExit { instance: INSTANCE, timeout: 900_000 },
        Refusal::HasLeft(INSTANCE),
        Refusal::ChannelsLost { instance: INSTANCE, timeout: 900_000 },
        Refusal::NoPrices,
        Refusal::AllGoneOver(INSTANCE),
        Refusal::GoneOver(3),
        Refusal::OperatorEvicts,
        Refusal::NoSuchClient { client: 8, clients: 4 },
        Refusal::IsOut(3),
        Refusal::OperatorSells,
        Refusal::NoStock,
        Refusal::NotCooperative(NotCooperative::Leaving),
        Refusal::SaleUnderWay,
        Refusal::PaymentUnderWay,
        Refusal::Amount(SaleError::NoStock),
        Refusal::Close(CannotClose::Client),
        Refusal::Closing(INSTANCE),
        Refusal::CannotLeave { instance: INSTANCE, why: "a purchase is still open".to_owned() },
        Refusal::LeavesAlready(INSTANCE),
        Refusal::CannotComeOn { channel_id: CHANNEL, lsp: NODE },
        Refusal::Move(CannotMove::SameChannel(CHANNEL)),
        Refusal::NotStored("the disk is full".to_owned()),
        Refusal::NotRead("the disk is gone".to_owned()),
        Refusal::Stale(StaleStep { made_at: 7, applied: 8 }),
        Refusal::ReadOnly("the journal's version 2 is newer than this plugin's 1".to_owned()),
        Refusal::Stopping,
    ]
}

fn moves() -> Vec<CannotMove> {
    vec![
        CannotMove::SameChannel(CHANNEL),
        CannotMove::NoSuchChannel(CHANNEL),
        CannotMove::TwoPeers { from: NODE, to: OTHER },
        CannotMove::NoOperator(NODE),
        CannotMove::NotLive(CHANNEL),
        CannotMove::Unconfirmed(CHANNEL),
        CannotMove::TooYoung { channel_id: CHANNEL, until: 900_000 },
        CannotMove::Unusable(CHANNEL, Unusable::Ended(Ended::Closing)),
        CannotMove::HandedOver(CHANNEL),
        CannotMove::UnderWay { from: CHANNEL, to: THERE },
        CannotMove::Nothing { to_us_msat: 500_000, reserve_msat: 546_000 },
        CannotMove::Full { channel_id: THERE, receivable_msat: 100 },
        CannotMove::TooMuch { asked_msat: 9_000_000, most_msat: 8_000_000, limit: MoveLimit::Spendable },
        CannotMove::TooLittle { asked_msat: 1, least_msat: 1_000 },
        CannotMove::TooLate { channel_id: CHANNEL, cltv_expiry: 900_200, safe_end: 900_100 },
    ]
}

fn closes() -> Vec<CannotClose> {
    vec![
        CannotClose::Client,
        CannotClose::Restored("a peer has a newer copy".to_owned()),
        CannotClose::State(State::Funding),
        CannotClose::Leaving,
        CannotClose::AllHandedOver,
        CannotClose::Sale,
        CannotClose::Move(CHANNEL),
        CannotClose::UnderWay,
        CannotClose::GivenUp("a client was away".to_owned()),
        CannotClose::Away(vec![NODE, OTHER]),
        CannotClose::NotLive(CHANNEL),
        CannotClose::Htlc(CHANNEL),
        CannotClose::Outputs(CloseError::Nothing),
    ]
}

fn sub_factories() -> Vec<NotCooperative> {
    vec![
        NotCooperative::Damaged("record 3 is damaged".to_owned()),
        NotCooperative::Restored("a peer has a newer copy".to_owned()),
        NotCooperative::Leaving,
        NotCooperative::HandedOver,
        NotCooperative::OnChain,
        NotCooperative::State(State::Dying),
        NotCooperative::Channel(Unusable::NotDeep { confirmations: 3 }),
    ]
}

fn amounts() -> Vec<SaleError> {
    let limits = SaleLimits { with_rest: Some(sat(200_000)), everything: Some(sat(220_000)) };
    let last = SaleLimits { with_rest: None, ..limits };
    let gone = SaleLimits { everything: None, ..last };
    vec![
        SaleError::NoStock,
        SaleError::Gone,
        SaleError::NotAMember(7),
        SaleError::Amount { asked: sat(9_999), limits },
        SaleError::Amount { asked: sat(9_999), limits: last },
        SaleError::Amount { asked: sat(9_999), limits: gone },
        SaleError::Tree(TreeError::Funding),
    ]
}

fn layouts() -> Vec<LayoutError> {
    vec![
        LayoutError::NoClients,
        LayoutError::TooManyClients { clients: 100_000 },
        LayoutError::LeafWithoutClients,
        LayoutError::TooManyLevels { levels: 99 },
        LayoutError::ArityTooSmall { level: 0, arity: 1 },
        LayoutError::TooFewLevels { leaves: 9, held: 4 },
        LayoutError::ChannelTooSmall { client: 3, capacity: sat(100) },
        LayoutError::AmountsTooLarge,
        LayoutError::Push { msat: 0 },
        LayoutError::StockTooSmall { stock: sat(10), needed: sat(2_000) },
        LayoutError::StockCsv,
        LayoutError::FeerateTooLow { feerate: 1 },
        LayoutError::FeerateTooHigh { feerate: 1_000_000 },
        LayoutError::States { step: 0, count: 1 },
        LayoutError::SequenceTooLong { blocks: 70_000 },
        LayoutError::ConfirmBlocks,
        LayoutError::FundingConfirmations,
        LayoutError::TransactionTooLarge { outputs: 400, vbytes: 17_000 },
        LayoutError::ExitTooLong { blocks: 3_000 },
        LayoutError::TimeoutIsATime { height: 500_000_000 },
        LayoutError::TimeoutInDyingPeriod { height: 100, dying: 200 },
        LayoutError::DyingPeriodTooShort { dying: 10, exit: 200 },
        LayoutError::DistributionFee { clients: 4_096 },
    ]
}

fn plans() -> Vec<PlanError> {
    vec![
        PlanError::NoClients,
        PlanError::TooManyClients { clients: 100_000 },
        PlanError::TooLargeForFlat { clients: 500, vbytes: 20_000 },
        PlanError::ExitTooLong { blocks: 3_000 },
        PlanError::UnknownProfile { name: "round".to_owned() },
    ]
}

fn ladders() -> Vec<BadLadder> {
    vec![
        BadLadder::NoRung,
        BadLadder::FewRungs { dying_blocks: 60, rung_blocks: 16 },
        BadLadder::NoLife { lifetime_blocks: 100, dying_blocks: 60 },
        BadLadder::Size { smallest: 9, largest: 8 },
        BadLadder::Percent { name: "fill_percent", percent: 0 },
        BadLadder::Wait { wait_blocks: 20, rung_blocks: 15 },
    ]
}

fn prices() -> Vec<BadPrices> {
    vec![
        BadPrices::Base { name: "base_msat", base_msat: 9, most: 8 },
        BadPrices::Rate { name: "ppm", ppm: 1_000_001, most: 1_000_000 },
    ]
}

fn shown<T: Display>(error: &T) -> String {
    error.to_string()
}

fn all() -> Vec<Reasons> {
    vec![
        Reasons::of("Refusal", "factory-engine/src/io/refusal.rs", refusals(), words::refusal),
        Reasons::of("CannotMove", "factory-engine/src/io/cannot_move.rs", moves(), |why| {
            words::refusal(&Refusal::Move(why.clone()))
        }),
        Reasons::of("CannotClose", "factory-engine/src/io/cannot_close.rs", closes(), |why| {
            words::refusal(&Refusal::Close(why.clone()))
        }),
        Reasons::of("NotCooperative", "factory-engine/src/record/unusable.rs", sub_factories(), |why| {
            words::refusal(&Refusal::NotCooperative(why.clone()))
        }),
        Reasons::of("SaleError", "factory-engine/src/tx/sale.rs", amounts(), |why| {
            words::refusal(&Refusal::Amount(why.clone()))
        }),
        Reasons::of("LayoutError", "factory-engine/src/tx/layout/error.rs", layouts(), |why| {
            words::refusal(&Refusal::Terms(why.clone()))
        }),
        Reasons::of("PlanError", "factory-engine/src/tx/plan.rs", plans(), shown),
        Reasons::of("BadLadder", "factory-engine/src/policy/ladder.rs", ladders(), shown),
        Reasons::of("BadPrices", "factory-engine/src/policy/prices.rs", prices(), shown),
    ]
}

/// What makes a text more than a cause: what to type, to give, to look at, or to wait for.
const STEPS: [&str; 32] = [
    "factory-",
    "listpeerchannels",
    "try again",
    "wait for",
    "at least",
    "name ",
    "raise ",
    "raise it",
    "lower ",
    "make it",
    "use ",
    "ask for",
    "only all of it",
    "leave it out",
    "leave amount_msat out",
    "split them",
    "there are static",
    "add capacities",
    "have an ordinary channel opened",
    "report it as a bug",
    "connect to it",
    "next_action",
    "it must be below",
    "it has to be",
    "have to be more than",
    "have to be fewer than",
    "docs/recovery.md",
    "Ask it to",
    "from 0",
    "it may have",
    "it may be",
    "accept what it shows",
];

/// "1 to 4096": whoever reads it knows what would do.
fn has_range(text: &str) -> bool {
    text.match_indices(" to ").any(|(at, to)| {
        let (before, after) = (&text[..at], &text[at + to.len()..]);
        before.ends_with(|c: char| c.is_ascii_digit()) && after.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// What is wrong with a text that is to have a cause and a next step.
fn problem(text: &str) -> Option<&'static str> {
    if !text.starts_with(|c: char| c.is_lowercase() || c.is_ascii_digit()) {
        return Some("begins as a heading does: it stands behind others' words");
    }
    if text.ends_with('.') || text.contains("  ") || text.contains('\n') {
        return Some("is more than one plain line");
    }
    let step = STEPS.iter().any(|step| text.contains(step)) || has_range(text);
    (!step).then_some("says what is wrong, and not what to do")
}

#[test]
fn every_reason_is_here() {
    for reasons in all() {
        let declared: BTreeSet<String> = reasons.declared().into_iter().collect();
        assert!(!declared.is_empty(), "{}: mend this test", reasons.name);
        let sampled: BTreeSet<String> = reasons.texts.into_iter().map(|(variant, _)| variant).collect();
        assert_eq!(declared, sampled, "{}: variants, and samples of them", reasons.name);
    }
}

#[test]
fn every_reason_has_a_cause_and_a_next_step() {
    let mut wrong = vec![];
    for Reasons { name, texts, .. } in all() {
        for (variant, text) in texts {
            wrong.extend(problem(&text).map(|what| format!("{name}::{variant} {what}: {text}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_text_changes_unseen() {
    let path: PathBuf = root().join("tests/errors/refusals.txt");
    let mut now = String::new();
    for Reasons { name, texts, .. } in all() {
        for (variant, text) in texts {
            now.push_str(&format!("{name}::{variant}: {text}\n"));
        }
    }
    if std::env::var("UPDATE_GOLDEN").is_ok_and(|mode| !mode.is_empty()) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &now).unwrap();
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    let (now, before): (Vec<_>, Vec<_>) = (now.lines().collect(), before.lines().collect());
    let gone: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
    let new: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    assert_eq!(
        now, before,
        "read them, then UPDATE_GOLDEN=1 cargo test --test errors\ngone: {gone:#?}\nnew: {new:#?}"
    );
}

/// An error of a command is made of both.
#[test]
fn an_error_is_what_is_wrong_and_what_to_do() {
    let error = RpcError::new(2501, "the factory is funding", "wait for its confirmations");
    assert_eq!(error.message, "the factory is funding; wait for its confirmations");
    let bug = RpcError::internal("factory-plan");
    assert!(problem(&bug.message).is_none(), "{bug}");
    assert!(bug.message.contains("factory-plan"), "{bug}");
}

/// The checks above can fail.
#[test]
fn a_cause_alone_is_found() {
    for bad in [
        "the operator is not connected",
        "Wait for it",
        "wait for it.",
        "channel 7: the stock is gone",
        "a lifetime of 3 up to then",
    ] {
        assert!(problem(bad).is_some(), "{bad}");
    }
    for good in ["4097 clients: a factory has 1 to 4096", "it is not there yet: try again in a moment"] {
        assert_eq!(problem(good), None, "{good}");
    }
}
