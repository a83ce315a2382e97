//! Read-only bytes with a shared owner: a mapped file, the binary's own data, or a buffer. Slicing copies nothing.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A range of somebody's bytes. Cloning and slicing share the owner; the bytes live until the last clone is gone.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    // INVARIANT: inside the owner's bytes, which never change length.
    range: Range<usize>,
}

impl SharedBytes {
    /// All bytes of `owner`, which must return the same slice at every call.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let len = owner.as_ref().len();
        Self { owner: Arc::new(owner), range: 0..len }
    }

    /// The part `range` (relative to these bytes), or `None` where it leaves them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: Arc::clone(&self.owner), range: start..start + range.len() })
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.range.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_and_stay_inside() {
        let bytes = SharedBytes::new(vec![1u8, 2, 3, 4, 5]);
        let middle = bytes.slice(1..4).unwrap();
        drop(bytes);
        assert_eq!(&*middle, [2, 3, 4]);
        assert_eq!(&*middle.slice(1..3).unwrap(), [3, 4]);
        assert!(middle.slice(0..4).is_none());
        assert!(middle.slice(3..3).unwrap().is_empty());
    }
}
