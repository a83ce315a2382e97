//! The client suites of `cargo xtask test`: the packages people install, unchanged, against the built binary. Each Python
//! suite has a virtual environment of its own under `target/clients`, since the major versions of one package exclude each
//! other. What the suites check is in `tests/clients`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::site::Site;
use crate::test::{Options, Passed, Report, count};
use crate::{command, root, target_dir};

/// Starts one server, runs the wanted suites against it, and stops it; each suite is a step of the report.
pub fn run(options: &Options, report: &mut Report) {
    let wanted: Vec<&Suite> = SUITES.iter().filter(|suite| options.wants(&suite.step())).collect();
    let (runnable, missing): (Vec<&Suite>, Vec<&Suite>) = wanted.into_iter().partition(|suite| suite.tool().is_some());
    for suite in missing {
        report.not_run(
            &suite.step(),
            &format!("`{}` was not found on PATH; install it and run this again", suite.program()),
        );
    }
    if runnable.is_empty() {
        return;
    }
    let mut site = None;
    let started = report.record("clients:server", || {
        site = Some(Site::start(&folder().join("site"), options.release)?);
        Ok(Passed { tests: 0, remark: if options.release { "release build" } else { "development build" }.to_owned() })
    });
    let Some(mut site) = site.filter(|_| started) else {
        for suite in runnable {
            report.not_run(&suite.step(), "the server did not start");
        }
        return;
    };
    for suite in runnable {
        report.record(&suite.step(), || {
            let passed = suite.run(&site)?;
            match site.ended()? {
                Some(status) => bail!("the server ended with {status} during this suite:\n{}", site.last_words()),
                None => Ok(passed),
            }
        });
    }
    report.record("clients:shutdown", || site.stop().map(|()| Passed::default()));
}

pub fn names() -> impl Iterator<Item = String> {
    std::iter::once("clients".to_owned()).chain(SUITES.iter().map(Suite::step))
}

pub fn is_name(step: &str) -> bool {
    names().any(|name| name == step)
}

/// The tests of one environment.
struct Suite {
    name: &'static str,
    runner: Runner,
}

enum Runner {
    /// Files below `tests/clients/python`; the environment is `requirements-NAME.txt`.
    Pytest(&'static [&'static str]),
    /// Every `*.test.mjs` in `tests/clients/node`.
    Node,
}

const SUITES: &[Suite] = &[
    Suite { name: "wire", runner: Runner::Pytest(&["test_wire.py"]) },
    Suite { name: "openai", runner: Runner::Pytest(&["test_openai.py", "test_concurrency.py"]) },
    Suite { name: "anthropic", runner: Runner::Pytest(&["test_anthropic.py"]) },
    Suite { name: "mistralai-1", runner: Runner::Pytest(&["test_mistralai.py"]) },
    Suite { name: "mistralai-2", runner: Runner::Pytest(&["test_mistralai.py"]) },
    Suite { name: "mistralai-3", runner: Runner::Pytest(&["test_mistralai.py"]) },
    Suite { name: "langchain", runner: Runner::Pytest(&["test_langchain.py"]) },
    Suite { name: "lm-eval", runner: Runner::Pytest(&["test_lm_eval.py"]) },
    Suite { name: "node", runner: Runner::Node },
    // Last: it deletes what it can.
    Suite { name: "openapi", runner: Runner::Pytest(&["test_openapi.py"]) },
];

impl Suite {
    fn step(&self) -> String {
        format!("clients:{}", self.name)
    }

    fn program(&self) -> &'static str {
        match self.runner {
            Runner::Pytest(_) => "python3",
            Runner::Node => "node",
        }
    }

    fn tool(&self) -> Option<PathBuf> {
        match self.runner {
            Runner::Pytest(_) => command::find("python3"),
            Runner::Node => command::find("npm").and_then(|_| command::find("node")),
        }
    }

    fn run(&self, site: &Site) -> Result<Passed> {
        let mut tests = match self.runner {
            Runner::Pytest(files) => self.pytest(files)?,
            Runner::Node => node()?,
        };
        tests
            .env("FALAJ_URL", format!("http://{}", site.address))
            .env("FALAJ_KEY", &site.key)
            .env("FALAJ_PID", site.pid().to_string())
            .env("FALAJ_MODEL", "falaj-seed")
            .env("FALAJ_BIN", &site.binary)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // A proxy of the machine must not come between a test and the loopback.
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("no_proxy", "127.0.0.1,localhost");
        let (passed, output) = command::tee(&mut tests)?;
        if !passed {
            bail!("client tests failed; the server's log: {}", site.log.display());
        }
        let skipped = output.lines().filter(|line| line.starts_with("SKIPPED")).count();
        let remark = if skipped > 0 { format!("{skipped} kinds skipped; see above for why") } else { String::new() };
        Ok(Passed { tests: count(&output), remark })
    }

    fn pytest(&self, files: &[&str]) -> Result<Command> {
        let tests = root().join("tests/clients/python");
        let python = environment(self.name, &tests.join(format!("requirements-{}.txt", self.name)))?;
        let mut command = Command::new(python);
        command
            .current_dir(&tests)
            .args(["-m", "pytest", "-q", "-rs", "--tb=short", "-p", "no:cacheprovider"])
            .args(files);
        if self.name == "langchain" {
            // Its standard tests are partly coroutines without a mark.
            command.args(["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]);
        }
        Ok(command)
    }
}

/// The Python of a virtual environment that holds exactly these requirements; made when they change.
fn environment(name: &str, requirements: &Path) -> Result<PathBuf> {
    let home = folder().join(format!("python-{name}"));
    let python = home.join("bin/python");
    let stamp = home.join("requirements.txt");
    let wanted = fs::read(requirements).with_context(|| format!("cannot read `{}`", requirements.display()))?;
    if fs::read(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(python);
    }
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    let made = command::run(Command::new("python3").args(["-m", "venv"]).arg(&home));
    made.context("cannot make a virtual environment; on Debian it needs the package python3-venv")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements);
    command::run(&mut install).context("cannot install the client packages; this step needs PyPI or a mirror of it")?;
    fs::write(stamp, wanted)?;
    Ok(python)
}

fn node() -> Result<Command> {
    let tests = root().join("tests/clients/node");
    let lock = fs::read(tests.join("package-lock.json")).context("cannot read tests/clients/node/package-lock.json")?;
    let stamp = tests.join("node_modules/.installed-lock.json");
    if fs::read(&stamp).is_ok_and(|present| present == lock) {
        println!("node_modules are as the lock file says");
    } else {
        let mut install = Command::new("npm");
        install.current_dir(&tests).args(["ci", "--no-audit", "--no-fund", "--loglevel", "error"]);
        command::run(&mut install)
            .context("cannot install the client packages; this step needs npm's registry or a mirror of it")?;
        fs::write(stamp, lock)?;
    }
    let mut files: Vec<_> =
        fs::read_dir(&tests)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    files.retain(|file| file.ends_with(".test.mjs"));
    files.sort();
    let mut command = Command::new("node");
    command.current_dir(&tests).args(["--test", "--test-reporter=tap", "--test-concurrency=1"]).args(files);
    Ok(command)
}

fn folder() -> PathBuf {
    target_dir().join("clients")
}
