//! A list that many messages have in common.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::{Codec, DecodeError, Reader, write_list};

/// A list that many messages share: it is in memory once, and encoded once. A thousand proposals with a thousand
/// members each differ in everything else.
pub struct Shared<T>(Arc<SharedList<T>>);

struct SharedList<T> {
    items: Box<[T]>,
    encoded: OnceLock<Arc<[u8]>>,
}

impl<T> From<Vec<T>> for Shared<T> {
    fn from(items: Vec<T>) -> Self {
        Self(Arc::new(SharedList { items: items.into(), encoded: OnceLock::new() }))
    }
}

impl<T> FromIterator<T> for Shared<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<T>>().into()
    }
}

impl<T> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0.items
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Codec> Shared<T> {
    /// What [`Codec::write`] appends: the same memory at each call, and for each clone.
    pub fn encoded_once(&self) -> Arc<[u8]> {
        Arc::clone(self.0.encoded.get_or_init(|| self.encoded().into()))
    }
}

/// As a `Vec`. Nothing is kept: whoever writes it once, as a client does, shares it with nobody.
impl<T: Codec> Codec for Shared<T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_list(self, out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Vec::read(r)?.into())
    }
}
