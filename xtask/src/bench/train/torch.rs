//! PyTorch, from the Python package index, in `target/venv-torch`, and `bench/torch_train.py` as a process that waits for
//! commands.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::ours::Measure;
use crate::command;

/// The version that is measured.
pub const PACKAGE: &str = "torch==2.15.0";

pub struct Torch {
    python: PathBuf,
    cache: PathBuf,
}

impl Torch {
    /// Downloads what is not there yet: some gigabytes.
    pub fn install(folder: &Path) -> Result<Self> {
        let home = crate::target_dir().join("venv-torch");
        let torch = Self { python: home.join("bin/python"), cache: folder.join("inductor") };
        let installed = |torch: &Self| {
            let version =
                format!("import torch; assert torch.__version__.startswith('{}')", PACKAGE.rsplit('=').next()?);
            Some(Command::new(&torch.python).args(["-c", &version]).status().ok()?.success())
        };
        if installed(&torch) != Some(true) {
            let python = command::find("python3").context("PyTorch needs `python3`; or use `--no-peer`")?;
            command::run(Command::new(python).args(["-m", "venv"]).arg(&home))?;
            command::run(Command::new(home.join("bin/pip")).args(["install", "--quiet", PACKAGE, "numpy"]))?;
        }
        Ok(torch)
    }

    /// `mode`: `bf16` or `fp32`.
    pub fn start(&self, threads: usize, mode: &str, compile: bool) -> Result<Measure> {
        let mut program = Command::new(&self.python);
        program.arg(crate::root().join("bench/torch_train.py")).args([&threads.to_string(), mode]);
        program.args(compile.then_some("compile"));
        // What it compiles is the same in every run.
        program.env("TORCHINDUCTOR_CACHE_DIR", &self.cache);
        Measure::start(&mut program)
    }
}
