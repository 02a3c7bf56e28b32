//! A step with several records as one value, so that it is stored all at once. What is too large for one
//! value is several parts, the last of which makes it count.
//!
//! Bytes: version 1; then of each record 32 bytes instance, u32 sequence, u32 length, the record (numbers
//! big-endian). A part begins with a byte: 0, others follow, or 1, it is the last.

use factory_engine::types::InstanceId;

/// Of a part's bytes. In hex, as it is written, this is less than 256 kB with its key.
pub(super) const PART: usize = 120_000;
pub(super) const VERSION: u8 = 1;
const MORE: u8 = 0;
const LAST: u8 = 1;

/// A record and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) instance: InstanceId,
    pub(super) sequence: u32,
    pub(super) record: Vec<u8>,
}

/// Why the parts of a journal are not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// They make no sense, and why.
    Damaged(&'static str),
    /// A newer plugin wrote them, in this version.
    Newer(u8),
}

/// The parts of a step, in the order in which they are written; nothing if a record's length needs more than
/// four bytes.
pub(super) fn encode(entries: &[Entry]) -> Option<Vec<Vec<u8>>> {
    let mut bytes = vec![VERSION];
    for entry in entries {
        bytes.extend(entry.instance.0);
        bytes.extend(entry.sequence.to_be_bytes());
        bytes.extend(u32::try_from(entry.record.len()).ok()?.to_be_bytes());
        bytes.extend(&entry.record);
    }
    let mut parts: Vec<Vec<u8>> = bytes.chunks(PART).map(|chunk| [&[MORE], chunk].concat()).collect();
    if let Some(mark) = parts.last_mut().and_then(|last| last.first_mut()) {
        *mark = LAST;
    }
    Some(parts)
}

/// The step of these parts; nothing if the last one was never written.
pub(super) fn decode(parts: &[Vec<u8>]) -> Result<Option<Vec<Entry>>, Unreadable> {
    let damaged = Unreadable::Damaged;
    let mut bytes = Vec::new();
    let mut whole = false;
    for part in parts {
        match part.split_first() {
            Some((&mark @ (MORE | LAST), chunk)) if !whole => {
                bytes.extend(chunk);
                whole = mark == LAST;
            }
            Some((&(MORE | LAST), _)) => return Err(damaged("something follows its last part")),
            _ => return Err(damaged("a part without a mark")),
        }
    }
    if !whole {
        return Ok(None);
    }
    let mut rest = match bytes.split_first() {
        Some((&VERSION, rest)) => rest,
        Some((&version, _)) if version > VERSION => return Err(Unreadable::Newer(version)),
        _ => return Err(damaged("its version is unknown")),
    };
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, left) = split_entry(rest).ok_or(damaged("it is cut off"))?;
        entries.push(entry);
        rest = left;
    }
    Ok(Some(entries))
}

fn split_entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (instance, bytes) = bytes.split_first_chunk::<32>()?;
    let (sequence, bytes) = bytes.split_first_chunk::<4>()?;
    let (length, bytes) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (record, bytes) = bytes.split_at_checked(length)?;
    let sequence = u32::from_be_bytes(*sequence);
    Some((Entry { instance: InstanceId(*instance), sequence, record: record.to_vec() }, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen, as the records are: a later plugin finishes the step that an earlier one has begun.
    #[test]
    fn version_1() {
        let entry = |number: u8, record: &[u8]| Entry {
            instance: InstanceId([number; 32]),
            sequence: u32::from(number) * 256,
            record: record.to_vec(),
        };
        let entries = vec![entry(1, &[0xaa, 0xbb]), entry(2, &[])];
        let first = [&[LAST, 1][..], &[1; 32], &[0, 0, 1, 0], &[0, 0, 0, 2], &[0xaa, 0xbb]].concat();
        let whole = [&first[..], &[2; 32], &[0, 0, 2, 0], &[0; 4]].concat();
        assert_eq!(encode(&entries), Some(vec![whole.clone()]));
        assert_eq!(decode(&[whole]), Ok(Some(entries)));
    }

    #[test]
    fn parts() {
        let entry = |number: u8, length| Entry {
            instance: InstanceId([number; 32]),
            sequence: number.into(),
            record: vec![number; length],
        };
        for lengths in [vec![0, 1], vec![PART, 1, PART], vec![PART - 41, 1], vec![PART - 41]] {
            let entries: Vec<Entry> =
                (0u8..).zip(lengths).map(|(number, length)| entry(number, length)).collect();
            let parts = encode(&entries).unwrap();
            assert!(parts.iter().all(|part| part.len() <= PART + 1));
            assert_eq!(decode(&parts), Ok(Some(entries)));
            for count in 0..parts.len() {
                assert_eq!(decode(&parts[..count]), Ok(None));
            }
            let mut cut = parts.clone();
            cut.last_mut().unwrap().pop();
            decode(&cut).unwrap_err();
            let mut twice = parts.clone();
            twice.extend(parts);
            decode(&twice).unwrap_err();
        }
        assert_eq!(decode(&[vec![LAST, 0]]), Err(Unreadable::Damaged("its version is unknown")));
        assert_eq!(decode(&[vec![LAST, 2]]), Err(Unreadable::Newer(2)));
        // A step of a newer plugin's that never happened is none.
        assert_eq!(decode(&[vec![MORE, 2]]), Ok(None));
        decode(&[vec![]]).unwrap_err();
        decode(&[vec![7, 1]]).unwrap_err();
    }
}
