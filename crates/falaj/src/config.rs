//! Configuration: `RawConfig` is what was written and where, `Config` is what it means. A flag beats the environment,
//! which beats the file, which beats the default. The list of settings is in `config/settings.rs`, the reading of
//! TOML in `config/file.rs`. Nothing else in the workspace reads settings from files or the environment.

mod file;
mod settings;

pub use settings::{SETTINGS, Setting};

use crate::context::Context;
use crate::data_dir;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::words::{Lang, Word};
use falaj_engine::EngineOptions;
use falaj_kernels::{Isa, KvFormat};
use falaj_ledger::VerifierKey;
use falaj_server::{Memory, SiteFacts};
use falaj_token::TokenSettings;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What it means: parsed, checked, in the types that the crates below take.
#[derive(Clone, Debug)]
pub struct Config {
    pub data: PathBuf,
    pub log: String,
    /// Holds the address of PostgreSQL, which is a secret; without one the state is in `data`.
    pub database_url_file: Option<PathBuf>,
    /// `None`: uploaded files are in `data`.
    pub blobs: Option<Blobs>,
    pub server: Server,
    pub site: Site,
    pub oidc: Option<Oidc>,
    pub jobs: Jobs,
    pub energy: Energy,
    pub engine: Engine,
    pub hub: Hub,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub listen: SocketAddr,
    pub models: Vec<String>,
    pub memory: Memory,
    pub key_file: PathBuf,
    pub body_limit_bytes: usize,
    pub request_timeout_ms: u64,
    pub max_connections: usize,
    pub file_limit_bytes: u64,
    /// Where people reach it, without a slash at the end; `None`: where it listens.
    pub url: Option<String>,
}

/// A bucket of S3.
#[derive(Clone, Debug)]
pub struct Blobs {
    /// `s3://BUCKET/PREFIX`.
    pub url: String,
    /// Without a slash at the end; `None`: Amazon's.
    pub endpoint: Option<String>,
    pub region: String,
    /// `None`: the environment has them.
    pub credentials_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
}

/// Who tells this site who people are.
#[derive(Clone, Debug)]
pub struct Oidc {
    pub issuer: String,
    pub client_id: String,
    pub client_secret_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub organisation: Option<String>,
    pub newcomers: Option<String>,
    pub session: Duration,
}

/// What the site says of itself, and where its key and policies are.
#[derive(Clone, Debug)]
pub struct Site {
    pub facts: SiteFacts,
    pub key: SiteKey,
    /// Addresses, without a slash at their end, and keys.
    pub witnesses: Vec<(String, VerifierKey)>,
}

/// Where the key is that signs the ledger.
#[derive(Clone, Debug)]
pub enum SiteKey {
    File(PathBuf),
    Token(TokenSettings),
}

#[derive(Clone, Debug)]
pub struct Jobs {
    pub at_once: usize,
    /// Most memory of a job's process; `None`: not bounded.
    pub memory_bytes: Option<u64>,
    pub threads: usize,
    /// How long a finished job's folder stays.
    pub keep: Duration,
}

