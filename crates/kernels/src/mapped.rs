//! A file as read-only memory. Whoever replaces a model file writes a new one and renames it: see the type's caveat.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a file, mapped privately and read on demand. If somebody truncates the file in place while it is mapped,
/// reading beyond its new end kills the process (SIGBUS), as with every mapping; the catalog therefore only ever renames
/// whole files into place.
#[derive(Debug)]
pub struct MappedFile {
    // An empty file cannot be mapped everywhere, and needs no map.
    map: Option<Mmap>,
}

impl MappedFile {
    /// # Errors
    /// What opening, measuring or mapping the file says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the bytes are only read as u8, for which every value is valid. Concurrent writers are excluded by
        // the catalog's rule that model files are never changed in place (see the type's doc).
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map: Some(map) })
    }

    /// Says that the whole file will be read soon: the system begins to read it from the disk, which takes no memory of this
    /// process yet. A hint, as the next one, which some systems do not take.
    pub fn advise_needed(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }

    /// Says that it will be read once, from front to back. Not for bytes that stay in use: when memory is short, the system
    /// takes these pages first, however often they are read.
    pub fn advise_sequential(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let _ = map.advise(memmap2::Advice::Sequential);
        }
    }

    /// Gives the memory that holds `range` back, as far as it counts for this process: for bytes that have been packed
    /// into another buffer. Reading them again is allowed and gives the same bytes, from the file. Pages of 4 KiB that
    /// `range` shares with its neighbours go too. Linux only; elsewhere the system takes them when it needs memory.
    ///
    /// # Panics
    /// Where `range` is outside the file.
    pub fn release(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        #[cfg(target_os = "linux")]
        if let (Some(map), false) = (&self.map, range.is_empty()) {
            // SAFETY: the map is private and never written, so a dropped page comes back with the same bytes from the
            // file, which does not change (see the type's doc): no reference can see a difference.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_files_and_empty_files_and_reports_missing_ones() {
        let path = std::env::temp_dir().join(format!("falaj-mapped-{}", std::process::id()));
        std::fs::write(&path, b"water").unwrap();
        assert_eq!(&*MappedFile::open(&path).unwrap(), b"water");
        std::fs::write(&path, b"").unwrap();
        let empty = MappedFile::open(&path).unwrap();
        assert!(empty.is_empty());
        empty.advise_needed();
        empty.advise_sequential();
        empty.release(0..0);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(MappedFile::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_goes_at_release_and_the_bytes_stay() {
        use crate::buffer::tests::in_memory;
        let path = std::env::temp_dir().join(format!("falaj-released-{}", std::process::id()));
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i * 7 / 3) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let pages = |range: Range<usize>| range.step_by(4096).filter(|&at| in_memory(&file[at])).count();
        file.advise_needed();
        file.advise_sequential();
        assert_eq!(file[..], bytes[..]);
        assert_eq!(pages(0..1 << 20), 256);
        file.release(262_144..524_289);
        assert_eq!(pages(262_144..524_289), 0);
        assert_eq!(pages(0..262_144), 64);
        assert_eq!(file[..], bytes[..]);
    }

    #[test]
    #[should_panic(expected = "of 5 bytes")]
    fn a_range_beyond_the_file_is_a_bug() {
        let path = std::env::temp_dir().join(format!("falaj-beyond-{}", std::process::id()));
        std::fs::write(&path, b"water").unwrap();
        let file = MappedFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.release(3..6);
    }
}
