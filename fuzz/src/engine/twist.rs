//! Messages that are nearly right: well formed, of the right ceremony, and wrong in one thing.

use bitcoin::TxOut;
use bitcoin::hashes::Hash;
use bitcoin::secp256k1::{PublicKey, XOnlyPublicKey};
use factory_engine::tx::musig::{AggNonce, PartialSig, PubNonce};
use factory_engine::types::{Amount, ChannelId, InstanceId, PaymentHash, PaymentSecret, ScriptBuf, Txid};
use factory_engine::wire::message::Message;
use factory_engine::wire::words::Words;

use super::node::id;
use crate::bytes::Bytes;

/// Changes something.
pub fn twist(message: &mut Message, input: &mut Bytes<'_>) {
    match message {
        Message::Invite(m) => match input.byte() % 12 {
            0 => m.instance = InstanceId(input.array()),
            1 => m.attempt = number(m.attempt, input),
            2 => m.client = number(m.client, input),
            3 => m.price_msat = input.byte().into(),
            4 => m.terms.timeout_height = number(m.terms.timeout_height, input),
            5 => list(&mut m.terms.capacities, input, |amount, input| {
                *amount = Amount::from_sat(u64::from(input.word()).saturating_mul(1 << (input.byte() % 20)));
            }),
            6 => m.terms.tree_feerate = number(m.terms.tree_feerate, input),
            7 => m.terms.shape.leaf.clients_per_sub = input.short(),
            8 => m.terms.shape.leaf.sub_factories = input.short(),
            9 => m.channel_in_factory.blocks_early = input.short(),
            10 => m.terms.lsp = id(input.below(4)),
            _ => m.terms.push_msat = input.word().into(),
        },
        Message::Join(m) => match input.byte() % 5 {
            0 => m.attempt = number(m.attempt, input),
            1 => m.payout = script(&m.payout, input),
            2 => point(&mut m.factory_key, input),
            _ => list(&mut m.nonces, input, |PubNonce(nonce), input| flip(nonce, input)),
        },
        Message::ExpectChannel(m) => match input.byte() % 5 {
            0 => m.attempt = number(m.attempt, input),
            1 => m.client = number(m.client, input),
            2 => m.capacity = Amount::from_sat(input.word().into()),
            3 => m.push_msat = input.word().into(),
            _ => m.channel_in_factory.blocks_early = input.short(),
        },
        Message::Expecting(m) => m.attempt = number(m.attempt, input),
        Message::Propose(m) => match input.byte() % 10 {
            0 => m.attempt = number(m.attempt, input),
            1 => point(&mut m.lsp_key, input),
            2 => {
                let mut clients = m.clients.to_vec();
                list(&mut clients, input, |(key, payout), input| {
                    point(key, input);
                    *payout = script(payout, input);
                });
                m.clients = clients.into();
            }
            3 => m.funding_vout = number(m.funding_vout, input),
            4 => list(&mut m.funding_tx.output, input, |output, input| {
                output.value = Amount::from_sat(output.value.to_sat().wrapping_add(input.byte().into()));
                output.script_pubkey = script(&output.script_pubkey, input);
            }),
            5 => list(&mut m.funding_tx.input, input, |coin, input| {
                coin.previous_output.vout = input.byte().into();
                coin.script_sig = ScriptBuf::from_bytes(input.take(2).to_vec());
            }),
            6 => list(&mut m.channel_scripts, input, |(client, channel), input| {
                *client = number(*client, input);
                *channel = script(channel, input);
            }),
            7 => list(&mut m.foreign_keys, input, |(coin, key), input| {
                *coin = number(*coin, input);
                if let Ok(other) = XOnlyPublicKey::from_slice(&input.array::<32>()) {
                    *key = other;
                }
            }),
            8 => list(&mut m.foreign_hashes, input, |(_, hash), input| flip(hash, input)),
            _ => list(&mut m.nonces, input, |AggNonce(nonce), input| flip(nonce, input)),
        },
        Message::PartialSignatures(m) => match input.byte() % 4 {
            0 => m.attempt = number(m.attempt, input),
            1 => flip(&mut m.transcript, input),
            _ => list(&mut m.signatures, input, |PartialSig(signature), input| flip(signature, input)),
        },
        Message::Ready(m) => match input.byte() % 3 {
            0 => m.attempt = number(m.attempt, input),
            _ => list(&mut m.signatures, input, |signature, input| flip(signature, input)),
        },
        Message::Stored(m) => m.attempt = number(m.attempt, input),
        Message::ChannelCommitted(m) => match input.byte() % 2 {
            0 => m.attempt = number(m.attempt, input),
            _ => m.channel_id = ChannelId(input.array()),
        },
        Message::ChannelChecked(m) => match input.byte() % 2 {
            0 => m.attempt = number(m.attempt, input),
            _ => m.channel_id = ChannelId(input.array()),
        },
        Message::FundingBroadcast(m) => match input.byte() % 2 {
            0 => m.attempt = number(m.attempt, input),
            _ => m.txid = hash(input),
        },
        Message::Resume(m) => match input.byte() % 2 {
            0 => m.attempt = number(m.attempt, input),
            _ => m.phase = input.short(),
        },
        Message::Abort(m) => match input.byte() % 4 {
            0 => m.attempt = number(m.attempt, input),
            1 => m.phase = input.short(),
            2 => m.reason = Words::new(&String::from_utf8_lossy(input.take(5)).repeat(100)),
            _ => m.blames = Some(id(input.below(4))),
        },
        Message::Buy(m) => match input.byte() % 3 {
            0 => m.attempt = number(m.attempt, input),
            1 => m.amount = Amount::from_sat(input.word().into()),
            _ => m.max_price_msat = input.word().into(),
        },
        Message::SaleOffer(m) => match input.byte() % 7 {
            0 => m.number = number(m.number, input),
            1 => m.buyer = number(m.buyer, input),
            2 => m.amount = Amount::from_sat(input.word().into()),
            3 => m.price_msat = input.word().into(),
            4 => m.push_msat = input.word().into(),
            5 => m.channel_script = m.channel_script.take().map(|channel| script(&channel, input)),
            _ => m.channel_in_factory.blocks_early = input.short(),
        },
        Message::SaleJoin(m) => match input.byte() % 3 {
            0 => m.number = number(m.number, input),
            _ => list(&mut m.nonces, input, |PubNonce(nonce), input| flip(nonce, input)),
        },
        Message::SaleCommitted(m) => match input.byte() % 2 {
            0 => m.number = number(m.number, input),
            _ => m.channel_script = script(&m.channel_script, input),
        },
        Message::SaleChecked(m) => m.number = number(m.number, input),
        Message::SalePropose(m) => match input.byte() % 4 {
            0 => m.number = number(m.number, input),
            1 => m.channel_script = script(&m.channel_script, input),
            _ => list(&mut m.nonces, input, |AggNonce(nonce), input| flip(nonce, input)),
        },
        Message::SalePartialSignatures(m) => match input.byte() % 4 {
            0 => m.number = number(m.number, input),
            1 => flip(&mut m.transcript, input),
            _ => list(&mut m.signatures, input, |PartialSig(signature), input| flip(signature, input)),
        },
        Message::SaleReady(m) => match input.byte() % 3 {
            0 => m.number = number(m.number, input),
            _ => list(&mut m.signatures, input, |signature, input| flip(signature, input)),
        },
        Message::SaleStored(m) => m.number = number(m.number, input),
        Message::SaleAbort(m) => match input.byte() % 2 {
            0 => m.number = number(m.number, input),
            _ => m.reason = Words::new(&String::from_utf8_lossy(input.take(5)).repeat(100)),
        },
        Message::AskPrice(m) => match input.byte() % 2 {
            0 => m.attempt = number(m.attempt, input),
            _ => m.amount = Amount::from_sat(input.word().into()),
        },
        Message::Price(m) => match input.byte() % 2 {
            0 => m.amount = Amount::from_sat(input.word().into()),
            _ => m.price_msat = input.word().into(),
        },
        Message::SaleWait(m) => match input.byte() % 2 {
            0 => m.away ^= 1,
            _ => m.seconds = input.word(),
        },
        Message::SaleVoid(m) => m.number = input.word() % 4,
        Message::SaleMissing(m) => m.number = input.word() % 4,
        Message::Handover(m) => match input.byte() % 3 {
            0 => m.attempt = number(m.attempt, input),
            1 => point(&mut m.key.ephemeral, input),
            _ => flip(&mut m.key.sealed, input),
        },
        Message::HandoverStored(m) => m.attempt = number(m.attempt, input),
        Message::HandoverRefused(m) => m.attempt = number(m.attempt, input),
        Message::CreditBack(m) => m.amount_msat = input.word().into(),
        Message::SaleShown(m) => match input.byte() % 3 {
            0 => m.number = input.word() % 4,
            1 => m.amount = Amount::from_sat(input.word().into()),
            _ => m.signatures.clear(),
        },
        Message::MoveAsk(m) => match input.byte() % 3 {
            0 => m.from = ChannelId(input.array()),
            1 => m.to = ChannelId(input.array()),
            _ => m.amount_msat = Some(input.word().into()),
        },
        Message::MoveReady(m) => match input.byte() % 3 {
            0 => m.from = ChannelId(input.array()),
            1 => m.to = ChannelId(input.array()),
            _ => m.cltv_delta = input.word(),
        },
        Message::MoveRefused(m) => m.reason = Words::new(&String::from_utf8_lossy(input.take(5)).repeat(100)),
        Message::CloseAsk(m) => m.round = input.word().into(),
        Message::CloseJoin(m) => match input.byte() % 4 {
            0 => m.round = input.word().into(),
            1 => m.balance = Amount::from_sat(input.word().into()),
            2 => m.script = script(&m.script, input),
            _ => list(&mut m.nonces, input, |PubNonce(nonce), input| flip(nonce, input)),
        },
        Message::ClosePropose(m) => match input.byte() % 4 {
            0 => m.round = input.word().into(),
            1 => list(&mut m.nonces, input, |AggNonce(nonce), input| flip(nonce, input)),
            _ => paid(&mut m.outputs, input),
        },
        Message::ClosePartialSignatures(m) => match input.byte() % 3 {
            0 => m.round = input.word().into(),
            1 => flip(&mut m.transcript, input),
            _ => list(&mut m.signatures, input, |PartialSig(signature), input| flip(signature, input)),
        },
        Message::CloseReady(m) => match input.byte() % 2 {
            0 => flip(&mut m.signature, input),
            _ => paid(&mut m.outputs, input),
        },
        Message::CloseAbort(m) => m.round = input.word().into(),
        Message::LeaveAsk(m) => match input.byte() % 2 {
            0 => m.amount = Amount::from_sat(input.word().into()),
            _ => m.max_price_msat = Some(input.word().into()),
        },
        Message::LeavePrice(m) => match input.byte() % 2 {
            0 => m.amount = Amount::from_sat(input.word().into()),
            _ => m.price_msat = input.word().into(),
        },
        Message::LeaveOpened(m) => match input.byte() % 2 {
            0 => m.price_msat = input.word().into(),
            _ => m.channel_id = ChannelId(input.array()),
        },
        Message::LeaveRefused(m) => {
            m.reason = Words::new(&String::from_utf8_lossy(input.take(5)).repeat(100));
            m.retry = input.byte().is_multiple_of(2).then_some(true);
        }
        Message::AskCopies(m) => m.most = input.word(),
        Message::Copies(m) => list(&mut m.list, input, |(tag, _), input| flip(tag, input)),
        Message::Keep(m) => copy(&mut m.tag, &mut m.counter, &mut m.sealed, input),
        Message::CopyBack(m) => copy(&mut m.tag, &mut m.counter, &mut m.sealed, input),
        Message::Kept(m) => match input.byte() % 3 {
            0 => flip(&mut m.tag, input),
            1 => m.counter = number(m.counter, input),
            _ => m.refused = Some(Words::new(&String::from_utf8_lossy(input.take(5)).repeat(100))),
        },
        Message::AskCopy(m) => flip(&mut m.tag, input),
        Message::ForgetCopy(m) => flip(&mut m.tag, input),
        Message::AskAppointments(m) => flip(&mut m.tag, input),
        Message::Locators(m) => match input.byte() % 2 {
            0 => flip(&mut m.tag, input),
            _ => list(&mut m.list, input, |(locator, _), input| *locator = input.array()),
        },
        Message::Appointments(m) => match input.byte() % 3 {
            0 => list(&mut m.list, input, |(tag, _), input| flip(tag, input)),
            1 => m.height = number(m.height, input),
            _ => m.pays_sat = input.word().into(),
        },
        Message::Watch(m) => match input.byte() % 8 {
            6 => m.trigger = Some(Txid::from_byte_array(input.array())),
            5 => m.counter = number(m.counter, input),
            0 => flip(&mut m.tag, input),
            1 => m.locator = input.array(),
            2 => m.until = number(m.until, input),
            3 => m.since = Some(input.word()),
            4 => m.height = number(m.height, input),
            _ => m.sealed = input.take(60).to_vec(),
        },
        Message::Watched(m) => match input.byte() % 4 {
            0 => flip(&mut m.tag, input),
            1 => m.locator = input.array(),
            2 => m.sum = input.array(),
            _ => m.refused = Some(Words::new(&String::from_utf8_lossy(input.take(5)).repeat(100))),
        },
        Message::AskReceipt(m) => match input.byte() % 3 {
            0 => flip(&mut m.tag, input),
            1 => m.count = number(m.count, input),
            _ => m.sum = input.array(),
        },
        Message::Receipt(m) => match input.byte() % 5 {
            0 => flip(&mut m.tag, input),
            1 => m.count = number(m.count, input),
            2 => m.sum = input.array(),
            3 => m.height = number(m.height, input),
            _ => m.signature = input.take(120).to_vec(),
        },
        Message::Unwatch(m) => match input.byte() % 2 {
            0 => flip(&mut m.tag, input),
            _ => list(&mut m.locators, input, |locator, input| *locator = input.array()),
        },
        Message::JitOffer(m) => match input.byte() % 3 {
            0 => m.amount = Amount::from_sat(input.word().into()),
            1 => m.price_msat = input.word().into(),
            _ => m.reason = Words::new(&String::from_utf8_lossy(input.take(5)).repeat(100)),
        },
        Message::JitAccept(m) => m.attempt = number(m.attempt, input),
        Message::JitOpened(m) => match input.byte() % 4 {
            0 => m.amount = Amount::from_sat(input.word().into()),
            1 => m.price_msat = input.word().into(),
            2 => m.channel_id = ChannelId(input.array()),
            _ => m.outpoint = None,
        },
        Message::SaleInvoice(m) => match input.byte() % 5 {
            0 => m.number = number(m.number, input),
            1 => m.amount_msat = input.word().into(),
            2 => m.payment_hash = PaymentHash(input.array()),
            3 => m.payment_secret = PaymentSecret(input.array()),
            _ => m.min_final_cltv_expiry = input.word(),
        },
    }
}

