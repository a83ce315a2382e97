//! Read-only bytes with a shared owner: a mapped file, the binary's own data, or a buffer. Slicing copies nothing.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use falaj_kernels::MappedFile;

/// A range of somebody's bytes. Cloning and slicing share the owner; the bytes live until the last clone is gone.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Owner,
    // INVARIANT: inside the owner's bytes, which never change length.
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    File(Arc<MappedFile>),
    Other(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl SharedBytes {
    /// All bytes of `owner`, which must return the same slice at every call.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let len = owner.as_ref().len();
        Self { owner: Owner::Other(Arc::new(owner)), range: 0..len }
    }

    /// All bytes of a mapped file, which [`SharedBytes::release`] can give back.
    pub fn mapped(file: MappedFile) -> Self {
        let len = file.len();
        Self { owner: Owner::File(Arc::new(file)), range: 0..len }
    }

    /// The part `range` (relative to these bytes), or `None` where it leaves them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: self.owner.clone(), range: start..start + range.len() })
    }

    /// Says that a file's bytes will be read once, from front to back. Nothing happens where they are not a file's.
    pub fn read_once(&self) {
        if let Owner::File(file) = &self.owner {
            file.advise_sequential();
        }
    }

    /// Gives back the memory that a file's bytes take in this process: for those that have been copied in another form.
    /// Reading them again stays allowed. Nothing happens where they are not a file's.
    pub fn release(&self) {
        if let Owner::File(file) = &self.owner {
            file.release(self.range.clone());
        }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::File(file) => file,
            Owner::Other(owner) => (**owner).as_ref(),
        };
        all.get(self.range.clone()).unwrap_or_default()
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
        middle.read_once();
        middle.release();
        assert_eq!(&*middle, [2, 3, 4]);
    }

    #[test]
    fn a_file_keeps_its_bytes_when_released() {
        let path = std::env::temp_dir().join(format!("falaj-shared-bytes-{}", std::process::id()));
        std::fs::write(&path, b"water").unwrap();
        let bytes = SharedBytes::mapped(MappedFile::open(&path).unwrap()).slice(1..4).unwrap();
        std::fs::remove_file(&path).unwrap();
        bytes.read_once();
        bytes.release();
        assert_eq!(&*bytes, b"ate");
    }
}
