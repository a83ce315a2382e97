//! The peer: llama.cpp from the Python package index's source distribution of llama-cpp-python, built here with the best
//! this machine has, and once more for AVX2 only. Everything lies under `target/bench`. Only the CPU library depends on
//! instructions, so the second build is that library beside copies of the same programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{command, http};

/// The version whose vendored llama.cpp is measured.
pub const PACKAGE: &str = "llama-cpp-python==0.3.36";
const PROGRAMS: [&str; 6] =
    ["llama-bench", "llama-batched-bench", "llama-server", "llama-quantize", "llama-perplexity", "llama-tokenize"];

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Peer {
    folder: PathBuf,
    pub threads: usize,
}

/// For which instructions a side was built or told to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    Native,
    Avx2,
}

impl Build {
    /// What stands behind a case's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Build::Native => "",
            Build::Avx2 => "@avx2",
        }
    }
}

impl Peer {
    /// Downloads and builds what is not there yet.
    pub fn install(folder: &Path, threads: usize) -> Result<Self> {
        let peer = Self { folder: folder.to_owned(), threads };
        if [Build::Native, Build::Avx2].iter().all(|build| PROGRAMS.iter().all(|p| peer.program(*build, p).is_file())) {
            return Ok(peer);
        }
        let tools = tools(folder)?;
        let source = source(folder, &tools)?;
        let compiler = Compiler::choose(&source)?;
        println!("bench: building the peer with {}", compiler.name);
        let native = folder.join("native");
        compiler.configure(&tools, &source, &native, &["-DGGML_NATIVE=ON"])?;
        ninja(&tools, &native, &PROGRAMS)?;
        let avx2 = folder.join("avx2");
        compiler.configure(&tools, &source, &avx2, AVX2_ONLY)?;
        ninja(&tools, &avx2, &["ggml-cpu"])?;
        for (build, library) in [(Build::Native, &native), (Build::Avx2, &avx2)] {
            let to = peer.programs(build);
            fs::create_dir_all(&to)?;
            copy(&native.join("bin"), &to, |_| true)?;
            copy(&library.join("bin"), &to, |name| name.starts_with("libggml-cpu"))?;
        }
        Ok(peer)
    }

    pub fn native(&self, program: &str) -> PathBuf {
        self.program(Build::Native, program)
    }

    fn programs(&self, build: Build) -> PathBuf {
        self.folder.join("run").join(if build == Build::Avx2 { "avx2" } else { "native" })
    }

    fn program(&self, build: Build, name: &str) -> PathBuf {
        self.programs(build).join(name)
    }

    /// Tokens per second on a prompt and in decoding alone; 0 leaves one out.
    pub fn speed(
        &self,
        build: Build,
        model: &Path,
        prompt: usize,
        decode: usize,
        samples: usize,
    ) -> Result<Vec<Vec<f64>>> {
        let threads = self.threads.to_string();
        let (prompt, decode, samples) = (prompt.to_string(), decode.to_string(), samples.to_string());
        let mut bench = Command::new(self.program(build, "llama-bench"));
        bench.arg("-m").arg(model).args(["-t", &threads, "-p", &prompt, "-n", &decode]);
        // A first pass of the same length warms nothing that a long prompt does not warm itself.
        bench.args(["-fa", "1", "-r", &samples, "-o", "jsonl"]).args((prompt.len() > 3).then_some("--no-warmup"));
        let rates = |line: &Value| Some(line.get("samples_ts")?.as_array()?.iter().filter_map(Value::as_f64).collect());
        let rates: Vec<Vec<f64>> = json_lines(&mut bench)?.iter().filter_map(rates).collect();
        if rates.is_empty() {
            bail!("llama-bench measured nothing");
        }
        Ok(rates)
    }

