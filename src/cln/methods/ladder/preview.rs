//! What a ladder takes, before anything starts.

use std::sync::Arc;

use factory_engine::create::lsp::{layout, terms};
use factory_engine::ladder::plan::{Group, NoPlan, Planned, PlannedRung, Question, plan};
use factory_engine::ladder::{RENEWAL_BLOCKS, rung_of};
use factory_engine::terms::Terms;
use factory_engine::tx::layout::{Layout, MAX_CLIENTS, RESERVE_MSAT};
use factory_engine::tx::plan::Delays;
use factory_engine::types::{Amount, Height, InstanceId, NodeId};
use factory_engine::{Config, Engine, Ladder};
use serde_json::{Value, json};

use super::super::super::error::RpcError;
use super::super::super::params::Params;
use super::super::super::state::State;

/// Blocks of a year, on mainnet.
const YEAR: u32 = 52_560;
/// A preview goes on for a year, but for no more lifetimes than this: of short ones there would be too many.
const LIFETIMES: u32 = 10;
/// Rungs that are shown one by one.
const SHOWN: usize = 100;
/// Shares of the clients that come in time, percent.
const CASES: [u8; 3] = [100, 90, 70];
/// What a client that is only supposed has, without a word about it, sat.
const CAPACITY: Amount = Amount::from_sat(1_000_000);
/// Blocks by which a lifetime may be shorter than the one before: an invitation takes some to arrive (S32).
const LATE: u32 = 12;

/// Clients that there aren't yet, spread evenly over the rungs.
#[derive(Clone, Copy)]
pub(super) struct Supposed {
    clients: u32,
    capacity: Amount,
}

impl Supposed {
    /// Takes them from the command's parameters; nothing if they are the factories that there are.
    pub(super) fn parse(params: &mut Params) -> Result<Option<Self>, RpcError> {
        let clients: Option<u32> = params.optional("clients")?;
        let capacity: Option<Amount> = params.optional("capacity_sat")?;
        match (clients, capacity) {
            (None, None) => Ok(None),
            (None, Some(_)) => {
                Err(RpcError::parameter("capacity_sat: it goes with clients, how many there would be"))
            }
            (Some(clients), capacity) if (1..=1_000_000).contains(&clients) => {
                Ok(Some(Self { clients, capacity: capacity.unwrap_or(CAPACITY) }))
            }
            (Some(clients), _) => Err(RpcError::parameter(format!(
                "clients: {clients} is out of range, it may be 1 to 1000000"
            ))),
        }
    }
}

/// What a preview is made of.
struct Basis {
    me: NodeId,
    config: Config,
    delays: Delays,
    feerate: u32,
    ladder: Ladder,
    height: Height,
}

impl Basis {
    fn layout(&self, capacities: &[Amount], height: Height) -> Result<Layout, NoPlan> {
        let no = |refusal: factory_engine::Refusal| NoPlan(refusal.to_string());
        let clients = capacities.iter().map(|capacity| (NodeId([0; 33]), *capacity)).collect();
        let create = rung_of(&self.ladder, &self.delays, clients, self.feerate).map_err(no)?;
        let push = self.config.push_msat.max(RESERVE_MSAT);
        let terms = terms(&self.config, self.me, InstanceId([0; 32]), &create, push, height);
        layout(&terms, self.ladder.lifetime_blocks).map_err(no)
    }

    fn blocks(&self) -> u32 {
        let lifetime = self.ladder.lifetime_blocks;
        YEAR.min(lifetime.saturating_mul(LIFETIMES)).max(lifetime.saturating_mul(2))
    }

