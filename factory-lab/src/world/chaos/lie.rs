//! Lies: what a member sends in place of what its engine says.

use bitcoin::{Amount, ScriptBuf};

use crate::world::{LSP, Outgoing};
use factory_engine::tx::musig::{AggNonce, FactoryKey, MasterSecret};
use factory_engine::wire::message::{Abort, HandoverRefused, Message, Propose};
use factory_engine::wire::words::Words;

use crate::fault::{Dice, Kind};

/// A member that lies, and how.
#[derive(Debug, Clone)]
pub struct Lie {
    /// Number of the member.
    pub at: usize,
    /// Which lie it tells.
    pub kind: Kind,
    /// To whom, where it is one of many.
    pub to: usize,
    /// Whether it lies in sales only: it is in the factory by then.
    in_sales: bool,
    dice: Dice,
}

impl Lie {
    /// A lie of some member to another.
    pub fn new(at: usize, kind: Kind, to: usize, mut dice: Dice) -> Self {
        let in_sales = dice.one_in(2);
        Self { at, kind, to, in_sales, dice }
    }

    /// What is sent in place of a message; nothing where the message stays as it is.
    pub fn tell(&mut self, out: &Outgoing, heard: &[Outgoing]) -> Option<Vec<Vec<u8>>> {
        let name = out.message.name();
        let of_sale = name.starts_with("sale_") || name.starts_with("jit_");
        let of_key = matches!(self.kind, Kind::KeyRefused | Kind::KeyKept);
        if out.from != self.at || (self.in_sales && !of_sale && !of_key) {
            return None;
        }
        if self.kind == Kind::Withhold {
            let kept = if self.in_sales { "sale_partial_signatures" } else { "sale_stored" };
            return (name == kept).then(Vec::new);
        }
        if matches!(self.kind, Kind::KeyRefused | Kind::KeyKept) {
            return self.of_key(out, heard);
        }
        if self.kind == Kind::Replay {
            return self.replay(out, heard);
        }
        if self.at == LSP && out.to != self.to {
            return None;
        }
        let told: Vec<Message> = match (&out.message, self.kind) {
            (Message::Propose(m), Kind::SiblingScript) => sibling(m).into_iter().collect(),
            (Message::Propose(m), Kind::ForeignKey) => vec![self.foreign_key(m)?],
            (Message::Propose(m), Kind::OtherTree) => self.other_tree(m),
            (Message::Propose(m), Kind::SameFunding) => vec![same_funding(m, out.to, heard)?],
            (Message::Propose(m), Kind::WrongAmounts) => {
                let mut m = m.clone();
                let vout = usize::try_from(m.funding_vout).ok()?;
                let value = &mut m.funding_tx.output.get_mut(vout)?.value;
                *value = value.checked_sub(Amount::from_sat(1))?;
                vec![m.into()]
            }
            (m, kind) if of_sale => vec![self.in_sale(m, kind)?],
            (Message::ExpectChannel(m), Kind::WrongAmounts) if self.dice.one_in(2) => {
                let mut m = m.clone();
                m.capacity = m.capacity.checked_sub(Amount::from_sat(1))?;
                vec![m.into()]
            }
            (Message::Invite(m), Kind::WrongAmounts) if m.attempt > 1 => {
                let mut m = m.clone();
                let first = m.terms.capacities.first_mut()?;
                *first = first.checked_sub(Amount::from_sat(1))?;
                vec![m.into()]
            }
            (Message::Join(m), Kind::BadNonce) => {
                let mut m = m.clone();
                match self.dice.below(3) {
                    0 => m.nonces.first_mut()?.0 = [0; 66],
                    1 => m.nonces.swap(0, 1),
                    _ => m.nonces.truncate(1),
                }
                vec![m.into()]
            }
            (Message::PartialSignatures(m), Kind::BadSignature) => {
                let mut m = m.clone();
                m.signatures.first_mut()?.0[31] ^= 1;
                vec![m.into()]
            }
            (Message::Ready(m), Kind::BadSignature) => {
                let mut m = m.clone();
                let count = m.signatures.len();
                m.signatures.get_mut(self.dice.below(count))?[63] ^= 1;
                vec![m.into()]
            }
            (Message::PartialSignatures(m), Kind::Transcript) => {
                let mut m = m.clone();
                m.transcript[0] ^= 1;
                vec![m.into()]
            }
            (m, Kind::FalseBlame) if self.dice.one_in(4) => {
                let (instance, attempt) = (m.instance(), m.attempt());
                let blames = heard.iter().map(|out| &out.message).find_map(|m| match m {
                    Message::Invite(invite) => Some(invite.terms.lsp),
                    _ => None,
                });
                let retry = u8::from(self.dice.one_in(2));
                let reason = "it was somebody else".into();
                vec![Abort { instance, attempt, phase: 3, reason, blames, retry }.into()]
            }
            _ => vec![],
        };
        (!told.is_empty()).then(|| told.iter().map(Message::encode).collect())
    }

