//! Output scripts of the factory's transactions.

use bitcoin::opcodes::all::{OP_CHECKSIG, OP_CSV, OP_DROP, OP_PUSHNUM_1};
use bitcoin::taproot::{LeafVersion, TapNodeHash};
use bitcoin::{Amount, Script, ScriptBuf};

use super::musig::{KeyAgg, Parity, PublicKey, XOnlyPublicKey};

/// Value of the P2A output that lets anybody raise a transaction's fee: exactly P2A's dust limit.
pub const ANCHOR_VALUE: Amount = Amount::from_sat(240);

/// Bitcoin Core's default dust limit (3 sat/vB) for P2WSH and P2TR outputs; a P2WPKH output's is
/// lower (294 sat), but nothing here goes below this one.
pub const DUST: Amount = Amount::from_sat(330);

/// HTLCs below this are in no commitment transaction, msat. lightningd's dust limit, and the largest that
/// BOLT 3 has for a standard output; HTLC transactions of channels with zero-fee anchors pay no fee that
/// would raise it.
pub const DUST_MSAT: u64 = 546_000;

/// Pay-to-anchor (P2A): `OP_1 <4e73>`, which anybody may spend.
pub fn anchor_script() -> ScriptBuf {
    ScriptBuf::builder().push_opcode(OP_PUSHNUM_1).push_slice([0x4e, 0x73]).into_script()
}

/// P2TR for a key that already carries its BIP-341 tweak (a coin's output key).
pub fn key_script(output_key: XOnlyPublicKey) -> ScriptBuf {
    // The key is the result of BIP-327 aggregation and BIP-341 tweaking, by us or by L; a wrong one
    // changes the txid, and with it every signature below.
    ScriptBuf::builder().push_opcode(OP_PUSHNUM_1).push_slice(output_key.serialize()).into_script()
}

/// Script path of a stock output: L alone once the output is `csv` blocks deep (BIP-112).
pub fn stock_leaf(lsp_key: PublicKey, csv: u16) -> ScriptBuf {
    ScriptBuf::builder()
        .push_int(i64::from(csv))
        .push_opcode(OP_CSV)
        .push_opcode(OP_DROP)
        .push_slice(lsp_key.x_only_public_key().0.serialize())
        .push_opcode(OP_CHECKSIG)
        .into_script()
}

/// BIP-341 Merkle root of a stock output: its only leaf.
pub fn stock_root(lsp_key: PublicKey, csv: u16) -> [u8; 32] {
    use bitcoin::hashes::Hash;
    TapNodeHash::from_script(&stock_leaf(lsp_key, csv), LeafVersion::TapScript).to_byte_array()
}

/// What L's spend of a stock output by its script path puts into the witness, below the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockSpend {
    /// `<stock_csv> OP_CSV OP_DROP <L's factory key> OP_CHECKSIG`.
    pub script: ScriptBuf,
    /// BIP-341 control block: leaf version and parity, internal key, no siblings.
    pub control_block: Vec<u8>,
}

/// The script path of a stock output whose key is `agg`.
pub fn stock_spend(agg: &KeyAgg, lsp_key: PublicKey, csv: u16) -> StockSpend {
    let parity = u8::from(agg.output_parity() == Parity::Odd);
    let mut control_block = vec![LeafVersion::TapScript.to_consensus() | parity];
    control_block.extend_from_slice(&agg.internal_key().serialize());
    StockSpend { script: stock_leaf(lsp_key, csv), control_block }
}

/// Whether a member may be paid to this script: P2WPKH, P2WSH or P2TR. All are standard, at most 34
/// bytes long (the size that distribution fees allow for) and never dust at [`DUST`].
pub fn is_payout(script: &Script) -> bool {
    script.is_p2wpkh() || script.is_p2wsh() || script.is_p2tr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchor_is_pay_to_anchor() {
        assert_eq!(anchor_script().as_bytes(), [0x51, 0x02, 0x4e, 0x73]);
    }

    #[test]
    fn payouts_are_segwit_programs_of_known_size() {
        let program = |version: u8, len: u8| {
            let mut bytes = vec![version, len];
            bytes.extend(std::iter::repeat_n(7, usize::from(len)));
            ScriptBuf::from_bytes(bytes)
        };
        assert!(is_payout(&program(0, 20)));
        assert!(is_payout(&program(0, 32)));
        assert!(is_payout(&program(0x51, 32)));
        assert!(!is_payout(&program(0x51, 20)));
        assert!(!is_payout(&program(0x52, 32)));
        assert!(!is_payout(&anchor_script()));
        assert!(!is_payout(&ScriptBuf::new()));
        assert!(!is_payout(&ScriptBuf::new_op_return([1; 20])));
    }
}