/// What the operator knows of the site's power; `None`: not known.
#[derive(Clone, Debug)]
pub struct Energy {
    /// Thermal design power of all processors together.
    pub cpu_watts: Option<f64>,
    /// Holds what a meter at the machine's socket says.
    pub meter_file: Option<PathBuf>,
    pub grams_per_kwh: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct Engine {
    pub isa: Isa,
    pub options: EngineOptions,
    /// Names of draft models, by the name of the model to which they propose.
    pub drafts: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct Hub {
    pub endpoint: String,
    pub token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub retries: u32,
}

/// What was written: one text per setting, and where it stood.
#[derive(Clone, Debug, Default)]
pub struct RawConfig {
    values: BTreeMap<&'static str, Written>,
}

#[derive(Clone, Debug)]
pub struct Written {
    /// Lists are joined by line feeds.
    pub text: String,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment { name: &'static str },
    Flag { name: &'static str },
}

impl RawConfig {
    /// Layers defaults, the file, the environment and flags. `file`: the one asked for with `--config`; without it the
    /// default place is read when something is there.
    pub fn gather(
        var: impl Fn(&str) -> Option<String>,
        file: Option<&Path>,
        flags: &[(&'static str, String)],
    ) -> Outcome<Self> {
        let mut raw = Self::default();
        for setting in SETTINGS {
            raw.put(setting, (setting.default)(&var), Origin::Default);
        }
        let from_env = || var("FALAJ_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let asked = file.map(Path::to_owned).or_else(from_env);
        let path = asked.clone().unwrap_or_else(|| data_dir::default_config_file(&var));
        if asked.is_some() || path.exists() {
            let text = std::fs::read_to_string(&path).map_err(|error| Failure::usage(error.to_string()));
            let text = text.or_fail(|| format!("`{}`", path.display()))?;
            for found in file::read(&text).map_err(|problem| problem.into_failure(&path))? {
                raw.put(found.setting, found.text, Origin::File { path: path.clone(), line: found.line });
            }
        }
        for setting in SETTINGS {
            for &name in setting.env {
                if let Some(mut text) = var(name).filter(|text| !text.is_empty()) {
                    if name.starts_with('L') {
                        // LC_ALL, LANG: any locale is right here, also one whose language we do not speak.
                        text = Lang::of_locale(&text).code().to_owned();
                    }
                    raw.put(setting, text, Origin::Environment { name });
                    break;
                }
            }
        }
        for (key, text) in flags {
            let setting = settings::find(key).expect("args.rs names settings that exist; a test runs each");
            raw.put(setting, text.clone(), Origin::Flag { name: setting.flag });
        }
        Ok(raw)
    }

    pub fn written(&self, key: &str) -> &Written {
        self.values.get(key).expect("gather fills in every setting")
    }

    fn put(&mut self, setting: &Setting, text: String, origin: Origin) {
        self.values.insert(setting.key, Written { text, origin });
    }

    fn parse<T>(&self, key: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Outcome<T> {
        let written = self.written(key);
        read(&written.text).ok_or_else(|| {
            let cause = Word::SettingBad.with(&[&written.origin.to_string(), key, &written.text]);
            Failure::usage(cause).next(Word::SettingBadNext.with(&[expected]))
        })
    }

    fn number<T: TryFrom<u64>>(&self, key: &str, least: u64) -> Outcome<T> {
        let read = |text: &str| number(text).filter(|&n| n >= least).and_then(|n| T::try_from(n).ok());
        self.parse(key, &format!("a whole number, at least {least}, such as `4096`, `64k`, `2g`"), read)
    }

    /// Of things that memory is set aside for at start: too many must be an error with a line, not an abort.
    fn count(&self, key: &str, most: usize) -> Outcome<usize> {
        let read = |text: &str| number(text).and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=most).contains(n));
        self.parse(key, &format!("a whole number from 1 to {most}"), read)
    }

    fn some(&self, key: &str) -> Option<String> {
        Some(self.written(key).text.clone()).filter(|text| !text.is_empty())
    }

    /// Without slashes at its end.
    fn address(&self, key: &str) -> Outcome<Option<String>> {
        self.parse(key, "an address that starts with `https://` or `http://`", |text| {
            let known = text.is_empty() || text.starts_with("https://") || text.starts_with("http://");
            known.then(|| Some(text.trim_end_matches('/').to_owned()).filter(|text| !text.is_empty()))
        })
    }

    /// A file, or all of what finds a key in a token.
    fn site_key(&self, data: &Path) -> Outcome<SiteKey> {
        const PARTS: [&str; 4] = ["site.pkcs11.module", "site.pkcs11.token", "site.pkcs11.key", "site.pkcs11.pin_file"];
        if PARTS.iter().all(|part| self.some(part).is_none()) {
            return Ok(SiteKey::File(self.path("site.key_file").unwrap_or_else(|| data.join("site.key"))));
        }
        if self.some("site.key_file").is_some() {
            let cause = Word::SettingEither.with(&["site.key_file", "site.pkcs11"]);
            return Err(Failure::usage(cause).next(Word::SettingEitherNext.text()));
        }
        let part = |part: &str| {
            let next = || Word::SettingMissingNext.with(&[&PARTS.join(", ")]);
            self.some(part).ok_or_else(|| Failure::usage(Word::SettingMissing.with(&[part])).next(next()))
        };
        let [module, token, key, pin_file] = PARTS.map(part);
        let (module, pin_file) = (std::path::absolute(module?)?, std::path::absolute(pin_file?)?);
        Ok(SiteKey::Token(TokenSettings { module, token: token?, key: key?, pin_file }))
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.written(key).text.as_str()).filter(|text| !text.is_empty()).map(PathBuf::from)
    }
}

impl Config {
    pub fn new(raw: &RawConfig) -> Outcome<Self> {
        let data = raw.path("data").ok_or_else(|| Failure::usage("`data` is empty").next("give it a directory"))?;
        // Links and locks are compared and printed; a relative path would change its meaning with the directory.
        let data = std::path::absolute(data)?;
        raw.parse("lang", "`en`, `fr` or `ar`", Lang::parse)?;
        let list = |key| raw.written(key).text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let isa_names: Vec<_> = Isa::available().iter().map(|isa| format!("`{isa}`")).collect();
        let isa =
            raw.parse("engine.isa", &format!("`auto`, or what this CPU has: {}", isa_names.join(", ")), |text| {
                match text {
                    "auto" => Some(Isa::best()),
                    _ => Isa::parse(text).filter(|isa| Isa::available().contains(isa)),
                }
            })?;
        let kv_formats: Vec<_> = KV_FORMATS.iter().map(|(name, _)| format!("`{name}`")).collect();
        let kv_formats = format!("`auto` or one of {}", kv_formats.join(", "));
        Ok(Self {
            log: raw.written("log").text.clone(),
            database_url_file: raw.path("database.url_file"),
            blobs: match raw.parse("blobs.url", "`s3://BUCKET/PREFIX`", |text| {
                (text.is_empty() || text.starts_with("s3://")).then(|| text.to_owned())
            })? {
                url if url.is_empty() => None,
                url => Some(Blobs {
                    url,
                    endpoint: raw.address("blobs.endpoint")?,
                    region: raw.written("blobs.region").text.clone(),
                    credentials_file: raw.path("blobs.credentials_file"),
                    ca_file: raw.path("blobs.ca_file"),
                }),
            },
            server: Server {
                listen: raw.parse("server.listen", "an address and a port, such as `127.0.0.1:8080`", |text| {
                    text.replace("localhost:", "127.0.0.1:").parse().ok()
                })?,
                models: list("server.models"),
                memory: Memory {
                    bound_bytes: raw.number("server.memory_bytes", 1 << 20)?,
                    unload_after: match raw.number("server.unload_after_ms", 0)? {
                        0 => None,
                        ms => Some(Duration::from_millis(ms)),
                    },
                    pinned: list("server.pinned").into_iter().collect(),
                    ..Memory::default()
                },
                key_file: raw.path("server.key_file").unwrap_or_else(|| data.join("admin.key")),
                body_limit_bytes: raw.number("server.body_limit_bytes", 1024)?,
                request_timeout_ms: raw.number("server.request_timeout_ms", 1)?,
                max_connections: raw.number("server.max_connections", 1)?,
                file_limit_bytes: raw.number("server.file_limit_bytes", 1)?,
                url: raw.address("server.url")?,
            },
            oidc: match raw.address("oidc.issuer")? {
                None => None,
                // As it writes itself: a slash at the end is part of its name.
                Some(_) => Some(Oidc {
                    issuer: raw.written("oidc.issuer").text.clone(),
                    client_id: raw.parse("oidc.client_id", "the name that the provider gave this site", |text| {
                        (!text.is_empty()).then(|| text.to_owned())
                    })?,
                    client_secret_file: raw.path("oidc.client_secret_file"),
                    ca_file: raw.path("oidc.ca_file"),
                    organisation: raw.some("oidc.organisation"),
                    newcomers: raw.some("oidc.newcomers"),
                    session: Duration::from_secs(raw.number::<u32>("oidc.session_hours", 1)? as u64 * 3600),
                }),
            },
            site: Site {
                facts: SiteFacts {
                    id: raw.parse("site.id", "letters, digits, dots and hyphens, at most 200", site_id)?,
                    country: raw.parse("site.country", COUNTRY, country)?,
                    operator_country: match raw.written("site.operator_country").text.as_str() {
                        "" => raw.parse("site.country", COUNTRY, country)?,
                        _ => raw.parse("site.operator_country", COUNTRY, country)?,
                    },
                    assurance: raw.parse("site.assurance", "a number from 0 to 4", |text| {
                        text.parse().ok().filter(|level| *level <= 4)
                    })?,
                    // What the machine shows: `up` looks.
                    energy_grade: 'E',
                    grams_per_kwh: 0,
                    open_models: raw.parse("site.open_models", "`true` or `false`", |text| text.parse().ok())?,
                    policies: Some(raw.path("site.policies").unwrap_or_else(|| data.join("policies"))),
                },
                key: raw.site_key(&data)?,
                witnesses: raw.parse(
                    "site.witnesses",
                    "addresses and keys, such as `http://host:8070 name+id+key`",
                    |text| text.lines().filter(|line| !line.is_empty()).map(witness).collect(),
                )?,
            },
            jobs: Jobs {
                at_once: raw.count("jobs.at_once", MOST_JOBS)?,
                memory_bytes: Some(raw.number("jobs.memory_bytes", 0)?).filter(|bytes| *bytes > 0),
                threads: match raw.number("jobs.threads", 0)? {
                    0 => raw.count("engine.threads", MOST_THREADS)?,
                    _ => raw.count("jobs.threads", MOST_THREADS)?,
                },
                keep: Duration::from_secs(raw.number::<u32>("jobs.keep_days", 0)? as u64 * 24 * 60 * 60),
            },
            energy: Energy {
                cpu_watts: raw
                    .parse("energy.cpu_watts", "watts of all processors, such as `65`; 0: not known", amount)
                    .map(|watts| Some(watts).filter(|watts| *watts > 0.0))?,
                meter_file: raw.path("energy.meter_file"),
                grams_per_kwh: match raw.written("energy.grams_per_kwh").text.as_str() {
                    "" => None,
                    _ => Some(raw.parse("energy.grams_per_kwh", "grams, such as `44.2`", amount)?),
                },
            },
            engine: Engine {
                isa,
                drafts: raw.parse("engine.draft_models", "pairs such as `large-model=small-model`", drafts)?,
                options: EngineOptions {
                    threads: raw.count("engine.threads", MOST_THREADS)?,
                    cache_bytes: raw.number("engine.cache_bytes", 0)?,
                    max_sequences: raw.count("engine.max_sequences", MOST_SEQUENCES)?,
                    queue_requests: raw.count("engine.queue_requests", MOST_QUEUED)?,
                    step_tokens: raw.count("engine.step_tokens", MOST_STEP_TOKENS)?,
                    context_tokens: raw.number("engine.context_tokens", 0)?,
                    prefix_cache: raw.parse("engine.prefix_cache", "`true` or `false`", |text| text.parse().ok())?,
                    kv_format: raw.parse("engine.kv_format", &kv_formats, |text| match text {
                        "auto" => Some(EngineOptions::default().kv_format),
                        _ => KV_FORMATS.iter().find(|(name, _)| *name == text).map(|(_, format)| *format),
                    })?,
                    prefix_dir: raw.path("engine.prefix_dir").map(std::path::absolute).transpose()?,
                    prefix_disk_bytes: raw.number("engine.prefix_disk_bytes", 0)?,
                    step_ms: raw.number("engine.step_ms", 0)?,
                    crowd_step_ms: raw.number("engine.crowd_step_ms", 0)?,
                    speculation: raw.parse("engine.speculation", "`true` or `false`", |text| text.parse().ok())?,
                },
            },
            hub: Hub {
                endpoint: raw.parse("hub.endpoint", "an address that starts with `https://` or `http://`", |text| {
                    let known = text.starts_with("https://") || text.starts_with("http://");
                    known.then(|| text.trim_end_matches('/').to_owned())
                })?,
                token_file: raw.path("hub.token_file"),
                ca_file: raw.path("hub.ca_file"),
                retries: raw.number("hub.retries", 0)?,
            },
            data,
        })
    }
}

/// `falaj config show`.
pub fn show(context: &Context) -> Outcome {
    if context.json {
        let entries = SETTINGS.iter().map(|setting| {
            let written = context.raw.written(setting.key);
            let value = serde_json::json!({ "value": written.text, "from": written.origin.to_string() });
            (setting.key.to_owned(), value)
        });
        output::pretty_json(&serde_json::Value::Object(entries.collect()));
        return Ok(());
    }
    let mut rows = Vec::new();
    for setting in SETTINGS {
        let written = context.raw.written(setting.key);
        let shown = if written.text.is_empty() { "-".to_owned() } else { written.text.replace('\n', ", ") };
        rows.push(vec![setting.key.to_owned(), shown, written.origin.to_string(), setting.about.to_owned()]);
    }
    output::table(&rows);
    Ok(())
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { name } => write!(f, "env {name}"),
            Self::Flag { name } => write!(f, "flag {name}"),
        }
    }
}

/// What notes and policies can carry as a name.
fn site_id(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    (!text.is_empty() && text.len() <= 200 && text.chars().all(fits)).then(|| text.to_owned())
}

fn witness(line: &str) -> Option<(String, VerifierKey)> {
    let (url, key) = line.trim().split_once(' ')?;
    let url =
        Some(url.trim_end_matches('/')).filter(|url| url.starts_with("http://") || url.starts_with("https://"))?;
    Some((url.to_owned(), key.trim().parse().ok()?))
}

pub fn country(text: &str) -> Option<String> {
    (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase())).then(|| text.to_owned())
}

pub const COUNTRY: &str = "two capital letters of ISO 3166, such as `MA` or `FR`";

fn amount(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|amount| amount.is_finite() && *amount >= 0.0)
}

/// `large=small` between spaces, commas or line feeds.
fn drafts(text: &str) -> Option<BTreeMap<String, String>> {
    let mut drafts = BTreeMap::new();
    for pair in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|pair| !pair.is_empty()) {
        let (model, draft) = pair.split_once('=').filter(|(model, draft)| !model.is_empty() && !draft.is_empty())?;
        let twice = drafts.insert(model.to_owned(), draft.to_owned()).is_some();
        if twice || model == draft {
            return None;
        }
    }
    Some(drafts)
}

