//! What `factory-status` warns of, and what to do about it.

use factory_engine::chain::channels::OwnChannel;
use factory_engine::io::Keeper;
use factory_engine::types::{Amount, Height, InstanceId, NodeId};
use factory_engine::{Engine, Factory, Renewal, Role, State as FactoryState};
use factory_runtime::MOST_BEHIND;

use super::super::peers::Peer;
use super::super::words;
use super::warning::Warning;
use super::{fees, urgent};

/// Without a confirmation for so long, a funding transaction needs somebody's attention.
const FUNDING_BLOCKS: u32 = 12;

/// What lightningd says of peers and channels.
pub struct Node {
    /// Every connected peer.
    pub peers: Vec<Peer>,
    /// Channels that are in use without being on chain: with whom, how large, their id.
    pub unconfirmed: Vec<(NodeId, Amount, String)>,
    /// lightningd's height; 0 before its first block.
    pub height: Height,
}

/// Everything that the engine has to warn of.
pub fn look(engine: &Engine, height: Height, node: &Node) -> Vec<Warning> {
    let mut warnings = Vec::new();
    match engine.tip() {
        None => warnings.push(Warning::new(
            "no_block",
            "no block has been handled yet",
            "wait; if it stays, look at lightningd's bitcoin backend",
        )),
        Some((tip, _)) if node.height > tip.saturating_add(MOST_BEHIND) => {
            warnings.push(Warning::new(
                "behind",
                format!(
                    "the plugin has handled block {tip}, lightningd is at {}: no HTLC moves on factories' \
                     channels meanwhile",
                    node.height
                ),
                "wait; if the distance grows, look at the log",
            ));
        }
        Some(_) => {}
    }
    let damaged = engine.factories().filter_map(|factory| Some((factory.instance, factory.damage()?)));
    for (instance, why) in damaged.chain(engine.unreadable()) {
        warnings.push(Warning {
            instance: Some(instance),
            ..Warning::new("damaged", format!("its records are not understood: {why}"), words::MEND)
        });
    }
    if engine.prices_unknown() {
        warnings.push(Warning::new(
            "no_prices",
            "the list of prices is damaged: nothing is sold",
            "set it again with factory-price",
        ));
    }
    let renewals: Vec<Renewal> = engine.renewals(height).filter(|_| engine.renews_by_itself()).collect();
    for factory in engine.factories() {
        let renewal = renewals.iter().find(|renewal| renewal.instance == factory.instance);
        warnings.extend(life(factory, renewal, height));
        warnings.extend(urgent::warning(engine, factory, height));
        warnings.extend(peers(factory, height, node));
        warnings.extend(ended(factory));
        warnings.extend(paid(engine, factory, height));
        warnings.extend(not_closed(engine, factory, height));
    }
    warnings.extend(suspects(engine, node));
    warnings.extend(copies(engine));
    warnings.extend(brought_back(engine));
    warnings.extend(fees::warnings(engine));
    warnings
}

/// The warning that a factory's state calls for, if any.
fn life(factory: &Factory, renewal: Option<&Renewal>, height: Height) -> Option<Warning> {
    let warning = |code, message: String, action: &str| Some(Warning::of(factory, code, message, action));
    match factory.state(height) {
        FactoryState::Invited => warning(
            "invitation",
            format!("{} invites this node", factory.lsp()),
            "see factory-invitations, then factory-accept or factory-decline",
        ),
        FactoryState::Funding => funding(factory, height),
        FactoryState::Dying => warning(
            "dying",
            match renewal {
                Some(renewal) => format!(
                    "it is to be renewed by block {} ({} blocks), else {}: {}",
                    renewal.by,
                    renewal.by.saturating_sub(height),
                    renewal.otherwise(),
                    renewal.stage
                ),
                None => format!("no payment can use it after block {}", factory.safe_end()),
            },
            match (renewal, factory.current.role) {
                (Some(renewal), _) => renewal.advice(),
                (None, Role::Client { .. }) if factory.has_lost_channels() => {
                    "keep the node online: from the timeout on it takes the distribution, which pays its whole capacity \
                     (factory-list)"
                }
                (None, Role::Client { .. }) if factory.restored().is_some() => {
                    "factory-exit: nothing else can be agreed on in it any more"
                }
                (None, Role::Client { .. }) => {
                    "go to another factory of the operator's (factory-invitations, factory-move), or to an ordinary \
                     channel (factory-leave); factory-exit takes the channel on chain, and costs most"
                }
                (None, Role::Lsp) => {
                    "invite its clients to the next factory (factory-ladder does so by itself, or factory-create); \
                     whoever is left in time is taken on chain by itself"
                }
            },
        ),
        FactoryState::Exiting => warning(
            "exiting",
            "this node is leaving it".to_owned(),
            "keep the node online until the factory's state is exited",
        ),
        FactoryState::Aborted if !factory.signed_for().is_empty() => warning(
            "aborted",
            format!("it failed: {}", factory.failure().unwrap_or("nobody said why")),
            "nothing: it is kept until its funding can never confirm",
        ),
        _ => None,
    }
}

fn funding(factory: &Factory, height: Height) -> Option<Warning> {
    let outpoint = factory.funding()?;
    let waited = height.saturating_sub(factory.birth?);
    if factory.funding_height().is_some() || waited < FUNDING_BLOCKS {
        return None;
    }
    let txid = outpoint.txid;
    let message = format!("its funding transaction {txid} has not confirmed for {waited} blocks");
    let action = match factory.current.role {
        Role::Lsp => {
            "if the fee is too low, spend its change with a higher one (lightning-cli withdraw with \
             utxos); if the mempool has lost it, restart the plugin: it sends it again"
        }
        Role::Client { .. } => {
            "ask the operator; nothing can be paid over the channel, and nothing of yours is at stake"
        }
    };
    Some(Warning::of(factory, "funding_unconfirmed", message, action))
}

