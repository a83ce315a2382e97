//! The data directory: where it is when nobody says, and the lock that keeps two servers apart.

use crate::failure::{Failure, OrFail, Outcome};
use crate::words::Word;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// `$XDG_DATA_HOME/falaj`, or `~/.local/share/falaj`. Source: XDG Base Directory Specification 0.8.
pub fn default_data_dir(var: impl Fn(&str) -> Option<String>) -> PathBuf {
    base_dir(&var, "XDG_DATA_HOME", ".local/share").join("falaj")
}

/// `$XDG_CONFIG_HOME/falaj/falaj.toml`, or `~/.config/falaj/falaj.toml`.
pub fn default_config_file(var: impl Fn(&str) -> Option<String>) -> PathBuf {
    base_dir(&var, "XDG_CONFIG_HOME", ".config").join("falaj").join("falaj.toml")
}

fn base_dir(var: impl Fn(&str) -> Option<String>, name: &str, below_home: &str) -> PathBuf {
    // The specification says that relative paths are to be ignored.
    if let Some(path) = var(name).map(PathBuf::from).filter(|path| path.is_absolute()) {
        return path;
    }
    match var("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Path::new(&home).join(below_home),
        None => PathBuf::from("."),
    }
}

/// Creates the directory, readable by its owner only.
pub fn create(dir: &Path) -> Outcome {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).or_fail(|| format!("`{}`", dir.display())).or_next(|| Word::ChooseDataDir.text().to_owned())
}

/// What helps where the directory's disk has no space; `None` where it has.
pub fn full(dir: &Path) -> Option<String> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    (free_bytes < ENOUGH_BYTES).then(|| Word::DiskFull.with(&[&dir.display().to_string()]))
}

/// To start with, and to make the files of an empty directory.
const ENOUGH_BYTES: u64 = 4 << 20;

/// Held by the one server of a data directory; the system drops it with the process, however that ends.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    pub fn acquire(dir: &Path) -> Outcome<Self> {
        let path = dir.join("falaj.lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.or_fail(|| format!("`{}`", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                // For people who look; nothing reads it back but the message below.
                // On a full disk it is missing, and the lock holds.
                let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.rewind().and_then(|()| file.read_to_string(&mut holder));
                let cause = Word::DataDirLocked.with(&[&dir.display().to_string(), holder.trim()]);
                Err(Failure::new(cause).next(Word::DataDirLockedNext.text()))
            }
            Err(TryLockError::Error(error)) => Err(Failure::from(error).while_doing(&format!("`{}`", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_follow_xdg() {
        let var = |name: &str| match name {
            "XDG_DATA_HOME" => Some("/srv/data".to_owned()),
            "XDG_CONFIG_HOME" => Some("relative/is/ignored".to_owned()),
            "HOME" => Some("/home/amal".to_owned()),
            _ => None,
        };
        assert_eq!(default_data_dir(var), Path::new("/srv/data/falaj"));
        assert_eq!(default_config_file(var), Path::new("/home/amal/.config/falaj/falaj.toml"));
        assert_eq!(default_data_dir(|_| None), Path::new("./falaj"));
    }
}