/// `64k`, `2g`: binary multiples.
fn number(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "").to_ascii_lowercase();
    let (digits, shift) = match text.strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (
            digits,
            match text.as_bytes().last() {
                Some(b'k') => 10,
                Some(b'm') => 20,
                _ => 30,
            },
        ),
        None => (text.as_str(), 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

const KV_FORMATS: [(&str, KvFormat); 4] =
    [("f32", KvFormat::F32), ("f16", KvFormat::F16), ("bf16", KvFormat::BF16), ("i8", KvFormat::I8)];
const MOST_JOBS: usize = 64;
const MOST_THREADS: usize = 1024;
const MOST_SEQUENCES: usize = 4096;
const MOST_QUEUED: usize = 1 << 16;
const MOST_STEP_TOKENS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn config(env: &[(&str, &str)], flags: &[(&'static str, String)]) -> Outcome<Config> {
        let var = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Config::new(&RawConfig::gather(var, None, flags)?)
    }

    #[test]
    fn defaults_are_valid() {
        let config = Config::new(&RawConfig::gather(no_env, None, &[]).unwrap()).unwrap();
        assert_eq!(config.server.listen, "127.0.0.1:8080".parse().unwrap());
        assert!(config.server.key_file.ends_with("falaj/admin.key"));
    }

    #[test]
    fn every_flag_of_the_table_reaches_its_setting() {
        for setting in SETTINGS {
            assert!(settings::find(setting.key).is_some());
        }
        let flags = [("engine.threads", "3".to_owned())];
        let raw = RawConfig::gather(|name| (name == "FALAJ_THREADS").then(|| "2".to_owned()), None, &flags).unwrap();
        assert_eq!(raw.written("engine.threads").origin, Origin::Flag { name: "--threads" });
        assert_eq!(Config::new(&raw).unwrap().engine.options.threads, 3);
    }

    #[test]
    fn wrong_values_name_their_place_and_what_is_expected() {
        let failure = config(&[("FALAJ_THREADS", "many")], &[]).unwrap_err();
        assert_eq!(failure.to_string(), "env FALAJ_THREADS: `engine.threads` cannot be `many`");
        assert!(config(&[("FALAJ_THREADS", "0")], &[]).is_err());
        assert!(config(&[("FALAJ_ISA", "mmx")], &[]).is_err());
        assert!(config(&[("FALAJ_LISTEN", "8080")], &[]).is_err());
        let failure = config(&[("FALAJ_KV_FORMAT", "f64")], &[]).unwrap_err();
        assert_eq!(failure.to_string(), "env FALAJ_KV_FORMAT: `engine.kv_format` cannot be `f64`");
        assert!(config(&[("HF_ENDPOINT", "ftp://x")], &[]).is_err());
        for wrong in ["small", "a=", "a=a", "a=b a=c"] {
            assert!(config(&[("FALAJ_DRAFT_MODELS", wrong)], &[]).is_err(), "{wrong}");
        }
        let drafts = config(&[("FALAJ_DRAFT_MODELS", "a=b, c=b")], &[]).unwrap().engine.drafts;
        assert_eq!((drafts.len(), drafts["c"].as_str()), (2, "b"));
    }

    #[test]
    fn counts_that_no_machine_has_are_refused() {
        for key in ["engine.threads", "engine.max_sequences", "engine.queue_requests", "engine.step_tokens"] {
            assert!(config(&[], &[(key, "0".to_owned())]).is_err(), "{key}");
            let failure = config(&[], &[(key, "1g".to_owned())]).unwrap_err().to_string();
            assert!(failure.contains(&format!("`{key}` cannot be `1g`")), "{failure}");
        }
    }

    #[test]
    fn engine_settings_reach_the_engine() {
        let flags = [
            ("engine.kv_format", "f32".to_owned()),
            ("engine.prefix_dir", "/srv/prefixes".to_owned()),
            ("engine.prefix_disk_bytes", "2g".to_owned()),
            ("engine.step_ms", "50".to_owned()),
        ];
        let options = config(&[], &flags).unwrap().engine.options;
        assert_eq!((options.kv_format, options.step_ms, options.prefix_disk_bytes), (KvFormat::F32, 50, 2 << 30));
        assert_eq!(options.prefix_dir.as_deref(), Some(Path::new("/srv/prefixes")));
        let default = config(&[], &[]).unwrap().engine.options;
        let threads = default.threads;
        assert_eq!(default, EngineOptions { threads, ..EngineOptions::default() });
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let config = config(&[("FALAJ_CONFIG", ""), ("FALAJ_LISTEN", "")], &[]).unwrap();
        assert_eq!(config.server.listen.port(), 8080);
    }

    #[test]
    fn sizes_may_have_a_suffix() {
        assert_eq!(number("64k"), Some(65_536));
        assert_eq!(number("2g"), Some(2 << 30));
        assert_eq!(number("1_000"), Some(1000));
        assert_eq!(number("99999999999g"), None);
        assert_eq!(number("k"), None);
    }
}
