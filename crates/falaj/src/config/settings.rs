//! The one list of settings: name in the file, environment variables, flag, kind, default, meaning. Secrets are never
//! settings; the paths of their files are.

use crate::data_dir;
use crate::machine::Machine;

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `table.name` in the file.
    pub key: &'static str,
    /// First one set wins.
    pub env: &'static [&'static str],
    /// Empty when there is none.
    pub flag: &'static str,
    pub kind: Kind,
    pub default: fn(&Environment<'_>) -> String,
    pub about: &'static str,
}

/// Reads a variable of the environment.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What TOML may hold for it. `Number` also takes text such as `"64k"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    Bool,
    List,
}

pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "data",
        env: &["FALAJ_DATA"],
        flag: "--data",
        kind: Kind::Text,
        default: |var| data_dir::default_data_dir(var).display().to_string(),
        about: "models, keys, history",
    },
    Setting {
        key: "lang",
        env: &["FALAJ_LANG", "LC_ALL", "LC_MESSAGES", "LANG"],
        flag: "--lang",
        kind: Kind::Text,
        default: |_| "en".to_owned(),
        about: "language of messages: en, fr, ar",
    },
    Setting {
        key: "log",
        env: &["FALAJ_LOG"],
        flag: "",
        kind: Kind::Text,
        default: |_| "warn".to_owned(),
        about: "what to log on standard error, as in `info,falaj_server=debug`",
    },
    Setting {
        key: "server.listen",
        env: &["FALAJ_LISTEN"],
        flag: "--listen",
        kind: Kind::Text,
        default: |_| "127.0.0.1:8080".to_owned(),
        about: "address and port of `falaj up`",
    },
    Setting {
        key: "server.models",
        env: &[],
        flag: "--model",
        kind: Kind::List,
        default: |_| String::new(),
        about: "models loaded at start",
    },
    Setting {
        key: "server.memory_bytes",
        env: &["FALAJ_MEMORY_BYTES"],
        flag: "--memory",
        kind: Kind::Number,
        // A quarter is left for everything else on the machine; where it is not known, nothing is bounded.
        default: |_| match Machine::look().most_bytes() / 4 * 3 {
            0 => i64::MAX.to_string(),
            bytes => bytes.to_string(),
        },
        about: "memory for all models together; beyond it the least recently used one is unloaded",
    },
    Setting {
        key: "server.unload_after_ms",
        env: &["FALAJ_UNLOAD_AFTER_MS"],
        flag: "",
        kind: Kind::Number,
        default: |_| "0".to_owned(),
        about: "unload a model that nobody used for this long; 0: only when another needs its room",
    },
    Setting {
        key: "server.pinned",
        env: &[],
        flag: "",
        kind: Kind::List,
        default: |_| String::new(),
        about: "models that stay once they are loaded",
    },
    Setting {
        key: "server.key_file",
        env: &["FALAJ_KEY_FILE"],
        flag: "",
        kind: Kind::Text,
        default: |_| String::new(),
        about: "file of the first key; empty: admin.key in data",
    },
    Setting {
        key: "server.body_limit_bytes",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| (16 << 20).to_string(),
        about: "largest request body",
    },
    Setting {
        key: "server.request_timeout_ms",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| 600_000.to_string(),
        about: "longest time for one request",
    },
    Setting {
        key: "server.max_connections",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| 1024.to_string(),
        about: "connections open at once",
    },
    Setting {
        key: "server.file_limit_bytes",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| (512 << 20).to_string(),
        about: "largest file that may be uploaded",
    },
    Setting {
        key: "engine.isa",
        env: &["FALAJ_ISA"],
        flag: "",
        kind: Kind::Text,
        default: |_| "auto".to_owned(),
        about: "instruction set: auto, scalar, avx2, avx2vnni, avx512, amx",
    },
    Setting {
        key: "engine.threads",
        env: &["FALAJ_THREADS"],
        flag: "--threads",
        kind: Kind::Number,
        default: |_| falaj_kernels::Pool::available_threads().to_string(),
        about: "worker threads of a model",
    },
    Setting {
        key: "engine.cache_bytes",
        env: &["FALAJ_CACHE_BYTES"],
        flag: "",
        kind: Kind::Number,
        default: |_| "0".to_owned(),
        about: "memory for the KV cache; 0: chosen from the model",
    },
    Setting {
        key: "engine.max_sequences",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "32".to_owned(),
        about: "answers generated together",
    },
    Setting {
        key: "engine.queue_requests",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "128".to_owned(),
        about: "requests that may wait; more are told to retry",
    },
    Setting {
        key: "engine.step_tokens",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "512".to_owned(),
        about: "rows of one step: answers plus prompt pieces",
    },
    Setting {
        key: "engine.kv_format",
        env: &["FALAJ_KV_FORMAT"],
        flag: "",
        kind: Kind::Text,
        default: |_| "auto".to_owned(),
        about: "how keys and values are kept; fewer bits hold more context",
    },
    Setting {
        key: "engine.context_tokens",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "0".to_owned(),
        about: "lower the model's context to this; 0: the model's own",
    },
    Setting {
        key: "engine.prefix_cache",
        env: &[],
        flag: "",
        kind: Kind::Bool,
        default: |_| "true".to_owned(),
        about: "reuse the work on prompts that begin alike",
    },
    Setting {
        key: "engine.speculation",
        env: &["FALAJ_SPECULATION"],
        flag: "",
        kind: Kind::Bool,
        default: |_| "true".to_owned(),
        about: "try several tokens at once where that is measured to pay; answers stay the same",
    },
    Setting {
        key: "engine.draft_models",
        env: &["FALAJ_DRAFT_MODELS"],
        flag: "",
        kind: Kind::List,
        default: |_| String::new(),
        about: "`large=small`: a small model of the same vocabulary that guesses tokens of a large one",
    },
    Setting {
        key: "engine.prefix_dir",
        env: &["FALAJ_PREFIX_DIR"],
        flag: "",
        kind: Kind::Text,
        default: |_| String::new(),
        about: "directory that keeps that work across restarts (it holds what prompts say); empty: none",
    },
    Setting {
        key: "engine.prefix_disk_bytes",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "4g".to_owned(),
        about: "most bytes there, for each model",
    },
    Setting {
        key: "engine.step_ms",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "200".to_owned(),
        about: "longest step while answers run and prompts come in; 0: no bound",
    },
    Setting {
        key: "engine.crowd_step_ms",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "400".to_owned(),
        about: "the same while more wait for their first token than for the next",
    },
    Setting {
        key: "jobs.at_once",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "1".to_owned(),
        about: "jobs that train at once, each in a process of its own",
    },
    Setting {
        key: "jobs.memory_bytes",
        env: &["FALAJ_JOBS_MEMORY_BYTES"],
        flag: "",
        kind: Kind::Number,
        // What the models leave; where it is not known, nothing is bounded.
        default: |_| (Machine::look().most_bytes() / 4).to_string(),
        about: "most memory of one job's process; beyond it the job is stopped; 0: not bounded",
    },
    Setting {
        key: "jobs.threads",
        env: &["FALAJ_JOBS_THREADS"],
        flag: "",
        kind: Kind::Number,
        default: |_| "0".to_owned(),
        about: "threads of one job's process; 0: as `engine.threads`",
    },
    Setting {
        key: "jobs.keep_days",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "30".to_owned(),
        about: "how long the folder of a job stays after its end; checkpoints go with success",
    },
    Setting {
        key: "jobs.tdp_watts",
        env: &["FALAJ_TDP_WATTS"],
        flag: "",
        kind: Kind::Number,
        default: |_| "0".to_owned(),
        about: "the processor's thermal design power, for the energy of jobs where no counter is; 0: asked of the kernel",
    },
    Setting {
        key: "hub.endpoint",
        env: &["FALAJ_HUB_ENDPOINT", "HF_ENDPOINT"],
        flag: "--endpoint",
        kind: Kind::Text,
        default: |_| "https://huggingface.co".to_owned(),
        about: "hub that `falaj model pull` asks",
    },
    Setting {
        key: "hub.token_file",
        env: &["FALAJ_HUB_TOKEN_FILE", "HF_TOKEN_PATH"],
        flag: "--token-file",
        kind: Kind::Text,
        default: |_| String::new(),
        about: "file with an access token",
    },
    Setting {
        key: "hub.ca_file",
        env: &["FALAJ_HUB_CA_FILE"],
        flag: "",
        kind: Kind::Text,
        default: |_| String::new(),
        about: "PEM file of the authorities to trust instead of the public ones",
    },
    Setting {
        key: "hub.retries",
        env: &[],
        flag: "",
        kind: Kind::Number,
        default: |_| "5".to_owned(),
        about: "attempts after a cut that brought nothing new",
    },
];