    /// As many factories as there are rungs between two renewals of a client, one due at each.
    fn supposed(&self, supposed: Supposed) -> Result<Vec<Group>, NoPlan> {
        let ladder = &self.ladder;
        let active = ladder.lifetime_blocks.saturating_sub(ladder.dying_blocks);
        let rungs = active.checked_div(ladder.rung_blocks).unwrap_or(1).clamp(1, supposed.clients);
        let mut groups = vec![];
        let mut left = supposed.clients;
        for rung in 0..rungs {
            let share = left.div_ceil(rungs.saturating_sub(rung).max(1));
            left = left.saturating_sub(share);
            let parts = share.div_ceil(ladder.largest.clamp(1, MAX_CLIENTS)).max(1);
            let mut of_rung = share;
            for part in 0..parts {
                let size = of_rung.div_ceil(parts.saturating_sub(part).max(1));
                of_rung = of_rung.saturating_sub(size);
                let capacities = vec![supposed.capacity; usize::try_from(size).unwrap_or(0)];
                let due =
                    self.height.saturating_add(rung.saturating_add(1).saturating_mul(ladder.rung_blocks));
                let began = due.saturating_sub(active);
                let layout = Arc::new(self.layout(&capacities, began)?);
                groups.push(Group { layout, members: (0..).zip(capacities).collect() });
            }
        }
        Ok(groups)
    }
}

/// What a schedule takes: of the factories that there are, or of those that are supposed.
pub(super) async fn preview(
    state: &State,
    ladder: Ladder,
    supposed: Option<Supposed>,
) -> Result<Value, RpcError> {
    let look = move |engine: &Engine, height: Height| {
        let lived = engine.factories().filter_map(|factory| Some((factory.instance, factory.birth?)));
        let lived: Vec<(InstanceId, Height)> = lived.collect();
        (height, engine.ladder_groups(&ladder, height), engine.delays(), engine.rung_feerate(0), lived)
    };
    let (height, living, delays, feerate, births) = state.runtime.read(look).await?;
    let feerate = ladder.tree_feerate.unwrap_or(feerate);
    let basis = Basis { me: state.me, config: state.config.clone(), delays, feerate, ladder, height };
    let warnings = warnings(&basis, &living, &births);
    let made = tokio::task::spawn_blocking(move || show(&basis, supposed, living)).await;
    let shown = made.map_err(|_| RpcError::internal(super::COMMAND.name))?;
    let mut shown = shown.map_err(|NoPlan(why)| RpcError::parameter(why))?;
    shown["warnings"] = warnings.into();
    Ok(shown)
}

fn show(basis: &Basis, supposed: Option<Supposed>, living: Vec<Group>) -> Result<Value, NoPlan> {
    let living = match supposed {
        Some(supposed) => basis.supposed(supposed)?,
        None => living,
    };
    // Whether there can be any: also where nothing is there yet.
    let typical = basis.layout(&[CAPACITY], basis.height)?;
    let layouts = living.iter().map(|group| &*group.layout).chain([&typical]);
    let eviction = layouts.map(Layout::worst_eviction_blocks).max().unwrap_or(0);
    let usable = basis.ladder.dying_blocks.saturating_sub(eviction).saturating_sub(RENEWAL_BLOCKS);
    let clients = living.iter().map(|group| group.members.len()).fold(0, usize::saturating_add);
    let capital =
        living.iter().map(|group| group.layout.funding_value().to_sat()).fold(0, u64::saturating_add);
    let mut cases = vec![];
    let mut rungs = vec![];
    for percent in CASES {
        let question = Question {
            from: basis.height,
            blocks: basis.blocks(),
            percent,
            reclaim_blocks: basis.config.reclaim_blocks,
        };
        let build = |capacities: &[Amount], height| basis.layout(capacities, height);
        let planned = plan(&basis.ladder, question, living.clone(), &build)?;
        if percent == 100 {
            rungs = planned.rungs.iter().take(SHOWN).map(rung).collect();
        }
        cases.push(case(percent, basis.blocks(), clients, &planned));
    }
    Ok(json!({
        "from_block": basis.height,
        "blocks": basis.blocks(),
        "clients": clients,
        "locked_sat": capital,
        "feerate_perkw": basis.feerate,
        "usable_rungs": usable.checked_div(basis.ladder.rung_blocks),
        "cases": cases,
        "rungs": rungs,
    }))
}

