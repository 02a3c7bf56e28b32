//! The page: every metric with its name, its kind, and what it is. Names are Prometheus' conventions, base units at
//! their ends; blocks and satoshi are the protocol's own.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use factory_engine::types::{InstanceId, Millis};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::cln::chain::Scan;
use crate::cln::methods::fees::Reserve;
use crate::cln::tally::Tally;

use super::seen::{Counts, DEADLINES, Known, MOVES, SALES, levels, stages, states};

/// Before each name.
pub const PREFIX: &str = "cln_factory";
/// OpenMetrics, which Prometheus reads as it reads its own text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Factories that are named: those whose deadlines are nearest.
const NAMED: usize = 16;

/// All that a page shows, but for what is counted.
pub struct Seen {
    /// Whether what is stored can be read.
    pub available: bool,
    /// Whether lightningd stops when the plugin does.
    pub important: bool,
    /// When the plugin has started.
    pub started: Millis,
    /// How far the chain has been read.
    pub scan: Scan,
    /// The last block of which lightningd has told; 0 before the first.
    pub lightningd: u32,
    /// Whether the backend gives no blocks.
    pub backend_trouble: bool,
    /// HTLCs that are held, and their sum, msat.
    pub held: (usize, u64),
    /// How long the oldest factory that is being created has been.
    pub oldest: Duration,
    /// What the engine has; nothing if it isn't there.
    pub known: Option<Known>,
    /// What the wallet has and should have, if that is known.
    pub reserve: Option<Reserve>,
}

