//! One test's folder, environment and way to call the executable. Nothing of the caller's environment reaches it.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

pub struct Site {
    pub dir: PathBuf,
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Site {
    /// An empty folder; `name` is the test's, so that tests run side by side.
    pub fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The executable with an environment of its own.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_falaj"));
        command
            .env_clear()
            .env("HOME", &self.dir)
            .env("FALAJ_DATA", self.data())
            // Tests run side by side already.
            .env("FALAJ_THREADS", "1")
            .current_dir(&self.dir)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn falaj(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap())
    }

    pub fn falaj_with(&self, env: &[(&str, &str)], args: &[&str]) -> Ran {
        Ran::from(self.command(args).envs(env.iter().copied()).output().unwrap())
    }

    pub fn falaj_reading(&self, input: &str, args: &[&str]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap())
    }

    /// `falaj up` on a free port, and what it said.
    pub fn up(&self, args: &[&str]) -> Up {
        self.up_with(&[], args)
    }

    pub fn up_with(&self, env: &[(&str, &str)], args: &[&str]) -> Up {
        let all: Vec<&str> =
            ["up", "--listen", "127.0.0.1:0", "--json"].into_iter().chain(args.iter().copied()).collect();
        let mut command = self.command(&all);
        command.envs(env.iter().copied());
        Self::started(command)
    }

    /// Waits until this command, which is `falaj up --json` in one way or another, says that it serves.
    pub fn started(mut command: Command) -> Up {
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let hello = serde_json::from_str(&line).unwrap_or_else(|_| {
            let mut err = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut err);
            panic!("`falaj up` said {line:?} and {err}");
        });
        Up { child, hello, _out: out }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ended by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// Asserts failure with this code and these words on standard error.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is not in: {}", self.err);
        }
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// A running server; killed if the test ends before it is stopped.
pub struct Up {
    child: Child,
    pub hello: Value,
    // Kept open: a closed pipe would be another test.
    _out: BufReader<ChildStdout>,
}

impl Up {
    pub fn url(&self) -> &str {
        self.hello["address"].as_str().unwrap()
    }

    pub fn address(&self) -> &str {
        self.url().trim_start_matches("http://")
    }

    /// One HTTP/1.1 exchange over a plain socket: status, whole response.
    pub fn exchange(&self, method: &str, path: &str, key: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        let (address, length) = (self.address(), body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let status = response.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        (status, response)
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Sends the signal and waits: exit code and standard error.
    pub fn stop(self, name: &str) -> (Option<i32>, String) {
        self.signal(name);
        self.ended()
    }

    /// Waits for its end: exit code and standard error.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (status.code(), err)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A small model with random weights, as a GGUF file without a tokenizer: fit for the catalog, not for talking.
pub fn tiny_gguf() -> Vec<u8> {
    let config = falaj_model::synthetic::tiny_config(64, 128);
    let checkpoint = falaj_model::synthetic::Checkpoint::new(config, 1).unwrap();
    checkpoint.gguf(|_| falaj_kernels::Format::F32).unwrap()
}

/// The same as Hugging Face's safetensors.
pub fn tiny_safetensors() -> Vec<u8> {
    let config = falaj_model::synthetic::tiny_config(64, 128);
    let checkpoint = falaj_model::synthetic::Checkpoint::new(config, 1).unwrap();
    checkpoint.safetensors(falaj_model::Naming::HuggingFace, falaj_kernels::Format::F32).unwrap()
}

/// `config.json` of that model.
pub const TINY_CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64,
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 128,
    "tie_word_embeddings": false, "hidden_act": "silu"}"#;
