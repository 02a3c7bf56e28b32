//! What `superscalar/1` says inside a piggyback: `u16 type | TLV stream`.
//!
//! Every message names its factory instance and the attempt at creating it, except those about copies. Lists of
//! nonces and signatures follow the order of the layout's signing sessions for whoever they are from or for.

use crate::terms::{ClientIndex, Terms};
use crate::tx::musig::{AggNonce, PartialSig, PubNonce, PublicKey, XOnlyPublicKey};
use crate::types::{
    Amount, ChannelId, Height, InstanceId, NodeId, OutPoint, PaymentHash, PaymentSecret, ProtocolId,
    ScriptBuf, Transaction, Txid,
};

use super::codec::{Codec, DecodeError, Records, Shared, plain_codec, tlv_enum, tlv_struct};
use super::words::Words;

/// The protocol's name and major version.
pub const PROTOCOL_NAME: &str = "superscalar/1";

pub use crate::types::PROTOCOL_ID;

/// [`PROTOCOL_ID`]: bLIP-56's `factory_protocol_id` of `superscalar/1`.
pub const fn protocol_id() -> ProtocolId {
    PROTOCOL_ID
}

/// `channel_in_factory`, TLV 65600 of `open_channel` (bLIP-56): which factory a channel stands in.
/// `superscalar/1` sends the same record, byte for byte, ahead of the open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelInFactory {
    /// bLIP-56's `factory_protocol_id`.
    pub factory_protocol: ProtocolId,
    /// bLIP-56's `factory_instance_id`.
    pub factory_instance: InstanceId,
    /// bLIP-56's `factory_early_warning_time`: how many blocks before an HTLC's expiry the exit has
    /// to begin.
    pub blocks_early: u16,
}

impl ChannelInFactory {
    /// Type of the record in `open_channel`'s TLV stream.
    pub const TLV_TYPE: u64 = 65600;

    /// Looks for the record among the TLVs of an `open_channel`. Other records are none of our
    /// business, whatever their type: lightningd judges them.
    pub fn find_in_open_channel_tlvs(tlvs: &[u8]) -> Result<Option<Self>, DecodeError> {
        let mut records = Records::new(tlvs);
        while let Some((kind, value)) = records.next_record()? {
            if kind == Self::TLV_TYPE {
                let found = Self::decoded(value);
                return found.map(Some).map_err(|e| e.inside("channel_in_factory"));
            }
        }
        Ok(None)
    }
}

// The record's value: 32, 32 and 2 bytes.
plain_codec!(ChannelInFactory { factory_protocol, factory_instance, blocks_early });