    /// A lie about a sale.
    fn in_sale(&mut self, message: &Message, kind: Kind) -> Option<Message> {
        let mut message = message.clone();
        match (&mut message, kind) {
            (Message::SaleOffer(m), Kind::WrongAmounts) => {
                m.amount = m.amount.checked_sub(Amount::from_sat(1))?;
            }
            (Message::SaleOffer(m), Kind::OtherSale) => match self.dice.below(12) {
                0 => m.amount = m.amount.checked_add(Amount::from_sat(1))?,
                1 => m.buyer ^= 1,
                2 => m.number = m.number.saturating_add(1),
                3 => m.push_msat = m.push_msat.saturating_add(1),
                4 => m.channel_in_factory.blocks_early = m.channel_in_factory.blocks_early.saturating_sub(1),
                5 => m.channel_script = Some(self.some_script()),
                6..9 => m.price_msat = m.price_msat.saturating_add(5_000),
                _ => return None,
            },
            (Message::SaleInvoice(m), Kind::OtherSale) => match self.dice.below(3) {
                0 => m.amount_msat = m.amount_msat.saturating_add(1),
                1 => m.amount_msat = m.amount_msat.saturating_mul(2),
                _ => return None,
            },
            (Message::JitOffer(m), Kind::OtherSale) => match self.dice.below(3) {
                0 => m.price_msat = m.price_msat.saturating_add(5_000),
                1 => m.amount = m.amount.checked_add(Amount::from_sat(1))?,
                _ => return None,
            },
            (Message::JitOpened(m), Kind::OtherSale) => match self.dice.below(3) {
                0 => m.price_msat = m.price_msat.saturating_add(5_000),
                1 => m.amount = m.amount.checked_sub(Amount::from_sat(1))?,
                _ => return None,
            },
            (Message::SaleCommitted(m), Kind::OtherSale) if self.dice.one_in(3) => {
                m.channel_script = self.some_script();
            }
            (Message::SalePropose(m), Kind::OtherSale) => match self.dice.below(3) {
                0 => m.channel_script = self.some_script(),
                1 if m.nonces.len() > 1 => m.nonces.swap(0, 1),
                _ => m.nonces.first_mut()?.0 = [2; 66],
            },
            (Message::SalePropose(m), Kind::SiblingScript) => {
                m.channel_script = ScriptBuf::from_bytes(vec![0x51]);
            }
            (Message::SaleJoin(m), Kind::BadNonce) => match self.dice.below(3) {
                0 => m.nonces.first_mut()?.0 = [0; 66],
                1 if m.nonces.len() > 1 => m.nonces.swap(0, 1),
                _ => m.nonces.truncate(1),
            },
            (Message::SalePartialSignatures(m), Kind::BadSignature) => {
                let count = m.signatures.len();
                m.signatures.get_mut(self.dice.below(count))?.0[31] ^= 1;
            }
            (Message::SaleReady(m), Kind::BadSignature) => {
                let count = m.signatures.len();
                m.signatures.get_mut(self.dice.below(count))?[63] ^= 1;
            }
            (Message::SalePartialSignatures(m), Kind::Transcript) => m.transcript[0] ^= 1,
            _ => return None,
        }
        Some(message)
    }

    /// A script as a channel has it, and nobody's.
    fn some_script(&mut self) -> ScriptBuf {
        ScriptBuf::from_bytes(self.dice.next_number().to_be_bytes().to_vec()).to_p2wsh()
    }

