//! A real server for tests: the built binary, an empty data folder, a free port of the loopback. It is asked to stop when
//! the value is finished with, and killed if it is dropped instead.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{command, http};

pub struct Site {
    child: Child,
    /// The executable that serves.
    pub binary: PathBuf,
    pub address: String,
    pub key: String,
    pub log: PathBuf,
}

impl Site {
    /// Builds the binary and starts it in `folder`, which is emptied first. Returns when it answers.
    pub fn start(folder: &Path, release: bool) -> Result<Self> {
        let binary = build(release)?;
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot empty `{}`", folder.display()))?;
        }
        fs::create_dir_all(folder)?;
        let address = free_address()?;
        let log = folder.join("server.log");
        let data = folder.join("data");
        println!("$ {} up --listen {address}", binary.display());
        let mut command = Command::new(&binary);
        // Settings of whoever runs the tests are not part of the tests; which instructions to use may be.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FALAJ_")) {
            if name != "FALAJ_ISA" {
                command.env_remove(name);
            }
        }
        let child = command
            .arg("up")
            .arg("--data")
            .arg(&data)
            .args(["--listen", &address])
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::create(folder.join("server.err"))?)
            .spawn()
            .with_context(|| format!("cannot start `{}`", binary.display()))?;
        let mut site = Self { child, binary, address, key: String::new(), log };
        site.wait_until_ready(&data.join("admin.key"))?;
        Ok(site)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status if it has ended by itself, which no test wants.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to stop, as Ctrl-C does, and waits. An error if it does not end well within half a minute.
    pub fn stop(mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("the server ended by itself with {status}; its log: {}", self.log.display());
        }
        command_kill("-INT", self.pid())?;
        let started = Instant::now();
        while started.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.ended()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the server ended with {status} when asked to stop; its log: {}", self.log.display());
            }
            std::thread::sleep(POLL);
        }
        bail!("the server did not stop within {} s", STOP_TIMEOUT.as_secs())
    }

    fn wait_until_ready(&mut self, key_file: &Path) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if let Some(status) = self.ended()? {
                bail!("the server ended with {status} while starting:\n{}", self.last_words());
            }
            if let Ok(key) = fs::read_to_string(key_file) {
                self.key = key.trim().to_owned();
                if http::get(&self.address, "/v1/models", &self.key).is_ok_and(|reply| reply.status == 200) {
                    return Ok(());
                }
            }
            std::thread::sleep(POLL);
        }
        bail!("the server did not answer within {} s:\n{}", START_TIMEOUT.as_secs(), self.last_words())
    }

    /// The end of what it printed.
    pub fn last_words(&self) -> String {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let all = read(&self.log) + &read(&self.log.with_extension("err"));
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn build(release: bool) -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--package", "falaj", "--locked"]);
    if release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    Ok(crate::target_dir().join(profile).join("falaj"))
}

/// The system gives out free ports in turn, so the one it just gave stays free for the moment that matters.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn command_kill(signal: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().context("cannot run `kill`")?;
    if !status.success() {
        bail!("`kill {signal} {pid}` ended with {status}");
    }
    Ok(())
}

const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
