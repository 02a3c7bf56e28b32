//! The backup file: sealed copies, one after the other.
//!
//! `cln-factory backup 1` and a line feed, the number of copies (u32), then of each: tag (32 bytes), counter (u32),
//! length (u32), and what is sealed; numbers are big-endian. It is replaced as a whole: a new file beside it gets
//! its name once it is on the disk, so that a crash, or a disk that is full, leaves the one before.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use factory_engine::backup::SealedCopy;

/// Its first bytes; the number is the format's.
const MAGIC: &[u8] = b"cln-factory backup 1\n";
/// More than all copies of an operator with ten thousand clients; what is larger is something else.
const LARGEST: u64 = 1 << 30;

/// Why a file is no backup that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadFile {
    /// There is none of this name.
    Missing,
    /// What the operating system says.
    Io(String),
    /// It begins with something else.
    NotABackup,
    /// Something of it is missing, or too much.
    Broken,
    /// It has more bytes than any backup.
    TooLarge(u64),
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no such file"),
            Self::Io(why) => f.write_str(why),
            Self::NotABackup => f.write_str("it is no backup of this plugin's"),
            Self::Broken => f.write_str("it is cut off, or something was added to it"),
            Self::TooLarge(bytes) => {
                write!(f, "it has {bytes} bytes, more than any backup has: {LARGEST} are the most")
            }
        }
    }
}

impl std::error::Error for BadFile {}

/// Which file has a name: another one, and one that was changed, has another stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// When its bytes were changed last, and anything of it: seconds and nanoseconds.
    changed: [(i64, i64); 2],
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        let changed = [(file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec())];
        Self { device: file.dev(), inode: file.ino(), bytes: file.len(), changed }
    }
}

fn said(error: &io::Error) -> BadFile {
    match error.kind() {
        io::ErrorKind::NotFound => BadFile::Missing,
        _ => BadFile::Io(error.to_string()),
    }
}

/// Which file is there; nothing if none is.
///
/// # Errors
/// What the operating system says.
pub fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(Stamp::of(&found))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a file holds, nothing of it opened yet, and which file that is. An empty one holds no copies: whoever puts it
/// there says that what was in its place is lost.
///
/// # Errors
/// Why nothing can be read of it.
pub fn read(path: &Path) -> Result<(Stamp, Vec<SealedCopy>), BadFile> {
    let file = File::open(path).map_err(|error| said(&error))?;
    let stamp = Stamp::of(&file.metadata().map_err(|error| said(&error))?);
    if stamp.bytes > LARGEST {
        return Err(BadFile::TooLarge(stamp.bytes));
    }
    let mut all = Vec::new();
    file.take(LARGEST).read_to_end(&mut all).map_err(|error| said(&error))?;
    let copies = if all.is_empty() { vec![] } else { parse(&all)? };
    Ok((stamp, copies))
}

fn parse(bytes: &[u8]) -> Result<Vec<SealedCopy>, BadFile> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(BadFile::NotABackup)?;
    let (count, mut rest) = number(rest)?;
    let mut copies = Vec::new();
    for _ in 0..count {
        let (tag, after) = rest.split_first_chunk::<32>().ok_or(BadFile::Broken)?;
        let (counter, after) = number(after)?;
        let (length, after) = number(after)?;
        let length = usize::try_from(length).map_err(|_| BadFile::Broken)?;
        let (sealed, after) = after.split_at_checked(length).ok_or(BadFile::Broken)?;
        copies.push(SealedCopy { tag: *tag, counter, sealed: sealed.to_vec() });
        rest = after;
    }
    if rest.is_empty() { Ok(copies) } else { Err(BadFile::Broken) }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), BadFile> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(BadFile::Broken)?;
    Ok((u32::from_be_bytes(*number), rest))
}

/// At most so many bytes: more wouldn't be read again.
fn serialize<'a>(copies: impl ExactSizeIterator<Item = &'a SealedCopy>, most: u64) -> io::Result<Vec<u8>> {
    let too_many = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u32::try_from(copies.len()).map_err(too_many)?.to_be_bytes());
    for copy in copies {
        bytes.extend(copy.tag);
        bytes.extend(copy.counter.to_be_bytes());
        bytes.extend(u32::try_from(copy.sealed.len()).map_err(too_many)?.to_be_bytes());
        bytes.extend(&copy.sealed);
    }
    if u64::try_from(bytes.len()).is_ok_and(|bytes| bytes <= most) {
        Ok(bytes)
    } else {
        let bytes = bytes.len();
        Err(io::Error::other(format!("all copies together are {bytes} bytes, and {most} are the most")))
    }
}