    /// Tokens per second of sequences decoded together after prompts of their own, per number of sequences.
    pub fn batch(
        &self,
        build: Build,
        model: &Path,
        sequences: &[usize],
        prompt: usize,
        tokens: usize,
    ) -> Result<Vec<f64>> {
        let threads = self.threads.to_string();
        let list: Vec<String> = sequences.iter().map(usize::to_string).collect();
        let context = sequences.iter().max().unwrap_or(&1) * (prompt + tokens);
        let mut bench = Command::new(self.program(build, "llama-batched-bench"));
        bench.arg("-m").arg(model).args(["-t", &threads, "-tb", &threads, "-fa", "on", "-b", "2048", "-ub", "512"]);
        bench.args(["-c", &context.to_string(), "-npp", &prompt.to_string(), "-ntg", &tokens.to_string()]);
        bench.args(["-npl", &list.join(","), "--output-format", "jsonl"]);
        let rates: Vec<f64> =
            json_lines(&mut bench)?.iter().filter_map(|line| line.get("speed_tg")?.as_f64()).collect();
        if rates.len() != sequences.len() {
            bail!("llama-batched-bench measured {} of {} cases", rates.len(), sequences.len());
        }
        Ok(rates)
    }

    /// Perplexity of a text, over windows of `context` tokens of which the second half counts.
    pub fn perplexity(&self, model: &Path, text: &Path, context: usize) -> Result<f64> {
        let mut program = Command::new(self.native("llama-perplexity"));
        program.arg("-m").arg(model).arg("-f").arg(text).args(["-c", &context.to_string(), "-t"]);
        program.arg(self.threads.to_string()).args(["-fa", "on"]);
        let output = program.output().context("cannot start llama-perplexity")?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let line = text.lines().rev().find(|line| line.contains("Final estimate: PPL"));
        let number = line.and_then(|line| line.split('=').nth(1)?.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("llama-perplexity gave no estimate:\n{}", tail(&text)))
    }

    /// The ids of a text's tokens, as a list of numbers with commas.
    pub fn tokens(&self, model: &Path, text: &Path) -> Result<String> {
        let mut program = Command::new(self.native("llama-tokenize"));
        program.arg("-m").arg(model).arg("-f").arg(text).args(["--ids", "--log-disable", "--no-parse-special"]);
        let output = program.output().context("cannot start llama-tokenize")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let list = text.rsplit('[').next().and_then(|rest| rest.split(']').next());
        Ok(list.context("llama-tokenize printed no list")?.to_owned())
    }

    pub fn server(&self, build: Build, model: &Path, sequences: usize, context: usize) -> Result<Server> {
        let address = crate::site::free_address()?;
        let port = address.rsplit(':').next().unwrap_or_default().to_owned();
        let threads = self.threads.to_string();
        let mut server = Command::new(self.program(build, "llama-server"));
        server.arg("-m").arg(model).args(["-t", &threads, "-tb", &threads, "-np", &sequences.to_string()]);
        server.args(["-c", &(sequences * context).to_string(), "-fa", "on", "-b", "2048", "-ub", "512"]);
        server.args(["--host", "127.0.0.1", "--port", &port, "--cont-batching"]);
        let child = server
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.folder.join("llama-server.log"))?)
            .spawn()
            .context("cannot start llama-server")?;
        let mut server = Server { child, address };
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if let Some(status) = server.child.try_wait()? {
                bail!("llama-server ended with {status}; see target/bench/llama-server.log");
            }
            if http::get(&server.address, "/health", "").is_ok_and(|reply| reply.status == 200) {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("llama-server did not answer within {} s", START_TIMEOUT.as_secs())
    }
}

/// A running llama-server, killed when dropped.
pub struct Server {
    child: Child,
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// cmake and ninja, from wheels.
fn tools(folder: &Path) -> Result<PathBuf> {
    let tools = folder.join("tools");
    if !tools.join("bin/ninja").is_file() || !tools.join("bin/cmake").is_file() {
        let python = command::find("python3").context("the peer's build needs `python3`; or use `--no-peer`")?;
        command::run(Command::new(python).args(["-m", "venv"]).arg(&tools))?;
        command::run(Command::new(tools.join("bin/pip")).args([
            "install",
            "--quiet",
            "cmake>=3.28,<5",
            "ninja>=1.11",
        ]))?;
    }
    Ok(tools)
}

fn source(folder: &Path, tools: &Path) -> Result<PathBuf> {
    let unpacked = folder.join("src");
    let found = || -> Option<PathBuf> {
        let entries = fs::read_dir(&unpacked).ok()?.flatten();
        entries.map(|entry| entry.path().join("vendor/llama.cpp")).find(|path| path.join("CMakeLists.txt").is_file())
    };
    if found().is_none() {
        fs::create_dir_all(&unpacked)?;
        command::run(
            Command::new(tools.join("bin/pip"))
                .args(["download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest"])
                .arg(&unpacked)
                .arg(PACKAGE),
        )?;
        let mut archives = fs::read_dir(&unpacked)?.flatten().map(|entry| entry.path());
        let archive = archives.find(|path| path.extension().is_some_and(|end| end == "gz"));
        let archive = archive.context("pip downloaded no source archive")?;
        command::run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&unpacked))?;
    }
    found().context("the source distribution holds no vendor/llama.cpp")
}