/// A `tlv_struct!` that begins with the two fields of every message.
macro_rules! message_struct {
    (
        $(#[$meta:meta])*
        pub struct $name:ident { $($fields:tt)* }
    ) => {
        tlv_struct! {
            $(#[$meta])*
            pub struct $name {
                /// The factory (bLIP-56's `factory_instance_id`).
                pub instance: InstanceId => 0,
                /// Which attempt at creating it, from 1.
                pub attempt: u32 => 2,
                $($fields)*
            }
        }
    };
}

mod close;
pub use close::*;
mod handover;
pub use handover::*;
mod keep;
pub use keep::*;
mod leave;
pub use leave::*;
mod moves;
mod sale;
pub use moves::*;
pub use sale::*;
mod tower;
pub use tower::*;

message_struct! {
    /// L → client: would you be in this factory, on these terms?
    pub struct Invite {
        /// All that the factory fixes at birth.
        pub terms: Terms => 4,
        /// Which client the receiver would be, in leaf order.
        pub client: ClientIndex => 6,
        /// What L asks for it, msat.
        pub price_msat: u64 => 8,
        /// The record of the channel to come.
        pub channel_in_factory: ChannelInFactory => 65600,
    }
}

message_struct! {
    /// Client → L: yes, with these keys and nonces.
    pub struct Join {
        /// The client's key in this factory.
        pub factory_key: PublicKey => 4,
        /// Where its share goes should the factory end by its timeout.
        pub payout: ScriptBuf => 6,
        /// A fresh public nonce for each session that it will sign.
        pub nonces: Vec<PubNonce> => 8,
    }
}

message_struct! {
    /// L → client: an `open_channel` is about to come that belongs to this factory.
    pub struct ExpectChannel {
        /// Which client the receiver is, in leaf order.
        pub client: ClientIndex => 4,
        /// The channel's capacity, sat.
        pub capacity: Amount => 6,
        /// What L pushes to the client, msat.
        pub push_msat: u64 => 8,
        /// The record that `open_channel` itself can't carry on stock lightningd.
        pub channel_in_factory: ChannelInFactory => 65600,
    }
}

message_struct! {
    /// Client → L: I do expect it, go on.
    pub struct Expecting {}
}

message_struct! {
    /// L → client: all that it takes to rebuild the client's part of the tree and sign it.
    pub struct Propose {
        /// L's key in this factory.
        pub lsp_key: PublicKey => 4,
        /// Factory key and payout script of every client, in leaf order; the same for all of them.
        pub clients: Shared<(PublicKey, ScriptBuf)> => 6,
        /// The unsigned funding transaction: native segwit inputs only, so that its txid is final. A
        /// client sees from it what its tree will stand on, and which inputs to watch (S12).
        pub funding_tx: Transaction => 8,
        /// Index of the factory's output in it.
        pub funding_vout: u32 => 10,
        /// The funding script of each channel in the client's leaf.
        pub channel_scripts: Vec<(ClientIndex, ScriptBuf)> => 12,
        /// Output keys of the coins beside the client's path, by coin.
        pub foreign_keys: Vec<(u32, XOnlyPublicKey)> => 14,
        /// Transcript hashes of the same coins.
        pub foreign_hashes: Vec<(u32, [u8; 32])> => 16,
        /// The aggregate nonce of each session that the client signs.
        pub nonces: Vec<AggNonce> => 18,
    }
}

impl Propose {
    /// The type of the record of `clients`.
    pub const CLIENTS: u64 = 6;
}

message_struct! {
    /// Client → L: my signatures.
    pub struct PartialSignatures {
        /// Hash over terms, keys and aggregate nonces, as the client saw them (S6).
        pub transcript: [u8; 32] => 4,
        /// One for each session that the client signs.
        pub signatures: Vec<PartialSig> => 6,
    }
}

message_struct! {
    /// L → client: the finished signatures of your path and distributions. Store them.
    pub struct Ready {
        /// BIP-340, one for each session that the client signed.
        pub signatures: Vec<[u8; 64]> => 4,
    }
}

message_struct! {
    /// Client → L: verified and durable.
    pub struct Stored {}
}

message_struct! {
    /// L → client: the channel is complete on L's node; check it against your leaf.
    pub struct ChannelCommitted {
        /// The channel that lightningd committed (BOLT 2's `channel_id`).
        pub channel_id: ChannelId => 4,
    }
}

message_struct! {
    /// Client → L: my node's record of the channel matches my leaf.
    pub struct ChannelChecked {
        /// The channel that was compared with the leaf (BOLT 2's `channel_id`).
        pub channel_id: ChannelId => 4,
    }
}

message_struct! {
    /// L → client: the funding transaction is out.
    pub struct FundingBroadcast {
        /// Id of the funding transaction.
        pub txid: Txid => 4,
    }
}

message_struct! {
    /// Either way, after a reconnection: where I stand.
    pub struct Resume {
        /// The sender's phase of the ceremony.
        pub phase: u16 => 4,
    }
}

message_struct! {
    /// Either way: this attempt is over.
    pub struct Abort {
        /// The sender's phase of the ceremony.
        pub phase: u16 => 4,
        /// Why, for people.
        pub reason: Words => 6,
        /// The member at fault, if it was one.
        pub blames: Option<NodeId> => 8,
        /// Whether another attempt makes sense; 0 if not.
        pub retry: u8 => 10,
    }
}

tlv_enum! {
    /// Any message of `superscalar/1`, by its type.
    pub enum Message {
        /// L → client: would you be in this factory?
        2 "invite" => Invite(Invite),
        /// Client → L: yes, with these keys and nonces.
        4 "join" => Join(Join),
        /// L → client: an `open_channel` is about to come.
        8 "expect_channel" => ExpectChannel(ExpectChannel),
        /// Client → L: I expect it.
        10 "expecting" => Expecting(Expecting),
        /// L → client: what to rebuild and sign.
        12 "propose" => Propose(Propose),
        /// Client → L: my signatures.
        14 "partial_signatures" => PartialSignatures(PartialSignatures),
        /// L → client: the finished signatures.
        16 "ready" => Ready(Ready),
        /// Client → L: the finished signatures are durable.
        18 "stored" => Stored(Stored),
        /// L → client: check your channel.
        20 "channel_committed" => ChannelCommitted(ChannelCommitted),
        /// Client → L: my channel is what my leaf pays.
        22 "channel_checked" => ChannelChecked(ChannelChecked),
        /// L → client: the funding transaction is out.
        24 "funding_broadcast" => FundingBroadcast(FundingBroadcast),
        /// Either way: where I stand.
        26 "resume" => Resume(Resume),
        /// Either way: this attempt is over.
        28 "abort" => Abort(Abort),
        /// Client → L: sell me some stock.
        30 "buy" => Buy(Buy),
        /// L → client: one of your sub-factory buys.
        32 "sale_offer" => SaleOffer(SaleOffer),
        /// Client → L: I would sign.
        34 "sale_join" => SaleJoin(SaleJoin),
        /// L → buyer: check your channel.
        36 "sale_committed" => SaleCommitted(SaleCommitted),
        /// Buyer → L: my channel is what the sale pays.
        38 "sale_checked" => SaleChecked(SaleChecked),
        /// L → client: what to rebuild and sign.
        40 "sale_propose" => SalePropose(SalePropose),
        /// Client → L: my signatures.
        42 "sale_partial_signatures" => SalePartialSignatures(SalePartialSignatures),
        /// L → client: the finished signatures.
        44 "sale_ready" => SaleReady(SaleReady),
        /// Client → L: the sale's signatures are durable.
        46 "sale_stored" => SaleStored(SaleStored),
        /// Either way: no sale, or not now.
        48 "sale_abort" => SaleAbort(SaleAbort),
        /// Client → L: what would it cost?
        50 "ask_price" => AskPrice(AskPrice),
        /// L → client: a channel would cost this.
        52 "price" => Price(Price),
        /// L → buyer: pay this for the channel.
        54 "sale_invoice" => SaleInvoice(SaleInvoice),
        /// L → buyer: clients that have to sign are away.
        56 "sale_wait" => SaleWait(SaleWait),
        /// L → buyer: an ordinary channel instead?
        58 "jit_offer" => JitOffer(JitOffer),
        /// Buyer → L: yes, open the ordinary channel.
        60 "jit_accept" => JitAccept(JitAccept),
        /// L → buyer: the ordinary channel is open.
        62 "jit_opened" => JitOpened(JitOpened),
        /// L → client: a sale that was signed for never will be finished.
        64 "sale_void" => SaleVoid(SaleVoid),
        /// Client → L: pay me my credit back.
        66 "credit_back" => CreditBack(CreditBack),
        /// Client → L: show me the sale that I don't know.
        68 "sale_missing" => SaleMissing(SaleMissing),
        /// L → client: a sale that it has signed.
        70 "sale_shown" => SaleShown(SaleShown),
        /// Client → L: my key of this factory, sealed.
        72 "handover" => Handover(Handover),
        /// L → client: your key is stored.
        74 "handover_stored" => HandoverStored(HandoverStored),
        /// L → client: your key is not stored, and why.
        76 "handover_refused" => HandoverRefused(HandoverRefused),
        /// Client → L: let me move a balance.
        80 "move_ask" => MoveAsk(MoveAsk),
        /// L → client: move it.
        82 "move_ready" => MoveReady(MoveReady),
        /// L → client: don't.
        84 "move_refused" => MoveRefused(MoveRefused),
        /// L → client: what do you have, and where do you want it?
        88 "close_ask" => CloseAsk(CloseAsk),
        /// Client → L: this, there; and I would sign.
        90 "close_join" => CloseJoin(CloseJoin),
        /// L → client: the close, to be signed.
        92 "close_propose" => ClosePropose(ClosePropose),
        /// Client → L: my signature of it.
        94 "close_partial_signatures" => ClosePartialSignatures(ClosePartialSignatures),
        /// L → client: the finished close.
        96 "close_ready" => CloseReady(CloseReady),
        /// Either way: no close, or not now.
        98 "close_abort" => CloseAbort(CloseAbort),
        /// Client → L: an ordinary channel, please, or what would it cost?
        106 "leave_ask" => LeaveAsk(LeaveAsk),
        /// L → client: it is opened.
        108 "leave_opened" => LeaveOpened(LeaveOpened),
        /// L → client: it isn't.
        110 "leave_refused" => LeaveRefused(LeaveRefused),
        /// L → client: what it would cost.
        112 "leave_price" => LeavePrice(LeavePrice),
        /// Owner → keeper: what do you have of mine?
        115 "ask_copies" => AskCopies(AskCopies),
        /// Keeper → owner: this, and I keep for you.
        117 "copies" => Copies(Copies),
        /// Owner → keeper: keep this.
        119 "keep" => Keep(Keep),
        /// Keeper → owner: it is on my disk, or I don't keep it.
        121 "kept" => Kept(Kept),
        /// Owner → keeper: give me this one.
        123 "ask_copy" => AskCopy(AskCopy),
        /// Keeper → owner: here it is.
        125 "copy_back" => CopyBack(CopyBack),
        /// Owner → keeper: this factory is over.
        127 "forget_copy" => ForgetCopy(ForgetCopy),
        /// Client → tower: what do you have of mine?
        129 "ask_appointments" => AskAppointments(AskAppointments),
        /// Tower → client: this, and I watch for you.
        131 "appointments" => Appointments(Appointments),
        /// Tower → client: these.
        133 "locators" => Locators(Locators),
        /// Client → tower: publish this once its trigger is there.
        135 "watch" => Watch(Watch),
        /// Tower → client: it is on my disk, or I don't watch for it.
        137 "watched" => Watched(Watched),
        /// Client → tower: these are not needed any more.
        139 "unwatch" => Unwatch(Unwatch),
        /// Client → tower: sign that you have these.
        141 "ask_receipt" => AskReceipt(AskReceipt),
        /// Tower → client: signed, I have these.
        143 "receipt" => Receipt(Receipt),
    }
}

/// The same expression for whichever message it is: they all have the header, or something in its place.
macro_rules! header {
    ($message:expr, $m:ident => $get:expr) => {
        match $message {
            Message::Invite($m) => $get,
            Message::Join($m) => $get,
            Message::ExpectChannel($m) => $get,
            Message::Expecting($m) => $get,
            Message::Propose($m) => $get,
            Message::PartialSignatures($m) => $get,
            Message::Ready($m) => $get,
            Message::Stored($m) => $get,
            Message::ChannelCommitted($m) => $get,
            Message::ChannelChecked($m) => $get,
            Message::FundingBroadcast($m) => $get,
            Message::Resume($m) => $get,
            Message::Abort($m) => $get,
            Message::Buy($m) => $get,
            Message::SaleOffer($m) => $get,
            Message::SaleJoin($m) => $get,
            Message::SaleCommitted($m) => $get,
            Message::SaleChecked($m) => $get,
            Message::SalePropose($m) => $get,
            Message::SalePartialSignatures($m) => $get,
            Message::SaleReady($m) => $get,
            Message::SaleStored($m) => $get,
            Message::SaleAbort($m) => $get,
            Message::AskPrice($m) => $get,
            Message::Price($m) => $get,
            Message::SaleInvoice($m) => $get,
            Message::SaleWait($m) => $get,
            Message::JitOffer($m) => $get,
            Message::JitAccept($m) => $get,
            Message::JitOpened($m) => $get,
            Message::SaleVoid($m) => $get,
            Message::CreditBack($m) => $get,
            Message::SaleMissing($m) => $get,
            Message::SaleShown($m) => $get,
            Message::Handover($m) => $get,
            Message::HandoverStored($m) => $get,
            Message::HandoverRefused($m) => $get,
            Message::MoveAsk($m) => $get,
            Message::MoveReady($m) => $get,
            Message::MoveRefused($m) => $get,
            Message::CloseAsk($m) => $get,
            Message::CloseJoin($m) => $get,
            Message::ClosePropose($m) => $get,
            Message::ClosePartialSignatures($m) => $get,
            Message::CloseReady($m) => $get,
            Message::CloseAbort($m) => $get,
            Message::LeaveAsk($m) => $get,
            Message::LeavePrice($m) => $get,
            Message::LeaveOpened($m) => $get,
            Message::LeaveRefused($m) => $get,
            Message::AskCopies(m) => {
                let $m = m.header();
                $get
            }
            Message::Copies(m) => {
                let $m = m.header();
                $get
            }
            Message::Keep(m) => {
                let $m = m.header();
                $get
            }
            Message::Kept(m) => {
                let $m = m.header();
                $get
            }
            Message::AskCopy(m) => {
                let $m = m.header();
                $get
            }
            Message::CopyBack(m) => {
                let $m = m.header();
                $get
            }
            Message::ForgetCopy(m) => {
                let $m = m.header();
                $get
            }
            Message::AskAppointments(m) => {
                let $m = m.header();
                $get
            }
            Message::Appointments(m) => {
                let $m = m.header();
                $get
            }
            Message::Locators(m) => {
                let $m = m.header();
                $get
            }
            Message::Watch(m) => {
                let $m = m.header();
                $get
            }
            Message::Watched(m) => {
                let $m = m.header();
                $get
            }
            Message::Unwatch(m) => {
                let $m = m.header();
                $get
            }
            Message::AskReceipt(m) => {
                let $m = m.header();
                $get
            }
            Message::Receipt(m) => {
                let $m = m.header();
                $get
            }
        }
    };
}

impl Message {
    /// The bytes for the payload of a piggyback.
    pub fn encode(&self) -> Vec<u8> {
        // Most are shorter than this.
        let mut out = Vec::with_capacity(512);
        self.write_tagged(&mut out);
        out
    }

    /// Reads the payload of a piggyback. [`DecodeError::may_ignore`] says whether an unknown message
    /// may be passed over.
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        Self::decode_tagged(bytes)
    }

    /// The factory that it is about; of a copy the tag.
    pub fn instance(&self) -> InstanceId {
        header!(self, m => m.instance)
    }

    /// The attempt at creating it, from 1; of a copy the counter.
    pub fn attempt(&self) -> u32 {
        header!(self, m => m.attempt)
    }
}