/// One more, one less, or anything.
fn number(before: u32, input: &mut Bytes<'_>) -> u32 {
    match input.byte() % 4 {
        0 => before.wrapping_add(1),
        1 => before.wrapping_sub(1),
        2 => input.byte().into(),
        _ => input.word(),
    }
}

/// One entry is changed, left out, doubled, or two change places.
fn list<T: Clone>(list: &mut Vec<T>, input: &mut Bytes<'_>, change: impl Fn(&mut T, &mut Bytes<'_>)) {
    let kind = input.byte() % 6;
    let at = input.below(list.len());
    if list.is_empty() {
        return;
    }
    match kind {
        0 => drop(list.remove(at)),
        1 => list.insert(at, list[at].clone()),
        2 => list.swap(0, at),
        3 => list.clear(),
        _ => change(&mut list[at], input),
    }
}

fn flip(bytes: &mut [u8], input: &mut Bytes<'_>) {
    let at = input.below(bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= input.byte();
    }
}

/// A copy on its way: another name, another age, other bytes.
fn copy(tag: &mut [u8], counter: &mut u32, sealed: &mut [u8], input: &mut Bytes<'_>) {
    match input.byte() % 3 {
        0 => flip(tag, input),
        1 => *counter = number(*counter, input),
        _ => flip(sealed, input),
    }
}