    /// A lie about a key that is handed over: always the same one.
    fn of_key(&mut self, out: &Outgoing, heard: &[Outgoing]) -> Option<Vec<Vec<u8>>> {
        let how = self.dice.clone().below(4);
        // Half of the operators take everybody else's key.
        if self.at == LSP && self.in_sales && out.to != self.to {
            return None;
        }
        let theirs = heard.iter().rev().find_map(|out| match &out.message {
            Message::Handover(m) => Some(m.clone()),
            _ => None,
        });
        match (&out.message, how) {
            (Message::HandoverStored(_) | Message::Handover(_), 0) => Some(vec![]),
            (Message::HandoverStored(m), 1) => {
                let (instance, attempt) = (m.instance, m.attempt);
                let refused = HandoverRefused { instance, attempt, reason: Words::new("not today") };
                Some(vec![Message::from(refused).encode()])
            }
            (Message::HandoverStored(_), 2) => Some(vec![Message::from(theirs?).encode()]),
            (Message::HandoverStored(m), _) => {
                let mut other = m.clone();
                other.attempt = other.attempt.saturating_add(1);
                Some(vec![Message::from(other).encode(), Message::from(theirs?).encode()])
            }
            (Message::Handover(m), 1) => {
                let mut wrong = m.clone();
                wrong.key.sealed[7] ^= 1;
                Some(vec![Message::from(wrong).encode()])
            }
            (Message::Handover(m), 2) => {
                // Another client's, or of another factory; as if it were its own.
                let mut foreign = theirs?;
                (foreign.instance, foreign.attempt) = (m.instance, m.attempt);
                Some(vec![Message::from(foreign).encode()])
            }
            (Message::Handover(m), _) => {
                let mut wrong = m.clone();
                wrong.key.sealed[7] ^= 1;
                Some(vec![out.message.encode(), Message::from(wrong).encode()])
            }
            _ => None,
        }
    }

    fn replay(&mut self, out: &Outgoing, heard: &[Outgoing]) -> Option<Vec<Vec<u8>>> {
        if !self.dice.one_in(3) {
            return None;
        }
        let known: Vec<&Outgoing> =
            heard.iter().filter(|other| other.from == self.at || other.to == self.at).collect();
        let old = known.get(self.dice.below(known.len()))?;
        Some(vec![out.message.encode(), old.message.encode()])
    }

    fn foreign_key(&mut self, propose: &Propose) -> Option<Message> {
        let mut m = propose.clone();
        let foreign = FactoryKey::derive(&MasterSecret::new([7; 32]), m.instance, 1);
        // Everybody else's keys stay, so that only the client whose place it is can see it; sometimes
        // it is not the receiver's place.
        let place = self.dice.below(m.clients.len());
        let mut clients = m.clients.to_vec();
        clients.get_mut(place)?.0 = foreign.public();
        m.clients = clients.into();
        refund(&mut m);
        Some(m.into())
    }

    fn other_tree(&mut self, propose: &Propose) -> Vec<Message> {
        let mut m = propose.clone();
        match self.dice.below(4) {
            0 if m.clients.len() > 1 => {
                let last = m.clients.len().saturating_sub(1);
                let payout = m.clients[last].1.clone();
                let mut clients = m.clients.to_vec();
                clients[0].1 = payout;
                m.clients = clients.into();
            }
            1 if m.nonces.len() > 1 => m.nonces.swap(0, 1),
            2 => {
                let second = Propose { nonces: m.nonces.iter().rev().copied().collect(), ..m.clone() };
                return vec![m.into(), second.into()];
            }
            _ => {
                if let Some(nonce) = m.nonces.first_mut() {
                    *nonce = AggNonce([2; 66]);
                }
            }
        }
        vec![m.into()]
    }
}

/// The funding output pays whatever key the proposal's members have: a lie that adds up.
fn refund(propose: &mut Propose) {
    let mut keys: Vec<_> = propose.clients.iter().map(|(key, _)| *key).collect();
    keys.push(propose.lsp_key);
    let Ok(agg) = factory_engine::tx::musig::KeyAgg::new(&keys, None) else { return };
    let script = factory_engine::tx::scripts::key_script(agg.output_key());
    let vout = usize::try_from(propose.funding_vout).unwrap_or(usize::MAX);
    if let Some(output) = propose.funding_tx.output.get_mut(vout) {
        output.script_pubkey = script;
    }
}

fn sibling(propose: &Propose) -> Option<Message> {
    let mut m = propose.clone();
    let (_, script) = m.channel_scripts.last_mut()?;
    *script = ScriptBuf::from_bytes(vec![0x51]);
    Some(m.into())
}

/// An earlier attempt's funding under this attempt's tree.
fn same_funding(propose: &Propose, to: usize, heard: &[Outgoing]) -> Option<Message> {
    let earlier = heard.iter().find_map(|out| match &out.message {
        Message::Propose(old) if out.to == to && old.attempt < propose.attempt => Some(old),
        _ => None,
    })?;
    let mut m = propose.clone();
    m.funding_tx = earlier.funding_tx.clone();
    m.funding_vout = earlier.funding_vout;
    Some(m.into())
}
