//! Connections: the plugin's own link layer over queues of lightning messages.

use factory_engine::Input;
use factory_engine::types::NodeId;
use factory_engine::wire::link::{Incoming, Link, LinkLimits};
use factory_engine::wire::message::{Message, protocol_id};

use crate::{LabError, error};

use super::{Fate, Outgoing, World, next};

impl World {
    /// Connects two nodes that are up.
    ///
    /// # Errors
    /// When one of them is down.
    pub fn connect(&mut self, a: usize, b: usize) -> Result<(), LabError> {
        if self.members[a].engine.is_none() || self.members[b].engine.is_none() {
            return Err(error(format!("member {a} or {b} is down")));
        }
        if self.links.contains_key(&(a, b)) {
            return Ok(());
        }
        for pair in [(a, b), (b, a)] {
            self.links.insert(pair, Link::new(LinkLimits::default()));
            self.transmit(pair.0, pair.1);
        }
        self.reestablish(a, b);
        Ok(())
    }

    /// Whether two nodes are connected.
    pub fn connected(&self, a: usize, b: usize) -> bool {
        self.links.contains_key(&(a, b))
    }

    /// Cuts a connection: what is under way is lost, pending opens end.
    pub fn disconnect(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a, b)).is_none() {
            return;
        }
        self.links.remove(&(b, a));
        for (from, to) in [(a, b), (b, a)] {
            self.wire.remove(&(from, to));
            let peer = self.members[to].id;
            self.members[from].lightningd.forget_opens(Some(peer));
            self.end_unanswered(from, peer);
            if self.members[from].engine.is_some() {
                self.tasks.entry(from).or_default().push_back(Input::PeerDown { peer });
            }
        }
    }

    /// Stops and starts a node, and connects it with the operator (the operator: with every client).
    ///
    /// # Errors
    /// When its records are not understood.
    pub fn restart(&mut self, at: usize) -> Result<(), LabError> {
        self.stop(at);
        self.start(at)?;
        self.reconnect()
    }

    /// Connects the operator with every client, where both are up.
    ///
    /// # Errors
    /// Never; as [`World::connect`].
    pub fn reconnect(&mut self) -> Result<(), LabError> {
        for client in 1..self.members.len() {
            if self.members[super::LSP].engine.is_some() && self.members[client].engine.is_some() {
                self.connect(super::LSP, client)?;
            }
        }
        Ok(())
    }

    pub(super) fn send(&mut self, from: usize, peer: NodeId, message: Message) -> Result<(), LabError> {
        self.judge_sale_message(from, &message);
        self.judge.sent(from, &message);
        let Some(to) = self.member_of(peer).filter(|_| !self.mute.contains(message.name())) else {
            // A stranger, of whom there is nothing but what it says.
            return Ok(());
        };
        let payload = message.encode();
        let fate = match (&mut self.chaos, &mut self.tamper) {
            (Some(chaos), _) => chaos.fate(&Outgoing { from, to, message }),
            (None, Some(tamper)) => tamper(&Outgoing { from, to, message }),
            (None, None) => Fate::Deliver,
        };
        let payloads = match fate {
            Fate::Deliver => vec![payload],
            Fate::Drop => vec![],
            Fate::Twice => vec![payload.clone(), payload],
            Fate::Replace(payloads) => payloads,
        };
        for payload in payloads {
            self.send_raw(from, to, payload)?;
        }
        Ok(())
    }

    /// Sends a payload as it is, whatever it is.
    ///
    /// # Errors
    /// When the link refuses it.
    pub fn send_raw(&mut self, from: usize, to: usize, payload: Vec<u8>) -> Result<(), LabError> {
        // The sender hasn't noticed yet that the connection before ended: this still belongs to it, and
        // the other side's new link knows nothing of it.
        let peer = self.members[to].id;
        let ended = |input: &Input| matches!(input, Input::PeerDown { peer: other } if *other == peer);
        if self.tasks.get(&from).is_some_and(|tasks| tasks.iter().any(ended)) {
            return Ok(());
        }
        // To somebody who isn't connected: lost, as with `sendcustommsg`.
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.send(payload).map_err(|full| error(format!("link {from} to {to}: {full}")))?;
            self.transmit(from, to);
        }
        Ok(())
    }

    fn transmit(&mut self, from: usize, to: usize) {
        let Some(link) = self.links.get_mut(&(from, to)) else { return };
        while let Some(raw) = link.poll_transmit() {
            self.wire.entry((from, to)).or_default().push_back(raw);
        }
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize) -> Result<(), LabError> {
        let Some(raw) = next(&mut self.wire, &(from, to)) else { return Ok(()) };
        self.delivered = self.delivered.saturating_add(1);
        // The end of the connection before is known before anything of this one.
        let peer = self.members[from].id;
        let ended = |input: &Input| matches!(input, Input::PeerDown { peer: other } if *other == peer);
        if let Some(tasks) = self.tasks.get_mut(&to)
            && let Some(place) = tasks.iter().position(ended)
        {
            tasks.remove(place);
            self.feed(to, Input::PeerDown { peer })?;
        }
        let now = self.now;
        let Some(link) = self.links.get_mut(&(to, from)) else {
            return Ok(());
        };
        let incoming = link.receive(&raw, now).map_err(|e| error(format!("link {from} to {to}: {e}")))?;
        self.transmit(to, from);
        let peer = self.members[from].id;
        match incoming {
            Some(Incoming::Message(payload)) => {
                self.feed(to, Input::Message { peer, payload })?;
            }
            Some(Incoming::Protocols(list)) if list.contains(&protocol_id()) => {
                let channels = !self.strangers;
                self.feed(to, Input::PeerUp { peer, channels })?;
            }
            Some(Incoming::Protocols(_)) | None => {}
        }
        Ok(())
    }
}