struct Compiler {
    name: String,
    /// For cmake.
    options: Vec<String>,
}

impl Compiler {
    /// The system's compiler; on CPUs with AMX Debian's clang-16, since GCC 12 drops the stores that make a tile
    /// configuration and the peer crashes. Without clang the source gets the barrier that GCC needs there.
    fn choose(source: &Path) -> Result<Self> {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        if !cpu.contains("amx_int8") {
            return Ok(Self { name: "the system's compiler".into(), options: Vec::new() });
        }
        if command::find("clang++-16").is_some() {
            let options = ["-DCMAKE_C_COMPILER=clang-16", "-DCMAKE_CXX_COMPILER=clang++-16"];
            return Ok(Self { name: "clang-16".into(), options: options.map(str::to_owned).to_vec() });
        }
        let file = source.join("ggml/src/ggml-cpu/amx/mmq.cpp");
        let text = fs::read_to_string(&file)?;
        if !text.contains(BARRIER) {
            let call = "_tile_loadconfig(&tc);";
            fs::write(&file, text.replace(call, &format!("{BARRIER}\n    {call}")))?;
        }
        Ok(Self { name: "the system's compiler and a barrier before `ldtilecfg`".into(), options: Vec::new() })
    }

    fn configure(&self, tools: &Path, source: &Path, build: &Path, more: &[&str]) -> Result<()> {
        let mut cmake = with_tools(tools, "cmake");
        cmake.arg("-S").arg(source).arg("-B").arg(build).args(OPTIONS).args(&self.options).args(more);
        command::run(&mut cmake)
    }
}

fn ninja(tools: &Path, build: &Path, targets: &[&str]) -> Result<()> {
    command::run(with_tools(tools, "ninja").arg("-C").arg(build).args(targets))
}

fn with_tools(tools: &Path, program: &str) -> Command {
    let mut command = Command::new(tools.join("bin").join(program));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders).unwrap_or(path));
    command
}

fn copy(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(from)?.flatten() {
        let name = entry.file_name();
        if wanted(&name.to_string_lossy()) {
            let target = to.join(&name);
            let _ = fs::remove_file(&target);
            // Follows the links between a library's names: each becomes a file.
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn json_lines(command: &mut Command) -> Result<Vec<Value>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{}", output.status, tail(&String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

const BARRIER: &str = "__asm__ volatile(\"\" ::: \"memory\");";
const OPTIONS: &[&str] = &[
    "-G",
    "Ninja",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DGGML_LLAMAFILE=ON",
    "-DGGML_CPU_REPACK=ON",
    "-DGGML_OPENMP=ON",
    "-DGGML_CCACHE=OFF",
];
const AVX2_ONLY: &[&str] = &[
    "-DGGML_NATIVE=OFF",
    "-DGGML_SSE42=ON",
    "-DGGML_AVX=ON",
    "-DGGML_AVX2=ON",
    "-DGGML_FMA=ON",
    "-DGGML_F16C=ON",
    "-DGGML_BMI2=ON",
    "-DGGML_AVX_VNNI=OFF",
    "-DGGML_AVX512=OFF",
    "-DGGML_AVX512_VBMI=OFF",
    "-DGGML_AVX512_VNNI=OFF",
    "-DGGML_AVX512_BF16=OFF",
    "-DGGML_AMX_TILE=OFF",
    "-DGGML_AMX_INT8=OFF",
    "-DGGML_AMX_BF16=OFF",
];
const START_TIMEOUT: Duration = Duration::from_secs(120);
