//! The peer: llama.cpp from the Python package index's source distribution of llama-cpp-python, built here with the best
//! this machine has, and once more for AVX2 only, by each compiler that is found. Everything lies under `target/bench`.
//! Only the CPU library depends on instructions: the other builds are that library beside copies of the same programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{command, http};

/// The version whose vendored llama.cpp is measured.
pub const PACKAGE: &str = "llama-cpp-python==0.3.36";
const PROGRAMS: [&str; 6] =
    ["llama-bench", "llama-batched-bench", "llama-server", "llama-quantize", "llama-perplexity", "llama-tokenize"];

/// Where the programs are, and which of them does what best.
#[derive(Clone, Debug)]
pub struct Peer {
    folder: PathBuf,
    pub threads: usize,
    compilers: Vec<Compiler>,
    best: Best,
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

    fn name(self) -> &'static str {
        match self {
            Build::Native => "native",
            Build::Avx2 => "avx2",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Build::Native => &["-DGGML_NATIVE=ON"],
            Build::Avx2 => AVX2_ONLY,
        }
    }
}

impl Peer {
    /// Downloads and builds what is not there yet.
    pub fn install(folder: &Path, threads: usize) -> Result<Self> {
        let compilers = Compiler::all();
        let best = Best::read(&folder.join("peer.json"));
        let peer = Self { folder: folder.to_owned(), threads, compilers, best };
        let missing = |build: Build, compiler: &Compiler| {
            PROGRAMS.iter().any(|program| !peer.programs(build, compiler).join(program).is_file())
        };
        let builds =
            || [Build::Native, Build::Avx2].into_iter().flat_map(|b| peer.compilers.iter().map(move |c| (b, c)));
        if !builds().any(|(build, compiler)| missing(build, compiler)) {
            return Ok(peer);
        }
        let tools = tools(folder)?;
        let source = source(folder, &tools)?;
        if has_amx() {
            add_barrier(&source)?;
        }
        // The programs themselves, once; they hold no instructions that matter.
        let all = folder.join("native");
        peer.compilers[0].configure(&tools, &source, &all, Build::Native)?;
        ninja(&tools, &all, &PROGRAMS)?;
        for (build, compiler) in builds() {
            let folder = folder.join(format!("{}{}", build.name(), compiler.suffix));
            compiler.configure(&tools, &source, &folder, build)?;
            ninja(&tools, &folder, &["ggml-cpu"])?;
            let to = peer.programs(build, compiler);
            fs::create_dir_all(&to)?;
            copy(&all.join("bin"), &to, |_| true)?;
            copy(&folder.join("bin"), &to, |name| name.starts_with("libggml-cpu"))?;
        }
        Ok(peer)
    }

    /// Finds, by a short run of each, which build and layout of weights is the peer's best for a model, and remembers it.
    pub fn tune(&mut self, build: Build, model: &Path) -> Result<()> {
        let key = Best::key(build, model);
        if self.best.0.contains_key(&key) {
            return Ok(());
        }
        println!("  which of the peer's builds is best for {key}?");
        let mut found: [Option<(f64, Setting)>; 2] = [None, None];
        for compiler in 0..self.compilers.len() {
            for repack in [true, false] {
                let setting = Setting { compiler, repack };
                for (at, (prompt, decode)) in [(192, 0), (0, 16)].into_iter().enumerate() {
                    let rates = self.bench(build, setting, model, prompt, decode, 1)?;
                    let rate = rates.iter().copied().fold(0.0, f64::max);
                    let name = self.compilers[compiler].name;
                    println!("    {name}, repack {repack}, {}: {rate:.1}", ["prompt", "decode"][at]);
                    // Differences of a hundredth are chance, and the first of the settings is the peer's own default.
                    if found[at].is_none_or(|(best, _)| rate > best * 1.01) {
                        found[at] = Some((rate, setting));
                    }
                }
            }
        }
        if let [Some((_, prompt)), Some((_, decode))] = found {
            self.best.0.insert(key, [prompt, decode]);
            self.best.write(&self.folder.join("peer.json"))?;
        }
        Ok(())
    }