/// Replaces the file that was `there` by one with these copies; when it returns they are on the disk.
///
/// # Errors
/// What the operating system says, or that there is another file. It is as it was then.
pub fn write<'a>(
    path: &Path,
    copies: impl ExactSizeIterator<Item = &'a SealedCopy>,
    there: Option<Stamp>,
) -> io::Result<Stamp> {
    let bytes = serialize(copies, LARGEST)?;
    let beside = beside(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    // Its disk may have been mounted meanwhile.
    if stamp(path)? != there {
        return Err(io::Error::other("another file has come in its place"));
    }
    std::fs::rename(&beside, path)?;
    let written = Stamp::of(&file.metadata()?);
    // The new name, too, is on the disk only after this.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(written)
}

/// Where the new file is written.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(number: u8, length: usize) -> SealedCopy {
        SealedCopy { tag: [number; 32], counter: number.into(), sealed: vec![number; length] }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = std::env::temp_dir().join(format!("cln-factory-backup-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("backup");
        assert_eq!(read(&path), Err(BadFile::Missing));
        let mut there = None;
        for copies in [vec![], vec![copy(1, 0), copy(2, 300)], vec![copy(3, 5)]] {
            let written = write(&path, copies.iter(), there).unwrap();
            assert_eq!(read(&path), Ok((written, copies)));
            assert_eq!(stamp(&path).unwrap(), Some(written));
            assert!(!beside(&path).exists());
            there = Some(written);
        }
        // S39: whoever can't write leaves what is there.
        std::fs::create_dir(beside(&path)).unwrap();
        write(&path, [copy(4, 1)].iter(), there).unwrap_err();
        assert_eq!(read(&path).unwrap().1, [copy(3, 5)]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// S39: what isn't the file that was read isn't replaced, whatever it is.
    #[test]
    fn another_file_is_not_replaced() {
        let folder = std::env::temp_dir().join(format!("cln-factory-stamp-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("backup");
        let mine = write(&path, [copy(1, 5)].iter(), None).unwrap();
        write(&path, [copy(2, 5)].iter(), None).unwrap_err();
        let moved = folder.join("moved");
        write(&moved, [copy(3, 5)].iter(), None).unwrap();
        std::fs::rename(&moved, &path).unwrap();
        assert_ne!(stamp(&path).unwrap(), Some(mine), "as large, and another");
        write(&path, [copy(4, 5)].iter(), Some(mine)).unwrap_err();
        assert_eq!(read(&path).unwrap().1, [copy(3, 5)]);
        // A person says that it is lost.
        std::fs::write(&path, []).unwrap();
        assert_eq!(read(&path).unwrap().1, []);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn whatever_is_cut_off_or_longer_is_refused() {
        let all = serialize([copy(1, 3), copy(2, 40)].iter(), LARGEST).unwrap();
        for end in 0..all.len() {
            let why = if end < MAGIC.len() { BadFile::NotABackup } else { BadFile::Broken };
            assert_eq!(parse(&all[..end]), Err(why), "{end}");
        }
        assert_eq!(parse(&[&all[..], &[0]].concat()), Err(BadFile::Broken));
        assert_eq!(parse(b"something else"), Err(BadFile::NotABackup));
        // A length that no memory has.
        let mut huge = serialize([copy(1, 3)].iter(), LARGEST).unwrap();
        let at = MAGIC.len() + 4 + 32 + 4;
        huge[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(parse(&huge), Err(BadFile::Broken));
    }
    /// S39: what is larger than any backup isn't read, and nothing is written that wouldn't be read again.
    #[test]
    fn more_than_is_read_is_not_written() {
        let scratch = crate::cln::scratch::Scratch::new();
        let path = scratch.path().join("backup");
        let there = write(&path, [copy(1, 5)].iter(), None).unwrap();
        // It takes no room: nothing is in it.
        File::options().write(true).open(&path).unwrap().set_len(LARGEST + 1).unwrap();
        assert_eq!(read(&path), Err(BadFile::TooLarge(LARGEST + 1)));
        write(&path, [copy(2, 5)].iter(), Some(there)).unwrap_err();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), LARGEST + 1);
        let copies = [copy(1, 5), copy(2, 5)];
        let most = u64::try_from(serialize(copies.iter(), LARGEST).unwrap().len()).unwrap();
        serialize(copies.iter(), most).unwrap();
        let why = serialize(copies.iter(), most - 1).unwrap_err();
        assert!(why.to_string().contains("are the most"), "{why}");
    }
}