/// Money that an operator has, and gives neither liquidity nor money for (S36).
fn paid(engine: &Engine, factory: &Factory, height: Height) -> Option<Warning> {
    let (message, action) = match (
        engine.sale_overdue(factory.instance, height),
        engine.credit_overdue(factory.instance, height),
    ) {
        (Some((msat, since)), _) => (
            format!("{msat} msat are paid for a sale since block {since}, and the operator does nothing"),
            "ask the operator; nothing of it is on chain, so nothing but its word stands for it",
        ),
        (None, Some((msat, since))) => (
            format!("credit of {msat} msat is asked back since block {since}, and doesn't come"),
            "see that a channel with the operator can receive it, ask the operator, or use it: factory-buy",
        ),
        (None, None) => return None,
    };
    Some(Warning::of(factory, "paid_for_nothing", message, action))
}

/// A close that some may have signed for, and that has failed since.
fn not_closed(engine: &Engine, factory: &Factory, height: Height) -> Option<Warning> {
    let failure = engine.close_failure(factory.instance)?;
    if !factory.is_closing(height) || factory.finished_close().is_some() {
        return None;
    }
    let message = format!("it is not closed: at block {} {}", failure.height, failure.what);
    let action = match factory.current.role {
        Role::Lsp => {
            "some may have signed, and nothing moves on its channels: it is tried again at each block at which all are \
             connected; who doesn't come is evicted (factory-evict), which ends it"
        }
        Role::Client { .. } => {
            "this node has signed, and nothing moves on its channels: keep it online; it leaves by itself if the operator \
             doesn't finish the close"
        }
    };
    Some(Warning::of(factory, "not_closed", message, action))
}

/// A warning about members that are connected without the plugin, if any.
fn peers(factory: &Factory, height: Height, node: &Node) -> Option<Warning> {
    let state = factory.state(height);
    if !(state.is_creating() || matches!(state, FactoryState::Active | FactoryState::Dying)) {
        return None;
    }
    let members: Vec<NodeId> = match factory.current.role {
        Role::Lsp => factory.current.clients.clone(),
        Role::Client { lsp, .. } => vec![lsp],
    };
    let without: Vec<String> = members
        .iter()
        .filter(|id| node.peers.iter().any(|peer| peer.id == **id && !peer.supports))
        .map(NodeId::to_string)
        .collect();
    if without.is_empty() {
        return None;
    }
    Some(Warning::of(
        factory,
        "peer_without_plugin",
        format!("connected without the plugin: {}", without.join(", ")),
        "payments go on, but nothing of the factory can be agreed on: ask them to load the plugin",
    ))
}

/// Channels that lightningd has ended before their outputs are on chain (S34).
fn ended(factory: &Factory) -> Vec<Warning> {
    let off_chain = |channel: &OwnChannel| !factory.confirmed.contains_key(&channel.funding.txid);
    let one = |OwnChannel { client, channel_id, .. }| {
        let how = factory.current.ended.get(&channel_id)?;
        let message = format!("channel {channel_id} of client {client}: {how}");
        let action = if how.needs_path() {
            "keep the node online: its way to the chain is published by itself, and lightningd does the rest there"
        } else {
            "nothing can be paid over it, and lightningd claims nothing of it on chain: after the timeout the \
             distribution pays the client its whole capacity"
        };
        Some(Warning::of(factory, "channel_ended", message, action))
    };
    factory.own_channels().filter(off_chain).filter_map(one).collect()
}

/// S39: where copies are to be kept and aren't. That none are to be is in the answer itself.
fn copies(engine: &Engine) -> Option<Warning> {
    let why = engine.keeper_trouble(Keeper::File)?;
    Some(Warning::new(
        "backup_file",
        format!("the backup file takes no copy: {why}"),
        "see that it can be written; until then what this node stores of its factories is nowhere else",
    ))
}

/// S9, S39: records that a keeper had and this node had not.
fn brought_back(engine: &Engine) -> Vec<Warning> {
    let one = |(instance, keeper): (InstanceId, Keeper)| {
        let factory = engine.factory(instance)?;
        let message = format!("records that this node lacked are back: {keeper} had them");
        let action = if factory.has_lost_channels() {
            "run factory-restore again, for channels and payouts that are new to this node, then restart lightningd, so \
             that the chain is read again"
        } else {
            "restart lightningd, so that the chain is read again for them"
        };
        Some(Warning::of(factory, "newer_copy", message, action))
    };
    engine.brought_back().filter_map(one).collect()
}

/// Channels that were accepted as a factory's and are no factory's that is known (S18).
fn suspects(engine: &Engine, node: &Node) -> Vec<Warning> {
    let suspects = engine.suspects();
    let known: Vec<String> = engine.channel_policies().into_iter().map(|(id, _)| id.to_string()).collect();
    node.unconfirmed
        .iter()
        .filter(|(peer, capacity, id)| suspects.contains(&(*peer, *capacity)) && !known.contains(id))
        .map(|(peer, _, id)| {
            Warning::new(
                "unchecked_channel",
                format!("channel {id} with {peer} was opened for a factory that never came to be"),
                "take no payment over it: it may stand on nothing; close it",
            )
        })
        .collect()
}