fn script(before: &ScriptBuf, input: &mut Bytes<'_>) -> ScriptBuf {
    let mut bytes = before.to_bytes();
    match input.byte() % 4 {
        0 => bytes = input.chunk().to_vec(),
        1 => bytes.truncate(input.byte().into()),
        _ => flip(&mut bytes, input),
    }
    ScriptBuf::from_bytes(bytes)
}

/// Its negation, or another's: whatever is a point at all.
fn point(key: &mut PublicKey, input: &mut Bytes<'_>) {
    let mut bytes = key.serialize();
    match input.byte() % 2 {
        0 => bytes[0] ^= 1,
        _ => flip(&mut bytes[1..], input),
    }
    if let Ok(other) = PublicKey::from_slice(&bytes) {
        *key = other;
    }
}

fn hash(input: &mut Bytes<'_>) -> Txid {
    use bitcoin::hashes::Hash;
    Txid::from_byte_array(input.array())
}

/// Outputs of a close: other values, other scripts, more or fewer of them.
fn paid(outputs: &mut Vec<TxOut>, input: &mut Bytes<'_>) {
    list(outputs, input, |output, input| {
        output.value = Amount::from_sat(output.value.to_sat().wrapping_add(input.byte().into()));
        output.script_pubkey = script(&output.script_pubkey, input);
    });
}
