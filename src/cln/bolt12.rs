//! BOLT 12 invoices before they are signed: their final expiry.
//!
//! lightningd's own plugin makes an invoice for whoever asks for one, with its `cltv-final` and nothing to
//! change that, and has lightningd sign it with `createinvoice`. Before that it can be given more blocks.

use bitcoin::bech32::primitives::decode::CheckedHrpstring;
use bitcoin::bech32::{self, Hrp, NoChecksum};
use factory_engine::wire::codec::{BigSize, Codec, Records, write_counted};

/// TLV type of BOLT 12's invoice_blindedpay.
const BLINDEDPAY: u64 = 162;
/// signature; further types up to 1000 are signatures too.
const SIGNATURE: u64 = 240;
/// Of a blinded_payinfo: what comes before its cltv_expiry_delta, and between that and its features' length.
const BEFORE: usize = 8;
const AMOUNTS: usize = 16;
/// Blocks that a relaying node may ask for between its two HTLCs. They are in the same number.
const RELAY: u16 = 144;

/// The invoice with `more` blocks for the last HTLC of each of its paths, except where it has `least` for
/// that already, whatever its relaying node takes. `None`: it stays as it is, or is none of ours to change.
pub fn raise(invoice: &str, more: u16, least: u16) -> Option<String> {
    let parsed = CheckedHrpstring::new::<NoChecksum>(invoice).ok()?;
    let hrp = parsed.hrp();
    if !hrp.as_str().eq_ignore_ascii_case("lni") {
        return None;
    }
    let bytes: Vec<u8> = parsed.byte_iter().collect();
    let (mut records, mut raised) = (Records::new(&bytes), Vec::with_capacity(bytes.len()));
    let mut changed = false;
    while let Some((kind, value)) = records.next_record().ok()? {
        if kind == SIGNATURE {
            return None;
        }
        let mut value = value.to_vec();
        if kind == BLINDEDPAY {
            changed |= raise_payinfos(&mut value, more, least.saturating_add(RELAY))?;
        }
        BigSize(kind).write(&mut raised);
        write_counted(&value, &mut raised);
    }
    let hrp = Hrp::parse(hrp.as_str()).ok()?;
    changed.then(|| bech32::encode::<NoChecksum>(hrp, &raised).ok()).flatten()
}

/// Whether one was changed; `None` if these are no payinfos.
fn raise_payinfos(mut payinfos: &mut [u8], more: u16, enough: u16) -> Option<bool> {
    let mut changed = false;
    while !payinfos.is_empty() {
        let (_, rest) = payinfos.split_at_mut_checked(BEFORE)?;
        let (delta, rest) = rest.split_first_chunk_mut::<2>()?;
        let before = u16::from_be_bytes(*delta);
        if before < enough {
            *delta = before.saturating_add(more).to_be_bytes();
            changed = true;
        }
        let (_, rest) = rest.split_at_mut_checked(AMOUNTS)?;
        let (features, rest) = rest.split_first_chunk_mut::<2>()?;
        let features = usize::from(u16::from_be_bytes(*features));
        (_, payinfos) = rest.split_at_mut_checked(features)?;
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payinfo(delta: u16, features: usize) -> Vec<u8> {
        let length = u16::try_from(features).unwrap().to_be_bytes();
        [&[1; BEFORE][..], &delta.to_be_bytes(), &[2; AMOUNTS], &length, &vec![3; features]].concat()
    }

    fn invoice(hrp: &str, records: &[(u64, Vec<u8>)]) -> String {
        let mut bytes = Vec::new();
        for (kind, value) in records {
            BigSize(*kind).write(&mut bytes);
            write_counted(value, &mut bytes);
        }
        bech32::encode::<NoChecksum>(Hrp::parse(hrp).unwrap(), &bytes).unwrap()
    }

    // S17
    #[test]
    fn each_path_gets_more_blocks_and_nothing_else_changes() {
        let with = |deltas: [u16; 2]| {
            let payinfos = [payinfo(deltas[0], 0), payinfo(deltas[1], 3)].concat();
            invoice("lni", &[(22, vec![7; 300]), (160, vec![8; 5]), (162, payinfos), (176, vec![9])])
        };
        assert_eq!(raise(&with([40, 52]), 30, 48), Some(with([70, 82])));
        // Enough for anybody stays.
        assert_eq!(raise(&with([48 + RELAY, 52]), 30, 48), Some(with([48 + RELAY, 82])));
        assert_eq!(raise(&with([48 + RELAY, 500]), 30, 48), None);
        assert_eq!(raise(&with([1, 2]), u16::MAX, 48), Some(with([u16::MAX; 2])));
    }

    #[test]
    fn what_is_none_of_ours_stays() {
        let payinfos = (162, payinfo(1, 0));
        for other in [
            invoice("lno", std::slice::from_ref(&payinfos)),
            invoice("lni", &[(160, vec![])]),
            invoice("lni", &[payinfos.clone(), (240, vec![1; 64])]),
            invoice("lni", &[(162, payinfos.1[..20].to_vec())]),
            invoice("lni", &[payinfos.clone(), payinfos]),
            "lnbc1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqf".to_owned(),
            "lni1".to_owned(),
            "é".to_owned(),
        ] {
            assert_eq!(raise(&other, 30, 48), None, "{other}");
        }
    }
}