    /// For the record: what was chosen, per build and model.
    pub fn chosen(&self) -> Value {
        let text = |setting: &Setting| {
            let name = self.compilers.get(setting.compiler).map_or("?", |compiler| compiler.name);
            format!("{name}, {}", if setting.repack { "repacked" } else { "not repacked" })
        };
        let map =
            self.best.0.iter().map(|(key, [prompt, decode])| {
                (key.clone(), json!({ "prompt": text(prompt), "decode": text(decode) }))
            });
        Value::Object(map.collect())
    }

    pub fn native(&self, program: &str) -> PathBuf {
        self.programs(Build::Native, &self.compilers[0]).join(program)
    }

    fn programs(&self, build: Build, compiler: &Compiler) -> PathBuf {
        self.folder.join("run").join(format!("{}{}", build.name(), compiler.suffix))
    }

    fn program(&self, build: Build, setting: Setting, name: &str) -> PathBuf {
        self.programs(build, &self.compilers[setting.compiler]).join(name)
    }

    /// Tokens per second on a prompt and in decoding alone, each with what suits it best; 0 leaves one out.
    pub fn speed(
        &self,
        build: Build,
        model: &Path,
        prompt: usize,
        decode: usize,
        samples: usize,
    ) -> Result<Vec<Vec<f64>>> {
        let [for_prompt, for_decode] = self.best.of(build, model);
        let mut rates = Vec::new();
        if prompt > 0 {
            rates.push(self.bench(build, for_prompt, model, prompt, 0, samples)?);
        }
        if decode > 0 {
            rates.push(self.bench(build, for_decode, model, 0, decode, samples)?);
        }
        Ok(rates)
    }

    fn bench(
        &self,
        build: Build,
        setting: Setting,
        model: &Path,
        prompt: usize,
        decode: usize,
        samples: usize,
    ) -> Result<Vec<f64>> {
        let mut bench = Command::new(self.program(build, setting, "llama-bench"));
        bench.arg("-m").arg(model).args(["-t", &self.threads.to_string(), "-fa", "1", "-o", "jsonl"]);
        bench.args(["-p", &prompt.to_string(), "-n", &decode.to_string(), "-r", &samples.to_string()]);
        bench.args(["--repack", if setting.repack { "1" } else { "0" }]);
        // A first pass of the same length warms nothing that a long prompt does not warm itself.
        bench.args((prompt > 1000).then_some("--no-warmup"));
        let lines = json_lines(&mut bench)?;
        let samples = lines.iter().find_map(|line| line.get("samples_ts")?.as_array());
        let rates: Vec<f64> = samples.into_iter().flatten().filter_map(Value::as_f64).collect();
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
        let [setting, _] = self.best.of(build, model);
        let list: Vec<String> = sequences.iter().map(usize::to_string).collect();
        let context = sequences.iter().max().unwrap_or(&1) * (prompt + tokens);
        let mut bench = Command::new(self.program(build, setting, "llama-batched-bench"));
        self.serve_like(&mut bench, setting, model);
        bench.args(["-c", &context.to_string(), "-npp", &prompt.to_string(), "-ntg", &tokens.to_string()]);
        bench.args(["-npl", &list.join(","), "--output-format", "jsonl"]);
        let rates: Vec<f64> =
            json_lines(&mut bench)?.iter().filter_map(|line| line.get("speed_tg")?.as_f64()).collect();
        if rates.len() != sequences.len() {
            bail!("llama-batched-bench measured {} of {} cases", rates.len(), sequences.len());
        }
        Ok(rates)
    }