/// The whole page.
///
/// # Errors
/// None that a text in memory can have.
pub fn write(seen: &Seen, tally: &Tally) -> Result<String, fmt::Error> {
    let mut page = Page(Registry::with_prefix(PREFIX));
    page.node(seen);
    if let Some(known) = &seen.known {
        page.factories(known, seen.oldest);
        page.deadlines(known);
        page.copies(known);
    }
    if let Some(reserve) = &seen.reserve {
        page.reserve(reserve);
    }
    let mut registry = page.0;
    tally.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

struct Page(Registry);

/// A value with its labels.
type Sample<const N: usize> = ([(&'static str, String); N], i64);

impl Page {
    fn node(&mut self, seen: &Seen) {
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        self.0.register("build", "The plugin's version", build);
        self.gauge(
            "start_time_seconds",
            "When the plugin has started, in seconds since 1970",
            seen.started / 1_000,
        );
        self.gauge(
            "available",
            "Whether what is stored can be read (1, or 0): if not, nothing that follows from it is here",
            seen.available,
        );
        self.gauge("important", "Whether lightningd stops when the plugin does (1, or 0)", seen.important);
        let handled = seen.scan.next.saturating_sub(1);
        // Before the first block nobody is behind.
        let behind_lightningd = if seen.scan.next == 0 { 0 } else { seen.lightningd.saturating_sub(handled) };
        self.gauge("handled_height", "Height of the last block that was handled", handled);
        self.gauge("chain_tip_height", "Height of the backend's last block", seen.scan.tip);
        self.gauge(
            "lightningd_height",
            "Height of the last block that lightningd has told of since the start; 0 before it",
            seen.lightningd,
        );
        self.gauge(
            "blocks_behind",
            "Blocks of the backend, or of lightningd, that wait to be handled; with more than 6 no HTLC moves",
            seen.scan.behind().max(behind_lightningd),
        );
        self.gauge(
            "backend_trouble",
            "Whether lightningd's bitcoin backend gives no blocks (1, or 0)",
            seen.backend_trouble,
        );
        self.gauge(
            "block_missing",
            "Whether the backend does not give a block of its own chain (1, or 0): nothing after it is watched",
            seen.scan.missing.is_some(),
        );
        let (held, msat) = seen.held;
        self.gauge("htlcs_held", "HTLCs that are held for clients that are not connected", held);
        self.gauge("htlcs_held_msat", "Sum of the HTLCs that are held, in millisatoshi", msat);
    }

    fn factories(&mut self, known: &Known, oldest: Duration) {
        self.gauges(
            "factories",
            "Factories by this node's role and their state",
            states().map(|(role, state)| {
                let count = known.factories.get(&(role, state)).copied().unwrap_or(0);
                ([("role", role.to_owned()), ("state", state.name().to_owned())], whole(count))
            }),
        );
        self.gauge("factories_damaged", "Factories whose records are not understood", known.damaged);
        self.gauge(
            "members",
            "Other nodes in factories that are in use, or on their way to it",
            known.members,
        );
        self.gauge("members_connected", "Members that are connected and run the plugin", known.connected);
        self.gauges(
            "ceremonies",
            "Factories that are being created, by what is waited for",
            counts("stage", stages(), &known.ceremonies),
        );
        let waited: Family<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>> = Family::default();
        for stage in stages() {
            let waited_ms = known.waited.get(stage).copied().unwrap_or(0);
            waited.get_or_create(&[("stage", stage)]).set(Duration::from_millis(waited_ms).as_secs_f64());
        }
        self.0.register(
            "ceremony_stage_seconds",
            "How long the oldest ceremony of this operator in each stage has been in it",
            waited,
        );
        let age: Gauge<f64, AtomicU64> = Gauge::default();
        age.set(oldest.as_secs_f64());
        self.0.register(
            "creation_age_seconds",
            "How long the oldest factory that is being created has been, all attempts together",
            age,
        );
        self.gauges(
            "sales",
            "Sales of liquidity in factories that are remembered, by how far they are",
            counts("state", SALES, &known.sales),
        );
        self.gauges(
            "moves",
            "Balances of this node that move from one of its channels to another",
            counts("state", MOVES, &known.moves),
        );
        self.gauges(
            "renewals",
            "This node's factories that end and are not renewed yet, by how much that matters",
            counts("level", levels(), &known.renewals),
        );
        let [here, away] = known.on_the_ladder;
        self.gauges(
            "ladder_due",
            "Clients that are due on this operator's ladder and have no place in a later factory",
            [("true", here), ("false", away)]
                .map(|(connected, count)| ([("connected", connected.to_owned())], whole(count))),
        );
    }

    fn deadlines(&mut self, known: &Known) {
        let nearest = DEADLINES.into_iter().filter_map(|kind| Some((kind, *known.deadlines.get(kind)?)));
        self.gauges(
            "nearest_deadline_blocks",
            "Blocks until the nearest deadline of each kind that has one; below 0 it is over",
            nearest.map(|(kind, left)| ([("kind", kind.to_owned())], left)),
        );
        let mut by_factory: Vec<(i64, InstanceId)> =
            known.by_factory.iter().map(|(instance, left)| (*left, *instance)).collect();
        by_factory.sort_unstable();
        by_factory.truncate(NAMED);
        self.gauges(
            "factory_deadline_blocks",
            "Blocks until a factory's nearest deadline, of the 16 that are nearest",
            by_factory
                .into_iter()
                .map(|(left, instance)| ([("factory_instance", instance.to_string())], left)),
        );
        self.gauge("transactions_due", "Transactions that are due and not confirmed", known.due);
        self.gauge(
            "transactions_in_trouble",
            "Transactions that are due and not taken, or do not pay what they should",
            known.in_trouble,
        );
    }

    fn copies(&mut self, known: &Known) {
        self.gauge(
            "copies_wanted",
            "Factories of which others should have a copy of all that is stored",
            known.copies_wanted,
        );
        self.gauge("copies_missing", "Factories of which nobody has such a copy", known.copies_missing);
        self.gauge(
            "copies_single",
            "Factories of which one keeper alone has such a copy",
            known.copies_single,
        );
        self.gauge(
            "copies_waiting",
            "Factories in which this node binds itself to nothing before a copy is there",
            known.copies_waiting,
        );
        self.gauge(
            "backup_file_trouble",
            "Whether the backup file takes no copies (1, or 0)",
            known.backup_trouble,
        );
        self.gauge("towers", "Towers that this node names", known.towers);
        self.gauge(
            "towers_missing",
            "Towers that have not said that they watch, while there is something to watch",
            known.towers_missing,
        );
        self.gauge(
            "tower_appointments_missing",
            "Appointments that connected towers lack",
            known.appointments_missing,
        );
        self.gauge(
            "watched_appointments",
            "Appointments that this node has, as a tower, for others",
            known.watched,
        );
        self.gauge("watched_due", "Appointments for others that are due", known.watched_due);
    }

    fn reserve(&mut self, reserve: &Reserve) {
        self.gauge(
            "reserve_exit_sat",
            "Fees of leaving every factory at factory-reserve-feerate, in satoshi",
            reserve.needed.to_sat(),
        );
        self.gauge(
            "reserve_channels_sat",
            "What lightningd takes to settle the channels of factories that were left, in satoshi",
            reserve.channels.to_sat(),
        );
        self.gauge(
            "reserve_wallet_sat",
            "What the wallet has for both, confirmed and free or kept, in satoshi",
            reserve.wallet.to_sat(),
        );
        self.gauge(
            "reserve_kept_sat",
            "What of the wallet is kept for fees, in satoshi",
            reserve.kept.to_sat(),
        );
        self.gauge(
            "reserve_coins_at_once",
            "Transactions that may have to be paid for at once, each with a coin of its own",
            reserve.coins.at_once,
        );
        self.gauge(
            "reserve_coins_ready",
            "Coins of the wallet that are large enough for one such transaction",
            reserve.ready,
        );
        self.gauge(
            "reserve_coin_sat",
            "What a coin for one such transaction has to have, in satoshi",
            reserve.coins.each.to_sat(),
        );
        self.gauge(
            "reserve_covered",
            "Whether the wallet has money and coins enough to leave every factory (1, or 0)",
            reserve.is_covered(),
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl TryInto<i64>) {
        let gauge: Gauge = Gauge::default();
        gauge.set(whole(value));
        self.0.register(name, help, gauge);
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<N>>,
    ) {
        let family: Family<[(&'static str, String); N], Gauge> = Family::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }
}

/// What is more than fits is as much as fits.
fn whole(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// One sample for each of these, whether or not there is any.
fn counts(
    label: &'static str,
    all: impl IntoIterator<Item = &'static str>,
    counts: &Counts,
) -> impl Iterator<Item = Sample<1>> {
    all.into_iter().map(move |of| {
        let count = counts.get(of).copied().unwrap_or(0);
        ([(label, of.to_owned())], whole(count))
    })
}

#[cfg(test)]
mod tests;
