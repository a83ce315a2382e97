//! The gateways to compare with, each from the Python package index in an environment of its own below `target/`, started as their
//! manuals say for one engine, and told to log errors only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Gate;
use crate::site::free_address;
use crate::{command, http};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Sglang,
    Vllm,
    LiteLlm,
}

impl Peer {
    pub const ALL: [Self; 3] = [Self::Sglang, Self::Vllm, Self::LiteLlm];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sglang => "sglang-router",
            Self::Vllm => "vllm-router",
            Self::LiteLlm => "litellm",
        }
    }

    /// The version that is measured.
    pub fn package(self) -> &'static str {
        match self {
            Self::Sglang => "sglang-router==0.3.2",
            Self::Vllm => "vllm-router==0.1.17",
            Self::LiteLlm => "litellm[proxy]==1.106.2",
        }
    }

    /// What was asked for at one connection and at 64.
    pub fn targets(self) -> [Option<f64>; 2] {
        match self {
            Self::Sglang => [Some(1.5), Some(2.0)],
            Self::Vllm | Self::LiteLlm => [None; 2],
        }
    }

    /// Its program, downloaded if it is not there yet.
    pub fn install(self) -> Result<PathBuf> {
        let home = crate::target_dir().join(format!("venv-{}", self.name()));
        let version = self.package().rsplit('=').next().unwrap_or_default();
        let package = self.package().split(['[', '=']).next().unwrap_or_default();
        let check = format!("import importlib.metadata as m; assert m.version('{package}') == '{version}'");
        let mut installed = Command::new(home.join("bin/python"));
        let installed = installed.args(["-c", &check]).stderr(Stdio::null()).status();
        if !installed.is_ok_and(|status| status.success()) {
            let python = command::find("python3").context("peers need `python3`; or use `--no-peer`")?;
            command::run(Command::new(python).args(["-m", "venv"]).arg(&home))?;
            command::run(Command::new(home.join("bin/pip")).args(["install", "--quiet", self.package()]))?;
        }
        Ok(home.join("bin").join(self.name()))
    }

    /// Returns when it passes a request on.
    pub fn start(self, program: &Path, engine: &str, folder: &Path) -> Result<Gate> {
        let address = free_address()?;
        let (host, port) = address.rsplit_once(':').context("an address has a port")?;
        let mut command = Command::new(program);
        let url = format!("http://{engine}");
        if self == Self::LiteLlm {
            let config = folder.join("litellm.yaml");
            fs::write(&config, litellm(&url))?;
            command.arg("--config").arg(config).args(["--host", host, "--port", port]);
            command.env("LITELLM_MASTER_KEY", KEY).env("LITELLM_LOG", "ERROR");
        } else {
            let metrics = free_address()?;
            let metrics = metrics.rsplit(':').next().unwrap_or_default();
            if self == Self::Sglang {
                command.arg("launch");
            }
            // With one engine every policy chooses the same: this one is the cheapest.
            command.args(["--host", host, "--port", port, "--worker-urls", &url, "--policy", "round_robin"]);
            command.args(["--log-level", "error", "--prometheus-port", metrics]);
        }
        let log = fs::File::create(folder.join(format!("{}.log", self.name())))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("cannot start {}", self.name()))?;
        let gate = Gate { child, address, key: KEY.to_owned() };
        let started = Instant::now();
        let body = r#"{"model":"mock","messages":[{"role":"user","content":"Hello"}]}"#;
        while started.elapsed() < START_TIMEOUT {
            let asked = http::send(&gate.address, "POST", "/v1/chat/completions", &gate.key, body);
            if asked.is_ok_and(|reply| reply.status == 200) {
                return Ok(gate);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!("{} did not answer within {} s", self.name(), START_TIMEOUT.as_secs())
    }
}

fn litellm(url: &str) -> String {
    format!(
        "model_list:\n  - model_name: mock\n    litellm_params:\n      model: openai/mock\n      api_base: {url}/v1\n      api_key: none\n"
    )
}

const KEY: &str = "sk-bench-gateway";
const START_TIMEOUT: Duration = Duration::from_secs(180);
