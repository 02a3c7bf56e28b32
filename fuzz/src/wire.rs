//! Decoders of what peers send.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bitcoin::SignedAmount;
use bitcoin::secp256k1::{PublicKey, XOnlyPublicKey};
use factory_engine::record::event::LedgerEntry;
use factory_engine::terms::Terms;
use factory_engine::tx::layout::Layout;
use factory_engine::types::{Amount, OutPoint, ScriptBuf, Transaction, Txid};
use factory_engine::wire::codec::{BigSize, Codec, Records, Shared};
use factory_engine::wire::envelope::{Envelope, MESSAGE_TYPE};
use factory_engine::wire::message::{ChannelInFactory, Message};
use factory_engine::wire::words::Words;

use crate::bytes::Bytes;

/// bLIP-56's envelope. What was read and written again is the same, value and bytes.
pub fn envelope(data: &[u8]) {
    // The type in front is no discovery.
    let whole = [&MESSAGE_TYPE.to_be_bytes()[..], data].concat();
    for raw in [data, &whole] {
        let Ok(envelope) = Envelope::decode(raw) else { continue };
        let written = match envelope.encode() {
            Ok(written) => written,
            // An absent list of protocols is written as an empty one.
            Err(_) => {
                assert!(raw.len() > 65_500, "what arrived no longer fits");
                continue;
            }
        };
        assert_eq!(Envelope::decode(&written).as_ref(), Ok(&envelope));
        assert_eq!(envelope.encode().ok(), Some(written));
        assert!(!envelope.name().is_empty());
    }
    // The same walk over the TLVs of an `open_channel`.
    if let Ok(Some(record)) = ChannelInFactory::find_in_open_channel_tlvs(data) {
        assert_eq!(ChannelInFactory::decoded(&record.encoded()), Ok(record));
    }
}

/// Messages of our protocol. Terms that arrive also become a layout, as an invitation's do.
pub fn message(data: &[u8]) {
    let Ok(message) = Message::decode(data) else { return };
    let written = message.encode();
    // Only odd records that nobody knows are left out, and a peer's words are escaped.
    let words = words(&message);
    assert!(words.is_some() || written.len() <= data.len());
    assert_eq!(Message::decode(&written).as_ref(), Ok(&message));
    assert_eq!(message.encode(), written);
    assert!(!message.name().is_empty());
    assert!(words.is_none_or(|words| words.chars().count() <= Words::MOST));
    if let Message::Invite(invite) = &message {
        layout(&invite.terms);
    }
}

/// What a message says to people.
fn words(message: &Message) -> Option<&Words> {
    Some(match message {
        Message::Abort(abort) => &abort.reason,
        Message::SaleAbort(abort) => &abort.reason,
        Message::JitOffer(offer) => &offer.reason,
        Message::CloseAbort(abort) => &abort.reason,
        Message::HandoverRefused(refused) => &refused.reason,
        Message::LeaveRefused(refused) => &refused.reason,
        Message::MoveRefused(refused) => &refused.reason,
        Message::Kept(kept) => return kept.refused.as_ref(),
        Message::Watched(watched) => return watched.refused.as_ref(),
        _ => return None,
    })
}

/// What an invitation's terms lead to, if to anything.
fn layout(terms: &Terms) {
    let Ok(layout) = Layout::new(terms) else { return };
    let clients = terms.clients();
    assert!(clients > 0);
    // What anybody asks at once, for the first, the last and one that does not exist.
    for client in [0, clients - 1, clients, u32::MAX] {
        let path = layout.path(client);
        assert_eq!(path.is_empty(), client >= clients);
        assert!(layout.blocks_early(client) <= layout.worst_blocks_early());
        let cost = layout.exit_cost(client);
        assert!(cost.fees <= layout.funding_value());
    }
    let held: Option<Amount> =
        terms.capacities.iter().try_fold(Amount::ZERO, |sum, next| sum.checked_add(*next));
    assert!(
        held.is_some_and(|held| held < layout.funding_value()),
        "channels are worth less than what holds them"
    );
}

/// TLV streams and everything that stands in their records: what was read is what would be written,
/// byte for byte.
pub fn tlv(data: &[u8]) {
    let mut input = Bytes::new(data);
    let kind = input.byte();
    let rest = input.rest();
    match kind % 24 {
        0 => walk(rest),
        1 => exact::<BigSize>(rest),
        2 => exact::<u8>(rest),
        3 => exact::<u16>(rest),
        4 => exact::<u64>(rest),
        5 => exact::<bool>(rest),
        6 => exact::<String>(rest),
        7 => exact::<Vec<u8>>(rest),
        8 => exact::<Vec<Vec<u16>>>(rest),
        9 => exact::<Vec<(u32, String)>>(rest),
        10 => exact::<BTreeMap<u16, Vec<u8>>>(rest),
        11 => exact::<Amount>(rest),
        12 => exact::<SignedAmount>(rest),
        13 => exact::<Txid>(rest),
        14 => exact::<OutPoint>(rest),
        15 => exact::<Transaction>(rest),
        16 => exact::<PublicKey>(rest),
        17 => exact::<XOnlyPublicKey>(rest),
        18 => exact::<ScriptBuf>(rest),
        19 => exact::<Terms>(rest),
        20 => exact::<Shared<(PublicKey, ScriptBuf)>>(rest),
        21 => exact::<Vec<LedgerEntry>>(rest),
        22 => exact::<ChannelInFactory>(rest),
        _ => exact::<Vec<[u8; 64]>>(rest),
    }
}

fn exact<T: Codec + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(value) = T::decoded(bytes) {
        assert_eq!(value.encoded(), bytes, "{value:?}");
        assert_eq!(T::decoded(bytes), Ok(value));
    }
}

fn walk(bytes: &[u8]) {
    let mut records = Records::new(bytes);
    let mut written = Vec::new();
    let mut last = None;
    loop {
        match records.next_record() {
            Ok(Some((kind, value))) => {
                assert!(last < Some(kind), "types ascend");
                last = Some(kind);
                BigSize(kind).write(&mut written);
                factory_engine::wire::codec::write_counted(value, &mut written);
            }
            Ok(None) => return assert_eq!(written, bytes),
            Err(_) => return assert!(bytes.starts_with(&written)),
        }
    }
}
