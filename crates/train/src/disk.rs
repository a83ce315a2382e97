//! Writes that are whole or not there: files go into a folder with a hidden name, everything is flushed to the disk, and one rename
//! makes it visible. What dies in between leaves a hidden folder that the next job clears away.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use falaj_artifact::{Digest, Hasher};

use crate::TrainError;

/// The way to the disk. `before` is called before each thing that is done to it: tests let it fail there, as if the process had been
/// killed at that moment.
#[derive(Clone, Copy)]
pub(crate) struct Disk<'a> {
    before: &'a dyn Fn() -> io::Result<()>,
}

impl Disk<'static> {
    pub fn real() -> Self {
        Self { before: &|| Ok(()) }
    }
}

impl<'a> Disk<'a> {
    #[cfg(test)]
    pub fn failing(before: &'a dyn Fn() -> io::Result<()>) -> Self {
        Self { before }
    }

    /// An empty folder beside `target`, in place of one that an earlier process left.
    pub fn begin(&self, target: &Path) -> Result<Pending<'a>, TrainError> {
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or("files");
        let hidden = target.with_file_name(format!(".{name}.partial"));
        let parent = folder_of(target);
        self.act("create", parent, || fs::create_dir_all(parent))?;
        if hidden.exists() {
            self.act("remove", &hidden, || fs::remove_dir_all(&hidden))?;
        }
        self.act("create", &hidden, || fs::create_dir(&hidden))?;
        Ok(Pending { disk: *self, hidden, target: target.to_path_buf() })
    }

    pub fn remove(&self, folder: &Path) -> Result<(), TrainError> {
        self.act("remove", folder, || fs::remove_dir_all(folder))
    }

    fn act<T>(&self, action: &'static str, path: &Path, f: impl FnOnce() -> io::Result<T>) -> Result<T, TrainError> {
        (self.before)().and_then(|()| f()).map_err(TrainError::io(action, path))
    }
}

/// A folder in the making.
pub(crate) struct Pending<'a> {
    disk: Disk<'a>,
    hidden: PathBuf,
    target: PathBuf,
}

impl Pending<'_> {
    /// Where the files are until [`Pending::publish`].
    pub fn folder(&self) -> &Path {
        &self.hidden
    }

    /// Writes a whole file by `write`, flushes it to the disk, and returns its digest.
    pub fn file(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<(), TrainError>,
    ) -> Result<Digest, TrainError> {
        let path = self.hidden.join(name);
        let file = self.disk.act("create", &path, || File::create(&path))?;
        let mut out = Checked { disk: self.disk, file, buffer: Vec::with_capacity(BUFFER), hasher: Hasher::default() };
        match write(&mut out) {
            // What the writers above wrap is still this file's error.
            Err(TrainError::Artifact(falaj_artifact::ArtifactError::Write { source, .. })) => {
                return Err(TrainError::io("write", &path)(source));
            }
            other => other?,
        }
        out.flush().map_err(TrainError::io("write", &path))?;
        self.disk.act("write", &path, || out.file.sync_all())?;
        Ok(out.hasher.finish())
    }

    /// Makes the folder visible under its name, in place of one that is there. Returns its path.
    pub fn publish(self) -> Result<PathBuf, TrainError> {
        let Self { disk, hidden, target } = self;
        disk.act("write", &hidden, || File::open(&hidden)?.sync_all())?;
        if target.exists() {
            disk.act("replace", &target, || fs::remove_dir_all(&target))?;
        }
        disk.act("rename", &target, || fs::rename(&hidden, &target))?;
        let parent = folder_of(&target);
        disk.act("write", parent, || File::open(parent)?.sync_all())?;
        Ok(target)
    }
}

/// Where `target` lies; a bare name lies in the working folder.
fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

struct Checked<'a> {
    disk: Disk<'a>,
    file: File,
    buffer: Vec<u8>,
    hasher: Hasher,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            (self.disk.before)()?;
            self.file.write_all(&self.buffer)?;
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
        Ok(())
    }
}

const BUFFER: usize = 1 << 20;
