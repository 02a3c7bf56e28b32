//! TLV streams (BOLT 1), and the macros that declare what travels or is stored as one.

use super::{BigSize, Codec, DecodeError, Malformed, Reader};

/// Walks the records of a TLV stream: types strictly ascend, types and lengths are minimal BigSizes,
/// lengths fit what arrived.
pub struct Records<'a> {
    rest: Reader<'a>,
    last: Option<u64>,
}

impl<'a> Records<'a> {
    /// The records in `bytes`, which hold nothing else.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: Reader::new(bytes), last: None }
    }

    /// Bytes that were not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.remaining()
    }

    /// The next record's type and value, `None` after the last.
    pub fn next_record(&mut self) -> Result<Option<(u64, &'a [u8])>, DecodeError> {
        if self.rest.remaining() == 0 {
            return Ok(None);
        }
        let kind = BigSize::read(&mut self.rest).map_err(|e| e.inside("record type"))?.0;
        match self.last {
            Some(last) if kind == last => return Err(Malformed::DuplicateRecord { kind }.into()),
            Some(after) if kind < after => return Err(Malformed::UnsortedRecord { kind, after }.into()),
            _ => self.last = Some(kind),
        }
        let length = BigSize::read(&mut self.rest).map_err(|e| e.inside("record length"))?.0;
        let value = self.rest.take_u64(length).map_err(|e| e.inside("record value"))?;
        Ok(Some((kind, value)))
    }
}

/// What to do with a record of a type that the reader doesn't know: odd ones are passed over, even
/// ones refused (BOLT 1).
pub fn unknown_record(kind: u64) -> Result<(), DecodeError> {
    if kind.is_multiple_of(2) { Err(Malformed::UnknownEvenRecord { kind }.into()) } else { Ok(()) }
}

/// Writes one record: type, length, value.
pub fn write_record<T: Codec>(kind: u64, value: &T, out: &mut Vec<u8>) {
    BigSize(kind).write(out);
    write_measured(out, |out| value.write(out));
}

/// Writes a BigSize length and whatever `write` writes, in place: no record needs memory of its own.
pub fn write_measured(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    write(out);
    let length = out.len().saturating_sub(begin);
    BigSize::of(length).write(out);
    if let Some(written) = out.get_mut(begin..) {
        written.rotate_left(length);
    }
}

/// Writes a BigSize length and the bytes.
pub fn write_counted(bytes: &[u8], out: &mut Vec<u8>) {
    BigSize::of(bytes.len()).write(out);
    out.extend_from_slice(bytes);
}

/// A field of a `tlv_struct!`: any [`Codec`] type, or an `Option` of one, which is absent when `None`.
pub trait Field: Sized {
    /// Whether it may be absent.
    const OPTIONAL: bool;
    /// Writes the field's record, if there is something to write.
    fn write_field(&self, kind: u64, out: &mut Vec<u8>);
    /// Reads a record's value, all of it.
    fn read_field(value: &[u8]) -> Result<Self, DecodeError>;
    /// The field's value when there is no record; `None` if it is required.
    fn absent() -> Option<Self>;
}

impl<T: Codec> Field for T {
    const OPTIONAL: bool = false;

    fn write_field(&self, kind: u64, out: &mut Vec<u8>) {
        write_record(kind, self, out);
    }

    fn read_field(value: &[u8]) -> Result<Self, DecodeError> {
        T::decoded(value)
    }

    fn absent() -> Option<Self> {
        None
    }
}

impl<T: Codec> Field for Option<T> {
    const OPTIONAL: bool = true;

    fn write_field(&self, kind: u64, out: &mut Vec<u8>) {
        if let Some(value) = self {
            write_record(kind, value, out);
        }
    }

