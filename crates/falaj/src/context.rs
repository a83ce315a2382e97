//! What every command starts from: the configuration, its origins, the output mode.

use crate::args::Args;
use crate::config::{Config, RawConfig};
use crate::failure::{Failure, Outcome};
use crate::words;
use tracing_subscriber::EnvFilter;

pub struct Context {
    pub config: Config,
    pub raw: RawConfig,
    /// Results as JSON on standard output, failures as JSON on standard error.
    pub json: bool,
}

impl Context {
    pub fn new(args: &Args) -> Outcome<Self> {
        let var = |name: &str| std::env::var(name).ok();
        let raw = RawConfig::gather(var, args.shared.config.as_deref(), &args.settings())?;
        // First of all, so that the complaint about another setting is already in the right language.
        if let Some(lang) = words::Lang::parse(&raw.written("lang").text) {
            words::set(lang);
        }
        let config = Config::new(&raw)?;
        let filter = EnvFilter::try_new(&config.log)
            .map_err(|error| Failure::usage(format!("`log` cannot be `{}`: {error}", config.log)))?;
        // A second subscriber can only come from a test in this process; the first one stays.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
        Ok(Self { config, raw, json: args.json })
    }
}
