//! One page of the prefix cache as a file: what it belongs to, every token up to its end, its keys and values, and a checksum.
//! A file is used only if all of it is what was asked for; whatever else it says, it is never wrong bits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use falaj_artifact::{Digest, Hasher};

/// What a page is the page of: exact tokens under a salt, for one way of computing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Title<'a> {
    pub(super) identity: &'a Digest,
    pub(super) salt: u64,
    /// From the beginning of the sequence to the end of the page.
    pub(super) tokens: &'a [u32],
}

/// Why a file is not used.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is gone, or cannot be read now.
    Io(io::Error),
    /// It is not what was written: damaged, or somebody else's.
    Damaged(&'static str),
}

const MAGIC: &[u8; 8] = b"falajkv1";
const DIGEST_BYTES: usize = 32;

impl Title<'_> {
    fn bytes(&self, payload_bytes: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(MAGIC.len() + DIGEST_BYTES + 24 + 4 * self.tokens.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(self.identity.as_bytes());
        for number in [self.salt, self.tokens.len() as u64, payload_bytes as u64] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        self.tokens.iter().for_each(|token| head.extend_from_slice(&token.to_le_bytes()));
        head
    }
}

/// Bytes of a file with so many tokens and such a payload.
pub(super) fn file_bytes(tokens: usize, payload_bytes: usize) -> u64 {
    (MAGIC.len() + 2 * DIGEST_BYTES + 24 + 4 * tokens + payload_bytes) as u64
}

/// Writes a page to `path` by way of `temporary`: it is there as a whole or not at all.
pub(super) fn write(path: &Path, temporary: &Path, title: &Title, payload: &[u8]) -> io::Result<()> {
    let head = title.bytes(payload.len());
    let mut hasher = Hasher::default();
    hasher.update(&head);
    hasher.update(payload);
    let written = private(temporary).and_then(|mut file| {
        file.write_all(&head)?;
        file.write_all(payload)?;
        file.write_all(hasher.finish().as_bytes())
    });
    let written = written.and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        // Half a file helps nobody; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(temporary);
    }
    written
}

/// Reads the payload of the page that `title` names, which must have `payload_bytes`.
pub(super) fn read(path: &Path, title: &Title, payload_bytes: usize) -> Result<Vec<u8>, Fault> {
    let found = fs::symlink_metadata(path).map_err(Fault::Io)?;
    // Asked before it is opened: a pipe would hold up whoever reads, and a huge file fill the memory.
    let wanted = file_bytes(title.tokens.len(), payload_bytes);
    if !found.is_file() || found.len() != wanted {
        return Err(Fault::Damaged("its size is not that of a page"));
    }
    let mut bytes = Vec::with_capacity(wanted as usize);
    File::open(path).and_then(|file| file.take(wanted).read_to_end(&mut bytes)).map_err(Fault::Io)?;
    let head = title.bytes(payload_bytes);
    let Some(rest) = bytes.strip_prefix(head.as_slice()) else {
        return Err(Fault::Damaged("it holds another text, or was made by another model or version"));
    };
    let Some((payload, checksum)) = rest.split_at_checked(payload_bytes) else {
        return Err(Fault::Damaged("it is too short"));
    };
    let mut hasher = Hasher::default();
    hasher.update(&head);
    hasher.update(payload);
    if checksum != hasher.finish().as_bytes() {
        return Err(Fault::Damaged("its checksum does not match"));
    }
    bytes.truncate(head.len() + payload_bytes);
    bytes.drain(..head.len());
    Ok(bytes)
}

/// What it holds is what prompts said: nobody else may read it.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