    fn read_field(value: &[u8]) -> Result<Self, DecodeError> {
        T::decoded(value).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// The value of a field without a record; an error if it is required.
pub fn absent_field<T: Field>(name: &'static str, kind: u64) -> Result<T, DecodeError> {
    T::absent().ok_or_else(|| DecodeError::new(Malformed::MissingRecord { kind }).inside(name))
}

/// A type whose bytes are a TLV stream. `tlv_struct!` implements it.
pub trait TlvStream: Sized {
    /// Each field's record type, and whether it may be absent.
    const FIELDS: &'static [(u64, bool)];

    /// Appends the bare stream. Only its surroundings say where it ends.
    fn write_stream(&self, out: &mut Vec<u8>);
    /// Reads a bare stream that fills `bytes`.
    fn read_stream(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Whether record types strictly ascend. `tlv_struct!` asks at compile time.
pub const fn ascending(kinds: &[u64]) -> bool {
    let mut i = 1;
    while i < kinds.len() {
        if kinds[i - 1] >= kinds[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Declares a struct that travels, or is stored, as a TLV stream. Each field names its record type;
/// types must ascend, which the compiler checks. A field may be of any [`Codec`] type; one of type
/// `Option<T>` may be absent.
///
/// ```text
/// tlv_struct! {
///     /// A client is in.
///     pub struct Joined {
///         /// The client, in leaf order.
///         pub client: u32 => 0,
///         /// Where its share goes if it named one.
///         pub payout: Option<ScriptBuf> => 2,
///     }
/// }
/// ```
///
/// It derives `Debug`, `Clone`, `PartialEq` and `Eq`, implements [`TlvStream`] for the bare stream,
/// and [`Codec`] for the stream with its length in front, so that such structs nest and stand in
/// lists.
macro_rules! tlv_struct {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_vis:vis $field:ident : $ty:ty => $kind:literal ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        $vis struct $name {
            $( $(#[$field_meta])* $field_vis $field: $ty, )*
        }

        const _: () = assert!(
            $crate::wire::codec::ascending(&[$($kind),*]),
            "record types must ascend"
        );

        impl $crate::wire::codec::TlvStream for $name {
            const FIELDS: &'static [(u64, bool)] =
                &[$(($kind, <$ty as $crate::wire::codec::Field>::OPTIONAL)),*];

            // A struct without fields writes and keeps nothing.
            #[allow(unused_variables)]
            fn write_stream(&self, out: &mut Vec<u8>) {
                $( $crate::wire::codec::Field::write_field(&self.$field, $kind, out); )*
            }

            #[allow(unused_variables)]
            fn read_stream(bytes: &[u8]) -> Result<Self, $crate::wire::codec::DecodeError> {
                $( let mut $field: Option<$ty> = None; )*
                let mut records = $crate::wire::codec::Records::new(bytes);
                while let Some((kind, value)) = records.next_record()? {
                    match kind {
                        $( $kind => {
                            let read = <$ty as $crate::wire::codec::Field>::read_field(value);
                            $field = Some(read.map_err(|e| e.inside(stringify!($field)))?);
                        } )*
                        other => $crate::wire::codec::unknown_record(other)?,
                    }
                }
                Ok(Self { $(
                    $field: match $field {
                        Some(field) => field,
                        None => $crate::wire::codec::absent_field(stringify!($field), $kind)?,
                    },
                )* })
            }
        }

        impl $crate::wire::codec::Codec for $name {
            fn write(&self, out: &mut Vec<u8>) {
                $crate::wire::codec::write_measured(out, |out| {
                    $crate::wire::codec::TlvStream::write_stream(self, out);
                });
            }

            fn read(
                r: &mut $crate::wire::codec::Reader<'_>,
            ) -> Result<Self, $crate::wire::codec::DecodeError> {
                $crate::wire::codec::TlvStream::read_stream(r.take_counted()?)
            }
        }
    };
}

/// Declares an enum of [`TlvStream`] types, each with a number and a name: `u16 number | TLV stream`.
///
/// ```text
/// tlv_enum! {
///     /// What happened.
///     pub enum Event {
///         /// A client is in.
///         2 "joined" => Joined(Joined),
///     }
/// }
/// ```
///
/// It derives `Debug`, `Clone`, `PartialEq` and `Eq`, converts from each type, and has `kind()`,
/// `name()`, and, inside the crate, `write_tagged()` and `decode_tagged()`.
macro_rules! tlv_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$variant_meta:meta])* $kind:literal $text:literal => $variant:ident($ty:ty) ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        $vis enum $name {
            $( $(#[$variant_meta])* $variant($ty), )*
        }

        const _: () = assert!(
            $crate::wire::codec::ascending(&[$($kind),*]),
            "numbers must ascend"
        );

        impl $name {
            /// The number in front of the stream.
            $vis fn kind(&self) -> u16 {
                match self { $( Self::$variant(_) => $kind, )* }
            }

            /// The name, for people and logs.
            $vis fn name(&self) -> &'static str {
                match self { $( Self::$variant(_) => $text, )* }
            }

            /// Every name, in the order of numbers.
            $vis const NAMES: &'static [&'static str] = &[$($text),*];

            /// The name that belongs to a number.
            $vis fn name_of(kind: u16) -> Option<&'static str> {
                match kind {
                    $( $kind => Some($text), )*
                    _ => None,
                }
            }

            /// Of the stream behind a number each field's record type, and whether it may be absent.
            $vis fn fields_of(kind: u16) -> Option<&'static [(u64, bool)]> {
                match kind {
                    $( $kind => Some(<$ty as $crate::wire::codec::TlvStream>::FIELDS), )*
                    _ => None,
                }
            }

            /// Appends the number and the stream.
            pub(crate) fn write_tagged(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.kind().to_be_bytes());
                match self {
                    $( Self::$variant(v) => $crate::wire::codec::TlvStream::write_stream(v, out), )*
                }
            }

            /// The reverse. Errors name the variant.
            pub(crate) fn decode_tagged(bytes: &[u8]) -> Result<Self, $crate::wire::codec::DecodeError> {
                let mut r = $crate::wire::codec::Reader::new(bytes);
                match r.field::<u16>("type")? {
                    $( $kind => <$ty as $crate::wire::codec::TlvStream>::read_stream(r.take_rest())
                        .map(Self::$variant)
                        .map_err(|e| e.inside($text)), )*
                    kind => Err($crate::wire::codec::Malformed::UnknownMessage { kind }.into()),
                }
            }
        }

        $( impl From<$ty> for $name {
            fn from(value: $ty) -> Self {
                Self::$variant(value)
            }
        } )*
    };
}

/// Writes and reads a struct field by field, in the order given, with nothing around them: for what
/// will never have another field. Forgetting one doesn't compile.
macro_rules! plain_codec {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::codec::Codec for $name {
            fn write(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $( $crate::wire::codec::Codec::write($field, out); )*
            }

            fn read(
                r: &mut $crate::wire::codec::Reader<'_>,
            ) -> Result<Self, $crate::wire::codec::DecodeError> {
                Ok(Self { $( $field: r.field(stringify!($field))?, )* })
            }
        }
    };
}

pub(crate) use {plain_codec, tlv_enum, tlv_struct};