    fn serve_like(&self, command: &mut Command, setting: Setting, model: &Path) {
        let threads = self.threads.to_string();
        command.arg("-m").arg(model).args(["-t", &threads, "-tb", &threads, "-fa", "on", "-b", "2048", "-ub", "512"]);
        command.args((!setting.repack).then_some("--no-repack"));
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

    /// The ids of a text's tokens, as a list of numbers with commas; `first`: after the token that the model wants first, if
    /// it wants one.
    pub fn tokens(&self, model: &Path, text: &Path, first: bool) -> Result<String> {
        let mut program = Command::new(self.native("llama-tokenize"));
        program.arg("-m").arg(model).arg("-f").arg(text).args(["--ids", "--log-disable", "--no-parse-special"]);
        program.args((!first).then_some("--no-bos"));
        let output = program.output().context("cannot start llama-tokenize")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let list = text.rsplit('[').next().and_then(|rest| rest.split(']').next());
        Ok(list.context("llama-tokenize printed no list")?.to_owned())
    }

    pub fn server(&self, build: Build, model: &Path, sequences: usize, context: usize) -> Result<Server> {
        let address = crate::site::free_address()?;
        let port = address.rsplit(':').next().unwrap_or_default().to_owned();
        let [setting, _] = self.best.of(build, model);
        let mut server = Command::new(self.program(build, setting, "llama-server"));
        self.serve_like(&mut server, setting, model);
        server.args(["-np", &sequences.to_string(), "-c", &(sequences * context).to_string()]);
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

/// Which build, and whether weights are laid out anew when a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting {
    compiler: usize,
    repack: bool,
}

/// By build and model: what is best for prompts (and batches), and for decoding alone.
#[derive(Clone, Debug, Default)]
struct Best(BTreeMap<String, [Setting; 2]>);

impl Best {
    fn key(build: Build, model: &Path) -> String {
        format!("{}{}", model.file_stem().unwrap_or_default().to_string_lossy(), build.suffix())
    }

    fn of(&self, build: Build, model: &Path) -> [Setting; 2] {
        let default = Setting { compiler: 0, repack: true };
        self.0.get(&Self::key(build, model)).copied().unwrap_or([default; 2])
    }

    fn read(path: &Path) -> Self {
        let value = fs::read_to_string(path).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let setting = |value: &Value| {
            Some(Setting { compiler: value.get(0)?.as_u64()? as usize, repack: value.get(1)?.as_bool()? })
        };
        let count = Compiler::all().len();
        let entry = |(key, value): (&String, &Value)| {
            let both = [setting(value.get(0)?)?, setting(value.get(1)?)?];
            both.iter().all(|setting| setting.compiler < count).then(|| (key.clone(), both))
        };
        let map = value.as_ref().and_then(Value::as_object);
        Self(map.into_iter().flatten().filter_map(entry).collect())
    }

    fn write(&self, path: &Path) -> Result<()> {
        let json = |setting: &Setting| json!([setting.compiler, setting.repack]);
        let map = self.0.iter().map(|(key, both)| (key.clone(), Value::Array(both.iter().map(json).collect())));
        Ok(fs::write(path, serde_json::to_string_pretty(&Value::Object(map.collect()))? + "\n")?)
    }
}

#[derive(Clone, Debug)]
struct Compiler {
    name: &'static str,
    suffix: &'static str,
    /// For cmake.
    options: &'static [&'static str],
}

impl Compiler {
    /// The system's and, where it is, Debian's clang-16: neither is best for everything.
    fn all() -> Vec<Self> {
        let system = Self { name: "the system's compiler", suffix: "", options: &[] };
        let clang = Self {
            name: "clang-16",
            suffix: "-clang",
            options: &["-DCMAKE_C_COMPILER=clang-16", "-DCMAKE_CXX_COMPILER=clang++-16"],
        };
        let found = command::find("clang-16").and_then(|_| command::find("clang++-16")).is_some();
        std::iter::once(system).chain(found.then_some(clang)).collect()
    }

    fn configure(&self, tools: &Path, source: &Path, folder: &Path, build: Build) -> Result<()> {
        let mut cmake = with_tools(tools, "cmake");
        cmake.arg("-S").arg(source).arg("-B").arg(folder).args(OPTIONS).args(self.options).args(build.options());
        command::run(&mut cmake)
    }
}

/// GCC 12 drops the stores that make a tile configuration, and the peer crashes; a barrier keeps them.
fn add_barrier(source: &Path) -> Result<()> {
    let file = source.join("ggml/src/ggml-cpu/amx/mmq.cpp");
    let text = fs::read_to_string(&file)?;
    if !text.contains(BARRIER) {
        let call = "_tile_loadconfig(&tc);";
        fs::write(&file, text.replace(call, &format!("{BARRIER}\n    {call}")))?;
    }
    Ok(())
}

fn has_amx() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("amx_int8"))
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
