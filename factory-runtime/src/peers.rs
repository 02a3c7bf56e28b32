//! Connections and their links.
//!
//! Until every block is handled nobody hears from us, not even which protocols we speak: what a factory is
//! at a height that isn't the chain's, or at none, is nothing to answer from. An honest peer sends no
//! message before it has our list, so none is lost.

use std::collections::HashMap;

use factory_engine::Input;
use factory_engine::types::{Millis, NodeId};
use factory_engine::wire::link::{Incoming, Link, LinkError, LinkLimits};
use factory_engine::wire::message::{Message, PROTOCOL_ID, PROTOCOL_NAME};
use factory_engine::wire::protocol::protocol_name;

use super::Node;

/// Of a peer's protocols that aren't ours, how many a line of the log has.
const NAMED: usize = 4;

/// How we learnt of a connection. A peer's first message, or `listpeers`, may be ahead of the
/// `connect` notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Message,
    Listed,
    Notified,
}

struct Connection {
    number: u64,
    seen: Seen,
    /// Whether the peer set our feature bit; nothing goes out before we know.
    supports: Option<bool>,
    /// Whether this node has a channel with it.
    channels: bool,
    /// Whether the engine was told that the peer is up.
    up: bool,
    /// We asked lightningd to end it: nothing more is read.
    dropped: bool,
    link: Link,
}

impl Connection {
    fn new(number: u64, seen: Seen) -> Self {
        Self {
            number,
            seen,
            supports: None,
            channels: false,
            up: false,
            dropped: false,
            link: Link::new(LinkLimits::default()),
        }
    }

    /// Sends whatever may go out, once we are `open`.
    fn pump(&mut self, peer: NodeId, open: bool, node: &impl Node) {
        if !open || self.supports != Some(true) {
            return;
        }
        while let Some(raw) = self.link.poll_transmit() {
            node.transmit(peer, raw);
        }
    }

    /// `PeerUp`, the first time that we are `open` and both the features and the list of protocols are right.
    fn rise(&mut self, peer: NodeId, open: bool) -> Option<Input> {
        if !open || self.up || self.supports != Some(true) || self.link.peer_speaks() != Some(true) {
            return None;
        }
        self.up = true;
        Some(Input::PeerUp { peer, channels: self.channels })
    }
}

/// Every connection, and whether peers are talked to yet.
#[derive(Default)]
pub(super) struct Peers {
    /// Every block was handled, once.
    open: bool,
    connections: HashMap<NodeId, Connection>,
}

impl Peers {
    /// Every block is handled: peers hear from us. Gives those that are up now.
    pub(super) fn open(&mut self, node: &impl Node) -> Vec<Input> {
        if std::mem::replace(&mut self.open, true) {
            return vec![];
        }
        let greeted = self.connections.iter_mut().filter(|(_, connection)| !connection.dropped);
        greeted
            .filter_map(|(peer, connection)| {
                connection.pump(*peer, true, node);
                connection.rise(*peer, true)
            })
            .collect()
    }

    /// Inputs that a new connection leads to.
    pub(super) fn connected(&mut self, peer: NodeId, number: u64) -> Option<Input> {
        match self.connections.get_mut(&peer) {
            Some(connection) if connection.seen != Seen::Notified => {
                // The same connection, seen earlier by other means.
                connection.seen = Seen::Notified;
                connection.number = number;
                None
            }
            _ => {
                let down = self.disconnected(peer);
                self.connections.insert(peer, Connection::new(number, Seen::Notified));
                down
            }
        }
    }

    /// A peer that `listpeers` showed at start-up.
    pub(super) fn listed(&mut self, peer: NodeId, number: u64) {
        let fresh = || Connection::new(number, Seen::Listed);
        let connection = self.connections.entry(peer).or_insert_with(fresh);
        if connection.seen == Seen::Message {
            connection.seen = Seen::Listed;
            connection.number = number;
        }
    }

    /// Whether the peer's features have our bit; the input that it leads to, if any.
    pub(super) fn features(
        &mut self,
        peer: NodeId,
        number: u64,
        (supports, channels): (bool, bool),
        node: &impl Node,
    ) -> Option<Input> {
        let connection = self.connections.get_mut(&peer)?;
        if connection.number != number {
            // Of an earlier connection, or of a look that came second.
            return None;
        }
        connection.supports = Some(supports);
        connection.channels = channels;
        connection.pump(peer, self.open, node);
        connection.rise(peer, self.open)
    }

    /// Ends a connection; [`Input::PeerDown`] if the engine knew of it.
    pub(super) fn disconnected(&mut self, peer: NodeId) -> Option<Input> {
        let connection = self.connections.remove(&peer)?;
        connection.up.then_some(Input::PeerDown { peer })
    }

    /// A lightning message of type 32800. What it is acknowledged with waits for [`Self::acknowledge`].
    pub(super) fn receive(
        &mut self,
        peer: NodeId,
        raw: &[u8],
        now: Millis,
        node: &impl Node,
    ) -> Option<Input> {
        let fresh = || Connection::new(0, Seen::Message);
        let connection = self.connections.entry(peer).or_insert_with(fresh);
        if connection.dropped {
            return None;
        }
        match connection.link.receive(raw, now) {
            Ok(Some(Incoming::Message(_))) if !self.open => {
                log::warn!("{peer}: ignored a factory message: it came before our list of protocols");
                None
            }
            Ok(Some(Incoming::Message(payload))) => Some(Input::Message { peer, payload }),
            Ok(Some(Incoming::Protocols(theirs))) => {
                if !theirs.contains(&PROTOCOL_ID) {
                    let theirs: Vec<String> =
                        theirs.iter().take(NAMED).map(|protocol| protocol_name(*protocol)).collect();
                    let theirs = theirs.join(", ");
                    log::info!(
                        "{peer}: no factory with it: it speaks {theirs}, and this node {PROTOCOL_NAME} alone"
                    );
                }
                connection.pump(peer, self.open, node);
                connection.rise(peer, self.open)
            }
            Ok(None) => None,
            Err(error @ (LinkError::TooFast { .. } | LinkError::NotListed { .. })) => {
                self.end(peer, &error.to_string(), node);
                None
            }
            Err(error) => {
                log::warn!("{peer}: ignored a factory message: {error}");
                None
            }
        }
    }

    /// Once a message was handled: its acknowledgement has gone with an answer, or goes by itself. And what
    /// it acknowledged makes room for more.
    pub(super) fn acknowledge(&mut self, peer: NodeId, node: &impl Node) {
        if let Some(connection) = self.connections.get_mut(&peer).filter(|connection| !connection.dropped) {
            connection.pump(peer, self.open, node);
        }
    }

    /// Queues a message of ours.
    pub(super) fn send(&mut self, peer: NodeId, message: &Message, node: &impl Node) {
        let Some(connection) = self.connections.get_mut(&peer) else {
            log::debug!("{peer}: {} not sent: not connected", message.name());
            return;
        };
        match connection.link.send(message) {
            Ok(()) => connection.pump(peer, self.open, node),
            Err(error) => log::warn!("{peer}: {} not sent: {error}", message.name()),
        }
    }

    /// Disconnects a peer that broke the rules, once.
    pub(super) fn end(&mut self, peer: NodeId, reason: &str, node: &impl Node) {
        let fresh = || Connection::new(0, Seen::Message);
        let connection = self.connections.entry(peer).or_insert_with(fresh);
        if !std::mem::replace(&mut connection.dropped, true) {
            log::warn!("{peer}: disconnecting: {reason}");
            node.disconnect(peer);
        }
    }
}