fn case(percent: u8, blocks: u32, clients: usize, planned: &Planned) -> Value {
    let peak = planned.peak();
    let factories = planned.rungs.iter().map(|rung| rung.factories).fold(0, u32::saturating_add);
    let mut object = json!({
        "in_time_percent": percent,
        "factories": factories,
        "renewed": planned.renewed,
        "evicted": planned.evicted,
        "transactions": planned.transactions,
        "vbytes": planned.vbytes,
        "vbytes_per_client_year": per_client_year(planned.vbytes, blocks, clients),
        "most_from_wallet_sat": planned.most_from_wallet().to_sat(),
    });
    if let Some(peak) = peak {
        object["peak_block"] = peak.height.into();
        object["peak_locked_sat"] = peak.locked.to_sat().into();
        object["peak_in_use_sat"] = peak.in_use.to_sat().into();
    }
    object
}

/// Rounded up.
fn per_client_year(vbytes: u64, blocks: u32, clients: usize) -> u64 {
    let clients = u128::try_from(clients).unwrap_or(u128::MAX);
    let year = u128::from(vbytes).saturating_mul(YEAR.into());
    let of = clients.saturating_mul(blocks.into());
    if of == 0 { 0 } else { u64::try_from(year.div_ceil(of)).unwrap_or(u64::MAX) }
}

fn rung(planned: &PlannedRung) -> Value {
    json!({
        "number": planned.rung.number,
        "opens_block": planned.rung.opens,
        "latest_block": planned.rung.latest,
        "block": planned.height,
        "factories": planned.factories,
        "clients": planned.clients,
        "funding_sat": planned.funding.to_sat(),
        "reclaims": planned.reclaims,
        "from_wallet_sat": planned.from_wallet.to_sat(),
        "locked_sat": planned.locked.to_sat(),
        "in_use_sat": planned.in_use.to_sat(),
    })
}

/// What would have a client ask a person, since it is worse than before (S32), and what is too tight.
fn warnings(basis: &Basis, living: &[Group], births: &[(InstanceId, Height)]) -> Vec<String> {
    let mut warnings = vec![];
    for group in living {
        let terms = group.layout.terms();
        let began = births.iter().find(|(instance, _)| *instance == terms.instance).map(|(_, birth)| *birth);
        let lived = began.map_or(0, |began| terms.timeout_height.saturating_sub(began).saturating_sub(LATE));
        for (name, before, now) in worse(basis, terms, lived) {
            if now < before {
                warnings.push(format!(
                    "{name}: {now} is less than the {before} of factory {}: its clients ask a person",
                    terms.instance
                ));
            }
        }
        let evicts = terms.timeout_height.saturating_sub(group.layout.worst_eviction_blocks());
        if evicts <= basis.height.saturating_add(RENEWAL_BLOCKS) {
            warnings.push(format!("factory {} ends too soon to be renewed in time", terms.instance));
        }
    }
    warnings
}

fn worse(basis: &Basis, terms: &Terms, lived: u32) -> [(&'static str, u64, u64); 6] {
    let (ladder, config) = (&basis.ladder, &basis.config);
    let stock_csv = if ladder.stock > Amount::ZERO { terms.stock_csv } else { 0 };
    [
        ("lifetime_blocks", lived.into(), ladder.lifetime_blocks.into()),
        ("dying_blocks", terms.dying_blocks.into(), ladder.dying_blocks.into()),
        ("factory-confirmations", terms.funding_confirmations.into(), config.funding_confirmations.into()),
        ("factory-confirm-blocks", terms.confirm_blocks.into(), config.confirm_blocks.into()),
        ("factory-margin-blocks", terms.margin_blocks.into(), config.margin_blocks.into()),
        ("factory-stock-csv", stock_csv.into(), config.stock_csv.into()),
    ]
}
