//! Our side: the release programs of this checkout, the `measure` example as a loaded model that waits for commands, and
//! `falaj up` as the server.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::peer::Build;
use crate::command;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Ours {
    folder: PathBuf,
    pub threads: usize,
}

impl Ours {
    /// Builds in release and copies, so that a build that runs later changes nothing that is being measured.
    pub fn build(folder: &Path, threads: usize) -> Result<Self> {
        let ours = Self { folder: folder.join("run/ours"), threads };
        build(&ours.folder, &["falaj", "falaj-engine"], &["--bin", "falaj"], &["measure"])?;
        Ok(ours)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Loads a model and waits. Returns when it is ready.
    pub fn measure(&self, build: Build, model: &Path, more: &[&str]) -> Result<Measure> {
        let mut program = Command::new(self.program("measure"));
        program.arg(model).args(["--threads", &self.threads.to_string()]).args(more);
        if build == Build::Avx2 {
            program.args(["--isa", "avx2"]);
        }
        Measure::start(&mut program)
    }

    pub fn server(&self, build: Build, model: &Path) -> Result<Server> {
        let data = self.folder.join("data");
        let _ = fs::remove_dir_all(&data);
        let mut up = Command::new(self.program("falaj"));
        up.args(["up", "--json", "--listen", "127.0.0.1:0", "--threads", &self.threads.to_string()]);
        up.arg("--data").arg(&data).arg("--model").arg(model);
        clean(&mut up);
        if build == Build::Avx2 {
            up.env("FALAJ_ISA", "avx2");
        }
        let log = fs::File::create(self.folder.join("falaj-up.log"))?;
        let child = up.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().context("cannot start falaj")?;
        let mut server = Server { child, address: String::new(), key: String::new(), model: String::new() };
        let mut line = String::new();
        BufReader::new(server.child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line).context("falaj up did not say where it listens")?;
        let text = |key: &str| told.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        server.address = text("address").trim_start_matches("http://").to_owned();
        server.key = match told.get("key").and_then(Value::as_str) {
            Some(key) => key.to_owned(),
            None => fs::read_to_string(text("key_file"))?.trim().to_owned(),
        };
        let stem = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let models = told.get("models").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        server.model = models.map(str::to_owned).find(|name| *name == stem).context("the model is not served")?;
        Ok(server)
    }

    /// Seconds from starting `falaj run` to the first piece of its answer.
    pub fn first_token(&self, model: &str) -> Result<f64> {
        let mut run = Command::new(self.program("falaj"));
        run.args(["run", "--threads", &self.threads.to_string(), "--max-tokens", "8"]);
        run.arg("--data").arg(self.run_data()).args([model, "hello"]);
        clean(&mut run);
        let started = Instant::now();
        let mut child = run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut stdout = child.stdout.take().context("stdout is piped")?;
        let mut byte = [0];
        let read = std::io::Read::read(&mut stdout, &mut byte)?;
        let seconds = started.elapsed().as_secs_f64();
        std::io::copy(&mut stdout, &mut std::io::sink())?;
        let status = child.wait()?;
        if read == 0 || !status.success() {
            bail!("`falaj run` ended with {status} and said {read} bytes");
        }
        Ok(seconds)
    }

    /// Takes a model into the catalog that [`Ours::first_token`] reads.
    pub fn import(&self, path: &Path, name: &str) -> Result<()> {
        self.forget()?;
        let mut import = Command::new(self.program("falaj"));
        import.arg("--data").arg(self.run_data()).args(["model", "import"]).arg(path).args(["--name", name]);
        clean(&mut import);
        command::run(import.stdin(Stdio::null()))
    }

    /// Writes a model of that catalog anew for quick starts, with `-panels` behind its name.
    pub fn optimize(&self, name: &str) -> Result<()> {
        let mut optimize = Command::new(self.program("falaj"));
        optimize.arg("--data").arg(self.run_data()).args(["model", "optimize", name]);
        clean(&mut optimize);
        command::run(optimize.stdin(Stdio::null()))
    }

    pub fn forget(&self) -> Result<()> {
        let data = self.run_data();
        if data.exists() {
            fs::remove_dir_all(data)?;
        }
        Ok(())
    }

    fn run_data(&self) -> PathBuf {
        self.folder.join("data-run")
    }

    pub fn probe(&self, build: Build) -> Result<Value> {
        let mut probe = Command::new(self.program("measure"));
        probe.args(["probe", "--threads", &self.threads.to_string()]);
        if build == Build::Avx2 {
            probe.args(["--isa", "avx2"]);
        }
        let output = probe.output().context("cannot start probe")?;
        serde_json::from_slice(&output.stdout).context("probe printed no JSON")
    }
}

/// Builds programs in release and copies them into `folder`.
pub fn build(folder: &Path, packages: &[&str], binary: &[&str], examples: &[&str]) -> Result<()> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--release", "--locked"]).args(packages.iter().flat_map(|package| ["-p", package]));
    command::run(cargo.args(binary).args(examples.iter().flat_map(|example| ["--example", example])))?;
    let release = crate::target_dir().join("release");
    fs::create_dir_all(folder)?;
    let binary = binary.last().map(|name| release.join(name));
    for program in binary.into_iter().chain(examples.iter().map(|name| release.join("examples").join(name))) {
        let to = folder.join(program.file_name().context("a program has a name")?);
        // A program that still runs keeps its file; it cannot be written over.
        let _ = fs::remove_file(&to);
        fs::copy(&program, &to).with_context(|| format!("cannot copy `{}`", program.display()))?;
    }
    Ok(())
}

/// Settings of whoever runs the bench are not part of it.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FALAJ_")) {
        command.env_remove(name);
    }
}

/// A program that waits for commands, one a line, and answers each with a line of JSON; ends when dropped.
pub struct Measure {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What it said of itself when it was ready.
    pub ready: Value,
}

impl Measure {
    /// Returns when it says that it is ready.
    pub fn start(program: &mut Command) -> Result<Self> {
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start measure")?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut measure = Self { child, stdin, stdout, ready: Value::Null };
        measure.ready = measure.read()?;
        Ok(measure)
    }

    /// Sends a command and reads its reply.
    pub fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.stdin, "{command}").with_context(|| format!("measure was gone before `{command}`"))?;
        self.stdin.flush()?;
        self.read().with_context(|| format!("`{command}`"))
    }

    /// The `rate` of a reply.
    pub fn rate(&mut self, command: &str) -> Result<f64> {
        let reply = self.ask(command)?;
        reply.get("rate").and_then(Value::as_f64).with_context(|| format!("`{command}` gave no rate: {reply}"))
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.is_empty() {
            bail!("measure ended: {:?}", self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("measure said `{}`", line.trim()))
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `falaj up`, killed when dropped.
pub struct Server {
    child: Child,
    pub address: String,
    pub key: String,
    pub model: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
