//! What an operator asks `factory-create` for.

use factory_engine::Create;
use factory_engine::policy::Config;
use factory_engine::terms::{ClientIndex, Shape, Terms};
use factory_engine::tx::layout::Layout;
use factory_engine::tx::plan::{Delays, Profile, shape_with};
use factory_engine::types::{Amount, Height, InstanceId, NodeId};
use factory_engine::wire::message::{ChannelInFactory, Invite, Message, protocol_id};

use super::{LabError, error};

/// Height at which [`Offer::terms`] are made.
const HEIGHT: Height = 1_000;

/// The parameters of `factory-create`, all but who its clients are: every client has the same capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// What the planner makes the tree's shape from.
    pub profile: Profile,
    /// Capacity of each client's channel.
    pub capacity: Amount,
    /// Stock of each sub-factory; zero for none.
    pub stock: Amount,
    /// Blocks from now to the timeout.
    pub lifetime_blocks: u32,
    /// Length of the dying period before the timeout, blocks.
    pub dying_blocks: u32,
    /// Feerate of the tree's transactions, sat/kw.
    pub tree_feerate: u32,
    /// What each client is given, msat, if it isn't the operator's usual.
    pub push_msat: Option<u64>,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            profile: Profile::Static,
            capacity: Amount::from_sat(100_000),
            stock: Amount::from_sat(20_000),
            lifetime_blocks: 4320,
            dying_blocks: 2016,
            tree_feerate: 1000,
            push_msat: None,
        }
    }
}

impl Offer {
    /// The command to an operator with these settings, in the shape that its planner chooses.
    ///
    /// # Errors
    /// When the shape can't be planned.
    pub fn to(&self, clients: &[NodeId], config: &Config) -> Result<Create, LabError> {
        Ok(self.shaped(clients, shape(clients.len(), self.profile, config)?))
    }

    /// The same in any shape.
    pub fn shaped(&self, clients: &[NodeId], shape: Shape) -> Create {
        Create {
            clients: clients.iter().map(|client| (*client, self.capacity)).collect(),
            stock: self.stock,
            shape,
            lifetime_blocks: self.lifetime_blocks,
            dying_blocks: self.dying_blocks,
            tree_feerate: self.tree_feerate,
            push_msat: self.push_msat,
        }
    }

    /// The terms that an operator with these settings would make of it at height 1,000, for where there is no
    /// engine: sizes and costs depend on neither who it is nor the factory's id.
    pub fn terms(&self, clients: usize, shape: Shape, config: &Config) -> Terms {
        Terms {
            instance: InstanceId([0; 32]),
            lsp: NodeId([2; 33]),
            shape,
            capacities: vec![self.capacity; clients],
            stock: self.stock,
            push_msat: config.push_msat,
            state_step: config.state_step,
            state_count: config.state_count,
            stock_csv: config.stock_csv,
            tree_feerate: self.tree_feerate,
            timeout_height: HEIGHT.saturating_add(self.lifetime_blocks),
            dying_blocks: self.dying_blocks,
            confirm_blocks: config.confirm_blocks,
            margin_blocks: config.margin_blocks,
            funding_confirmations: config.funding_confirmations,
        }
    }
}

/// A client's invitation to a factory of these terms, from whoever they name as operator.
///
/// # Errors
/// When the terms make no factory.
pub fn invitation(terms: &Terms, client: ClientIndex) -> Result<Message, LabError> {
    let layout = Layout::new(terms).map_err(error)?;
    let channel_in_factory = ChannelInFactory {
        factory_protocol: protocol_id(),
        factory_instance: terms.instance,
        blocks_early: layout.blocks_early(client),
    };
    let (instance, terms) = (terms.instance, terms.clone());
    Ok(Invite { instance, attempt: 1, terms, client, price_msat: 0, channel_in_factory }.into())
}

/// What the planner chooses for so many clients, with an operator's delays.
///
/// # Errors
/// When there is no such shape.
pub fn shape(clients: usize, profile: Profile, config: &Config) -> Result<Shape, LabError> {
    let delays = Delays {
        state_step: config.state_step,
        state_count: config.state_count,
        confirm_blocks: config.confirm_blocks,
        margin_blocks: config.margin_blocks,
    };
    shape_with(u32::try_from(clients).map_err(error)?, profile, delays).map_err(error)
}
