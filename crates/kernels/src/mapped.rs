//! A file as read-only memory. Whoever replaces a model file writes a new one and renames it: see the type's caveat.

use std::fs::File;
use std::io;
use std::ops::Deref;
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
        assert!(MappedFile::open(&path).unwrap().is_empty());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(MappedFile::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
