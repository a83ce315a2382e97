//! The first key of a site: 256 bits from the operating system, in a file that only its owner reads.

use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::words::Word;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// A secret. `Debug` does not show it; ask `expose` for it by name.
#[derive(Clone)]
pub struct Key(String);

/// A key and whether this call made it.
#[derive(Debug)]
pub struct AdminKey {
    pub key: Key,
    pub is_new: bool,
}

impl AdminKey {
    /// Reads the key file, or makes one.
    pub fn open(path: &Path) -> Outcome<Self> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let key = text.trim();
                if key.len() < 20 || key.chars().any(|c| !c.is_ascii_graphic()) {
                    let cause = Word::KeyFileBad.with(&[&path.display().to_string()]);
                    return Err(Failure::new(cause).next(Word::KeyFileBadNext.text()));
                }
                warn_if_open_to_others(path)?;
                Ok(Self { key: Key(key.to_owned()), is_new: false })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = Key::random()?;
                write_private(path, key.expose()).or_fail(|| format!("`{}`", path.display()))?;
                Ok(Self { key, is_new: true })
            }
            Err(error) => Err(Failure::from(error).while_doing(&format!("`{}`", path.display()))),
        }
    }
}

impl Key {
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn random() -> Outcome<Self> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| Failure::new(format!("random numbers: {error}")))?;
        let mut text = String::from("fj-");
        for byte in bytes {
            text.push_str(&format!("{byte:02x}"));
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Made with mode 600 from the start, so that there is no moment in which others could read it; `create_new`, so that
/// a file or link that appeared meanwhile is not written through.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    // Half a key would be in the way of a whole one.
    writeln!(file, "{text}").and_then(|()| file.sync_all()).inspect_err(|_| drop(fs::remove_file(path)))
}

/// A warning and no refusal: secrets mounted into containers often come with wider modes that nobody can change.
#[cfg(unix)]
fn warn_if_open_to_others(path: &Path) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        output::note(&Word::KeyFileOpen.with(&[&path.display().to_string(), &format!("{mode:o}")]));
    }
    Ok(())
}

#[cfg(not(unix))]
fn warn_if_open_to_others(_: &Path) -> Outcome {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_hide() {
        let (a, b) = (Key::random().unwrap(), Key::random().unwrap());
        assert_ne!(a.expose(), b.expose());
        assert_eq!(a.expose().len(), 3 + 64);
        assert_eq!(format!("{a:?}"), "Key(..)");
    }
}
