//! What can be asked on the command line. Every command's help ends with examples. Values that also have a setting
//! (`config.rs`) are handed over as text by `settings`, so that one place parses and checks them.

use clap::{Args as ClapArgs, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Runs open models on your own machine, for the clients people already have.
#[derive(Parser)]
#[command(name = "falaj", version, after_help = EXAMPLES, max_term_width = 100, subcommand_required = true)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub shared: Shared,
    /// Print one JSON document (or JSON lines) for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
}

/// Flags that every command understands.
#[derive(ClapArgs)]
pub struct Shared {
    /// Where models, keys and history live [default: $XDG_DATA_HOME/falaj]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<String>,
    /// Read this configuration file [default: $XDG_CONFIG_HOME/falaj/falaj.toml, when it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Language of messages: en, fr or ar [default: from LC_ALL or LANG]
    #[arg(long, global = true, value_name = "LANG")]
    pub lang: Option<String>,
    /// Worker threads for the model [default: one per usable core]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Serve models over HTTP: the OpenAI, Mistral and Anthropic APIs
    #[command(after_help = UP_EXAMPLES)]
    Up(Up),
    /// Talk to a model in the terminal
    #[command(after_help = CHAT_EXAMPLES)]
    Chat(Chat),
    /// Answer one prompt and exit
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Fetch, add, look at and remove models
    #[command(after_help = MODEL_EXAMPLES)]
    Model {
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// Serve models of other servers (vLLM and the like) behind this site's API
    #[command(after_help = ENGINE_EXAMPLES)]
    Engine {
        #[command(subcommand)]
        command: EngineCommand,
    },
    /// Train a model: fine-tune one, or make one from nothing, as a recipe says
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(Train),
    /// What `falaj up` starts for a fine-tuning job; not for people
    #[command(hide = true)]
    Job {
        #[command(subcommand)]
        command: JobCommand,
    },
    /// Look at files to learn from
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Measure what a model can do on suites of questions
    #[command(after_help = EVAL_EXAMPLES)]
    Eval(Eval),
    /// Try a site's policies before they take effect
    #[command(after_help = POLICY_EXAMPLES)]
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Who may use this site: organisations, workspaces, keys, roles, limits, grants, prices
    #[command(after_help = ADMIN_EXAMPLES)]
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Check a ledger offline: every signature, every entry, every decision; run a request again
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(Verify),
    /// What this site wrote down: export it for others, give them its keys
    #[command(after_help = LEDGER_EXAMPLES)]
    Ledger {
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Witness other sites' ledgers: cosign each head that continues the last one, and no other
    #[command(after_help = WITNESS_EXAMPLES)]
    Witness(Witness),
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Say what this machine can run: CPU, memory, disk, speed
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Doctor),
}

#[derive(ClapArgs)]
pub struct Up {
    /// Address and port to listen on [default: 127.0.0.1:8080; port 0 takes a free one]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Load this model at start: a name from `falaj model list` or a path. Repeatable
    #[arg(long = "model", value_name = "NAME|PATH")]
    pub models: Vec<String>,
    /// Most memory for all models together, such as 12g [default: three quarters of the machine's]
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<String>,
}

#[derive(ClapArgs)]
pub struct Chat {
    /// A name from `falaj model list`, or a path [default: falaj-seed]
    pub model: Option<String>,
    /// Talk to a running server instead of loading the model here
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Key for --url; a file keeps it out of the process list
    #[arg(long, value_name = "KEY", requires = "url", conflicts_with = "key_file")]
    pub key: Option<String>,
    /// File that holds the key for --url [default: DIR/admin.key, when --url is on this machine]
    #[arg(long, value_name = "FILE", requires = "url")]
    pub key_file: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: Sampling,
}

#[derive(ClapArgs)]
pub struct Run {
    /// A name from `falaj model list`, or a path to a GGUF file or a model folder
    pub model: String,
    /// What to ask; `-` reads it from standard input
    pub prompt: String,
    #[command(flatten)]
    pub sampling: Sampling,
}

#[derive(ClapArgs, Clone)]
pub struct Sampling {
    /// Instructions that come before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// 0 always takes the most likely token; higher is freer
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    pub temperature: f32,
    /// Same seed, same answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

#[derive(Subcommand)]
pub enum ModelCommand {
    /// Download a model from a Hugging Face hub; run it again to resume
    #[command(after_help = PULL_EXAMPLES)]
    Pull(Pull),
    /// Add a GGUF file or a model folder to the catalog
    Import {
        /// GGUF file, or a folder with safetensors, config and tokenizer
        path: PathBuf,
        /// Name in the catalog [default: from the path]
        #[arg(long)]
        name: Option<String>,
        /// Of an adapter (PEFT): the model it was made for [default: the one that its files name]
        #[arg(long)]
        base: Option<String>,
    },
    /// Rewrite a GGUF model so that it starts without repacking its weights; the answers stay the same
    #[command(after_help = OPTIMIZE_EXAMPLES)]
    Optimize(Optimize),
    /// Write a model in another format, with an adapter merged into it if you like; its logits are compared before it is there
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// List the models of the catalog, or of a running server with what is in its memory
    #[command(visible_alias = "ls")]
    List(List),
    /// Show architecture, sizes, formats, tokenizer, template and digests
    Inspect {
        /// A name from the catalog, or a path
        model: String,
    },
    /// Compare the files of models with their recorded digests
    Verify {
        /// Names; none means all
        models: Vec<String>,
    },
    /// Delete a model from the catalog
    #[command(visible_alias = "rm")]
    Remove { model: String },
}

#[derive(Subcommand)]
pub enum EngineCommand {
    /// Pass requests for its models on to an OpenAI-compatible server; a running `falaj up` does so within a second
    Attach(Attach),
    /// List the attached engines and their models
    #[command(visible_alias = "ls")]
    List,
    /// Serve its models no longer
    Detach { name: String },
}

#[derive(ClapArgs)]
pub struct Attach {
    /// Its address, with or without /v1
    pub url: String,
    /// What it is called here, instead of one attached under that name before [default: its host and port]
    #[arg(long)]
    pub name: Option<String>,
    /// File that holds its key; read again whenever it changes
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Only these of its models, with commas between them [default: all that it lists now]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub models: Vec<String>,
    /// Country where it stands, two capital letters, such as MA [default: the site's]
    #[arg(long, value_name = "CODE")]
    pub country: Option<String>,
}

#[derive(ClapArgs)]
pub struct Optimize {
    /// A name from the catalog, or a path to a GGUF file
    pub model: String,
    /// Write to this .gguf file instead of into the catalog
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub out: Option<PathBuf>,
    /// Name in the catalog [default: the model's, with -panels behind it]
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(ClapArgs)]
pub struct Export {
    /// A name from the catalog, or a path
    pub model: String,
    /// A .gguf file, or a folder for everything else
    pub out: PathBuf,
    /// safetensors (a Hugging Face folder in bf16), f16, q8_0, q4_0 or q4_k_m (GGUF) [default: f16 for a .gguf file, else
    /// safetensors]
    #[arg(long, value_parser = ["safetensors", "f16", "q8_0", "q4_0", "q4_k_m"])]
    pub format: Option<String>,
    /// Folder of a PEFT adapter (LoRA) that was made for this model, to be merged into it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub struct List {
    /// Ask the server there which models it serves, where they are and what they take
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// File that holds the key for --url [default: DIR/admin.key, when --url is on this machine]
    #[arg(long, value_name = "FILE", requires = "url")]
    pub key_file: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub struct Pull {
    /// OWNER/REPO, or OWNER/REPO:FILE.gguf for one file of a repository
    pub repository: String,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    pub revision: String,
    /// Name in the catalog [default: from the repository]
    #[arg(long)]
    pub name: Option<String>,
    /// Hub to ask [default: HF_ENDPOINT, or https://huggingface.co]
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// File that holds an access token, for gated repositories
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
}

#[derive(ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Train {
    #[command(subcommand)]
    pub command: Option<TrainCommand>,
    /// A TOML file; a dozen lines suffice (see `--help` for one)
    #[arg(required = true)]
    pub recipe: Option<PathBuf>,
    /// Where checkpoints and results go; called again, it goes on there [default: the recipe's name, beside it]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Only print the recipe with every default
    #[arg(long)]
    pub print: bool,
}

#[derive(Subcommand)]
pub enum TrainCommand {
    /// Draw the curves of a run again, from the events in its folder
    Plot {
        /// The folder of a run, finished or not
        dir: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum JobCommand {
    /// Run the job in this folder; it ends when standard input does
    Run {
        dir: PathBuf,
        /// Only look at its data
        #[arg(long)]
        check: bool,
    },
}

#[derive(Subcommand)]
pub enum DataCommand {
    /// Tell every line that cannot be learnt from, and what the others come to
    #[command(after_help = CHECK_EXAMPLES)]
    Check(DataCheck),
}

#[derive(ClapArgs)]
pub struct DataCheck {
    /// JSON lines or a JSON list: chat with tools, text, prompt and completion, Alpaca, ShareGPT, preference pairs; or a .txt file
    pub file: PathBuf,
    /// The model that is to learn: its tokenizer and chat template are used
    #[arg(long, value_name = "NAME|PATH", default_value = crate::builtin::NAME)]
    pub model: String,
    /// Tell the rows longer than so many tokens [default: what the model was made for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub length: Option<u32>,
    /// How often the file will be seen, for the estimate of time
    #[arg(long, value_name = "N", default_value_t = 3.0, value_parser = positive)]
    pub epochs: f64,
    /// Speed of training that you measured [default: that of the last job on this model, else measured by a few steps]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens_per_second: Option<f64>,
}

#[derive(ClapArgs)]
pub struct Eval {
    /// A name from `falaj model list`, or a path to a GGUF file or a model folder
    pub model: String,
    /// Suites: JSON lines, what to ask and what is right
    #[arg(required = true)]
    pub suites: Vec<PathBuf>,
    /// Ask this model the same, and tell the difference
    #[arg(long, value_name = "NAME|PATH")]
    pub against: Option<String>,
    /// Keep all results in this JSON file; called again, only what is missing is asked
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Most tokens of one answer
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Texts longer than this are scored in windows [default: the model's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub window: Option<u32>,
    /// Text for the baseline's word counts [default: the suite's other texts]
    #[arg(long, value_name = "FILE")]
    pub counts: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum LedgerCommand {
    /// How much it holds and what its last checkpoint says
    Status,
    /// Write it up to its last checkpoint into a new folder, which `falaj verify` reads; a running site goes on
    Export {
        /// The folder to make
        to: PathBuf,
    },
    /// The public keys that others need to verify it
    Keys {
        /// Write them into this folder, for `falaj verify --trust`
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Recorded decisions, one a line, for `falaj policy diff` and `explain`
    Decisions,
    /// Make the site's key where the settings say: in a file, or in a token; one that is there stays as it is
    MakeKey,
}

#[derive(ClapArgs)]
pub struct Witness {
    /// A name for this witness, as its signatures carry it: letters, digits, dots, hyphens and slashes
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// File with the key of a ledger to witness: `log` of what `falaj ledger keys --out` wrote. Repeatable
    #[arg(long = "log", value_name = "FILE", required = true)]
    pub logs: Vec<PathBuf>,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8070")]
    pub listen: SocketAddr,
}

#[derive(Subcommand, Clone)]
pub enum AdminCommand {
    /// Add an organisation
    Organisation {
        name: String,
        /// Two letters of ISO 3166
        #[arg(long, value_name = "XX")]
        country: String,
    },
    /// Add a workspace to an organisation
    Workspace {
        name: String,
        /// Name or id; `operator` is who runs the site
        #[arg(long, value_name = "NAME")]
        organisation: String,
        /// Of its data, at least: public, internal, confidential or secret
        #[arg(long)]
        class: Option<String>,
        /// Of requests that name none
        #[arg(long)]
        purpose: Option<String>,
        /// Its share of the engine beside others that wait
        #[arg(long, default_value_t = 100)]
        weight: u32,
        /// A higher one is served first
        #[arg(long, default_value_t = 0)]
        band: u8,
    },
    /// Add a person, known by their address, with a role in an organisation
    User {
        email: String,
        #[arg(long, value_name = "NAME")]
        organisation: String,
        /// What lists show [default: the address]
        #[arg(long)]
        name: Option<String>,
        #[arg(long, default_value = "member")]
        role: String,
        /// Only in this workspace [default: in the whole organisation]
        #[arg(long, value_name = "NAME")]
        workspace: Option<String>,
    },
    /// Add a program, which holds keys of a workspace
    ServiceAccount {
        name: String,
        #[arg(long, value_name = "NAME")]
        workspace: String,
        #[arg(long, default_value = "member")]
        role: String,
    },
    /// Give somebody a role, in their whole organisation or in one workspace; another role there changes it
    Member {
        /// Address or id of a user, name or id of a service account
        holder: String,
        #[arg(long)]
        role: String,
        /// Only in this workspace [default: in the whole organisation]
        #[arg(long, value_name = "NAME")]
        workspace: Option<String>,
    },
    /// From now on nothing that they hold opens anything, until `enable`
    Disable { kind: Holder, id: String },
    /// Undo `disable`; who was signed in signs in again
    Enable { kind: Holder, id: String },
    /// End all sessions of a user
    SignOut { user: String },
    /// Add a role of an organisation's own; owner, admin, member and auditor are there
    Role {
        name: String,
        #[arg(long, value_name = "NAME")]
        organisation: String,
        /// What it may do; repeatable
        #[arg(long = "action", value_name = "ACTION", required = true)]
        actions: Vec<String>,
    },
    /// Make a key; its secret is shown once
    Key {
        name: String,
        /// Name or id; `default` is the operator's
        #[arg(long, value_name = "NAME")]
        workspace: String,
        /// The user or service account that has it; it does at most what they may, and stops when they go
        #[arg(long, value_name = "WHO")]
        holder: Option<String>,
        #[arg(long, default_value = "member")]
        role: String,
        /// Only these actions of what its role may do; repeatable
        #[arg(long = "scope", value_name = "ACTION")]
        scopes: Vec<String>,
        /// Of its data, at least
        #[arg(long)]
        class: Option<String>,
        /// How long it opens anything
        #[arg(long, value_name = "N")]
        days: Option<u32>,
    },
    /// Make a key in place of another
    Rotate {
        key: String,
        /// How long the old one goes on
        #[arg(long, value_name = "N", default_value_t = 24)]
        overlap_hours: u32,
    },
    /// From now on a key opens nothing
    Revoke { key: String },
    /// Bound what an organisation, a workspace or a key may use; the same again changes it
    Limit {
        #[arg(long, value_name = "NAME", conflicts_with_all = ["workspace", "key"])]
        organisation: Option<String>,
        #[arg(long, value_name = "NAME", conflicts_with = "key")]
        workspace: Option<String>,
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
        /// requests, tokens, money or joules; the last two in millionths
        #[arg(long)]
        what: String,
        /// minute, day or month, in UTC
        #[arg(long)]
        per: String,
        #[arg(long, value_name = "N")]
        amount: u64,
    },
    /// Let others use an organisation's artifacts, as a file of terms says
    Grant {
        /// JSON: organisations, workspaces, artifacts, actions, purposes, class, countries, assurance, from, until
        terms: PathBuf,
        /// The organisation that gives it
        #[arg(long, value_name = "NAME")]
        owner: String,
    },
    /// Say what policies read of a model: whose it is, its class, the data that it is cleared for, where it runs
    Artifact {
        /// As it is served
        name: String,
        #[arg(long, value_name = "NAME")]
        owner: String,
        #[arg(long, default_value = "model")]
        kind: String,
        #[arg(long)]
        class: Option<String>,
        #[arg(long)]
        clearance: Option<String>,
        #[arg(long, value_name = "XX")]
        country: Option<String>,
    },
    /// What a model's tokens cost: millionths of the currency for a million
    Price {
        model: String,
        #[arg(long, value_name = "N")]
        prompt: u64,
        #[arg(long, value_name = "N")]
        completion: u64,
        /// ISO 4217
        #[arg(long, value_name = "XXX")]
        currency: String,
    },
    /// Move rows to PostgreSQL, uploaded files to S3; broken off, the same again goes on
    Migrate {
        /// Address: postgres://user@host/name
        #[arg(long, value_name = "URL", conflicts_with = "to_file")]
        to: Option<String>,
        /// File that holds the address, for one with a password
        #[arg(long, value_name = "FILE")]
        to_file: Option<PathBuf>,
        /// Only uploaded files, to where `blobs.url` says
        #[arg(long, conflicts_with_all = ["to", "to_file"])]
        blobs: bool,
    },
    /// List what is kept
    #[command(visible_alias = "ls")]
    List { kind: Option<Kind> },
    /// Remove something, with everything that belongs to it
    #[command(visible_alias = "rm")]
    Remove { kind: Kind, id: String },
}

/// What can be put to rest.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Holder {
    Organisation,
    User,
    ServiceAccount,
}

/// What `falaj admin` keeps.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Organisation,
    Workspace,
    User,
    ServiceAccount,
    Member,
    Role,
    Key,
    Limit,
    Grant,
    Artifact,
    Price,
}

#[derive(ClapArgs)]
pub struct Verify {
    /// What `falaj ledger export` wrote
    pub pack: PathBuf,
    /// Keys that you trust, as `falaj ledger keys --out` wrote them [default: those of the pack, and a word of warning]
    #[arg(long, value_name = "DIR")]
    pub trust: Option<PathBuf>,
    /// How many of the trusted witnesses must have cosigned
    #[arg(long, value_name = "N", default_value_t = 0, requires = "trust")]
    pub quorum: usize,
    /// A receipt as an answer carried it, or a file with it: is it in the ledger, and what does it say?
    #[arg(long, value_name = "TEXT|FILE")]
    pub receipt: Option<String>,
    /// Answer the receipt's request again with this model, and compare
    #[arg(long, value_name = "MODEL", requires_all = ["receipt", "request", "response"])]
    pub replay: Option<String>,
    /// The body of the request, as it was sent
    #[arg(long, value_name = "FILE")]
    pub request: Option<PathBuf>,
    /// The body of the answer, as it came; of a stream: all of it
    #[arg(long, value_name = "FILE")]
    pub response: Option<PathBuf>,
    /// Where the request was sent to
    #[arg(long, value_name = "PATH", default_value = "/v1/chat/completions")]
    pub path: String,
}

#[derive(Subcommand)]
pub enum PolicyCommand {
    /// What policies can read, as a Cedar schema
    Schema,
    /// Validate policies together with those of every site, and list them
    Check {
        /// Files of Cedar policies
        policies: Vec<PathBuf>,
    },
    /// Decide cases, and tell those that come out otherwise than expected
    Test {
        /// Cases, one JSON object a line: a question, what to expect, and by which policy
        cases: PathBuf,
        /// The site that the questions are about, as JSON
        #[arg(long, value_name = "FILE")]
        world: PathBuf,
        /// The site's own policies; repeatable
        #[arg(long, value_name = "FILE")]
        policies: Vec<PathBuf>,
        /// Keep what was decided, one record a line
        #[arg(long, value_name = "FILE")]
        records: Option<PathBuf>,
    },
    /// Tell which recorded decisions would be others under these policies
    Diff {
        /// Records, one a line
        records: PathBuf,
        /// The site's own policies; repeatable
        #[arg(long, value_name = "FILE")]
        policies: Vec<PathBuf>,
    },
    /// Say what recorded decisions were made from, and make them again
    Explain {
        /// Records, one a line
        records: PathBuf,
        /// The policies that they were made under; repeatable
        #[arg(long, value_name = "FILE")]
        policies: Vec<PathBuf>,
    },
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Print each setting, its value and where it came from
    #[command(after_help = CONFIG_EXAMPLES)]
    Show,
}

#[derive(ClapArgs)]
pub struct Doctor {
    /// Load this model (a name or a path) and compare its speed with what the machine allows
    #[arg(conflicts_with = "quick")]
    pub model: Option<String>,
    /// Leave out the measurements (they take about a second)
    #[arg(long)]
    pub quick: bool,
}

impl Args {
    /// The flags that override settings, as (setting, text).
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut list = Vec::new();
        let mut put = |key, value: &Option<String>| {
            if let Some(value) = value {
                list.push((key, value.clone()));
            }
        };
        put("data", &self.shared.data);
        put("lang", &self.shared.lang);
        put("engine.threads", &self.shared.threads);
        match &self.command {
            Command::Up(up) => {
                put("server.listen", &up.listen);
                put("server.memory_bytes", &up.memory);
                if !up.models.is_empty() {
                    list.push(("server.models", up.models.join("\n")));
                }
            }
            Command::Model { command: ModelCommand::Pull(pull) } => {
                put("hub.endpoint", &pull.endpoint);
                put("hub.token_file", &pull.token_file);
            }
            _ => {}
        }
        list
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("expected a number above 0".to_owned()),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=2.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 2".to_owned()),
    }
}

const EXAMPLES: &str = "\
Examples:
  falaj up                                    serve the built-in model, with no network
  falaj chat                                  talk to it in the terminal
  falaj run falaj-seed \"Bonjour !\"            one answer
  falaj model pull OWNER/REPO                 fetch a model, resuming if it was cut
  falaj doctor                                what would fit in this machine";

const UP_EXAMPLES: &str = "\
Examples:
  falaj up                                    on 127.0.0.1:8080, for this machine only
  falaj up --listen 127.0.0.1:9000            on another port
  falaj up --listen 0.0.0.0:8080              for the network; put TLS in front
  falaj up --model ./my-model.gguf            load a file at start
  falaj up --memory 12g                       unload what was not used for longest beyond that
  falaj up --json | jq .address               for programs

The first start makes a key in DIR/admin.key, readable by you only. Ctrl-C finishes
the answers under way and stops; a second Ctrl-C stops at once.";

const CHAT_EXAMPLES: &str = "\
Examples:
  falaj chat
  falaj chat my-model --system \"Answer in Arabic.\" --temperature 0.7
  falaj chat --url http://127.0.0.1:8080      talk to a running `falaj up`

In the chat: /help lists the commands; Ctrl-C stops an answer; Ctrl-D leaves.";

const RUN_EXAMPLES: &str = "\
Examples:
  falaj run falaj-seed \"What is a falaj?\"
  cat report.txt | falaj run my-model - --system \"Summarise in five lines.\"
  falaj run ./model.gguf \"Hello\" --json | jq .text";

const MODEL_EXAMPLES: &str = "\
Examples:
  falaj model pull OWNER/REPO
  falaj model pull OWNER/REPO:FILE.gguf
  falaj model import ~/Downloads/model.gguf --name my-model
  falaj model list
  falaj model list --url http://127.0.0.1:8080
  falaj model optimize my-model
  falaj model export my-model ./my-model.gguf --format q8_0
  falaj model inspect my-model
  falaj model verify";

const ENGINE_EXAMPLES: &str = "\
Examples:
  falaj engine attach http://127.0.0.1:8000   all models of a vLLM on this machine
  falaj engine attach http://gpu:8000 --name gpu --key-file ~/gpu.key --models qwen,mistral
  falaj engine list
  falaj engine detach gpu

Its requests pass this site's keys, gate, ledger and receipts like all others. A model that this site has itself
under the same name is answered here.";

const POLICY_EXAMPLES: &str = "\
Examples:
  falaj policy check night.cedar
  falaj policy test cases.jsonl --world world.json --policies night.cedar --records decided.jsonl
  falaj policy diff decided.jsonl --policies stricter.cedar
  falaj policy explain decided.jsonl --policies night.cedar

Policies are written in Cedar, each with @id(\"name\"); what they can read: `falaj policy schema`.";

const LEDGER_EXAMPLES: &str = "\
Examples:
  falaj ledger export ./june                  the folder can be copied, and read with no network
  falaj ledger keys --out ./keys              to whoever shall verify it, by another way than the export
  falaj verify ./june --trust ./keys
  falaj ledger decisions > decided.jsonl && falaj policy diff decided.jsonl --policies stricter.cedar";

const ADMIN_EXAMPLES: &str = "\
Examples:
  falaj admin organisation health --country MA
  falaj admin workspace desk --organisation health --class confidential
  falaj admin user amal@health.example --organisation health --role admin
  falaj admin member amal@health.example --role auditor --workspace desk
  falaj admin service-account triage --workspace desk
  falaj admin key reception --workspace desk --scope infer --days 90
  falaj admin key triage-1 --workspace desk --holder triage
  falaj admin disable user amal@health.example
  falaj admin limit --workspace desk --what tokens --per day --amount 1000000
  falaj admin price falaj-seed --prompt 100000 --completion 300000 --currency EUR
  falaj admin list key

A running site takes a change in within a second. docs/tenants.md has roles, members, classes
and grants.";

const WITNESS_EXAMPLES: &str = "\
Examples:
  falaj witness --name witness.example/1 --log ./keys/log --listen 0.0.0.0:8070

It prints its own key. A site that wants its cosignatures names both: site.witnesses = [\"http://HOST:8070 KEY\"]. What it has
cosigned, and its key, are in DATA/witness. The protocol is C2SP tlog-witness; put TLS in front of it.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  falaj verify ./june --trust ./keys
  falaj verify ./june --trust ./keys --receipt receipt.txt
  falaj verify ./june --receipt receipt.txt --replay my-model --request request.json --response response.json

Exits with 1 when anything does not hold, and names the file, the entry and the byte. A receipt is the header falaj-receipt of an
answer, or the last comment of a stream.";

const OPTIMIZE_EXAMPLES: &str = "\
Examples:
  falaj model optimize my-model               adds my-model-panels to the catalog
  falaj model optimize ./model.gguf --out ./fast.gguf
  falaj up --model my-model-panels

The file holds the same weights in the order in which this program reads them. Other programs cannot read it.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  falaj model export my-model ./my-model                    a Hugging Face folder, for transformers and vLLM
  falaj model export my-model ./my-model.gguf --format q4_k_m
  falaj model export my-model ./merged --adapter ./adapter  the adapter's changes become the model's own

Tokenizer and chat template go along. What would read or write other tokens than the original is refused.";

const PULL_EXAMPLES: &str = "\
Examples:
  falaj model pull OWNER/REPO                 safetensors, config and tokenizer
  falaj model pull OWNER/REPO:FILE.gguf       one GGUF file
  falaj model pull OWNER/REPO --token-file ~/hub.token --revision v0.3
  falaj model pull OWNER/REPO --endpoint https://hub.example.org

Only what is needed is fetched. Every file is compared with the digest that the hub lists.";

const TRAIN_EXAMPLES: &str = "\
Examples:
  falaj train recipe.toml
  falaj train recipe.toml --out runs/helpdesk
  falaj train recipe.toml --print
  falaj train recipe.toml --json | jq .loss
  falaj train plot runs/helpdesk              loss, speed and learning rate as SVG

A recipe:
  name = \"helpdesk\"
  base = \"falaj-seed\"
  method = \"lora\"
  [data]
  train = \"talks.jsonl\"

Stopped or killed, the same command goes on from the last checkpoint. The finished model is added to the models of this
machine under the recipe's name: `falaj chat helpdesk`.";

const CHECK_EXAMPLES: &str = "\
Examples:
  falaj data check talks.jsonl
  falaj data check talks.jsonl --model my-model --length 1024
  falaj data check talks.jsonl --tokens-per-second 5800 --epochs 2
  falaj data check talks.jsonl --json | jq .tokens

Exits with 1 when a line cannot be learnt from. The format is read off the first row.";

const EVAL_EXAMPLES: &str = "\
Examples:
  falaj eval falaj-seed suite.jsonl
  falaj eval my-model suite.jsonl --against falaj-seed
  falaj eval my-model *.jsonl --report results.json
  falaj eval my-model suite.jsonl --json | jq '.results[0].measures'

A suite:
  {\"suite\": \"small\"}
  {\"task\": \"exact_match\", \"messages\": [{\"role\": \"user\", \"content\": \"2 + 3?\"}], \"answers\": [\"5\"]}
  {\"task\": \"multiple_choice\", \"prompt\": \"Paris is in\", \"choices\": [\"France\", \"Italy\"], \"answer\": 0}
  {\"task\": \"perplexity\", \"text\": \"A text.\", \"language\": \"en\", \"group\": \"prose\"}

Each score has its 95 % interval, and a column shows what a baseline without a model reaches. Stopped by Ctrl-C, the same
command with --report goes on. docs/evaluation.md has every task.";

const CONFIG_EXAMPLES: &str = "\
Examples:
  falaj config show
  falaj config show --json
  FALAJ_THREADS=2 falaj config show           a flag beats the environment, which beats the file";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  falaj doctor
  falaj doctor my-model                       bytes and operations per token, limits, what was reached
  falaj doctor --quick --json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn flags_become_settings() {
        let args = Args::parse_from(["falaj", "up", "--listen", "127.0.0.1:0", "--model", "a", "--model", "b"]);
        assert_eq!(
            args.settings(),
            [("server.listen", "127.0.0.1:0".to_owned()), ("server.models", "a\nb".to_owned())]
        );
    }
}
