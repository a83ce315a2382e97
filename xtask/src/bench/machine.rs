//! On what a bench ran: the machine, the versions, a digest of the very programs that were measured, and a text.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Machine and versions, as every bench's file says them.
pub fn about(threads: usize, peer: &str) -> Result<Map<String, Value>> {
    let info = fs::read_to_string("/proc/cpuinfo").context("benches need Linux's /proc")?;
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(':').nth(1)).unwrap_or_default().trim().to_owned()
    };
    let flags = field("flags");
    let notable = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16"];
    let has: Vec<&str> = notable.into_iter().filter(|flag| flags.split(' ').any(|had| had == *flag)).collect();
    let output = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(crate::root()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    let machine = format!(
        "{} (family {}, model {}), {threads} threads, {}",
        field("model name"),
        field("cpu family"),
        field("model"),
        has.join(" ")
    );
    let versions = json!({ "ours": commit, "profile": "release", "peer": peer });
    Ok([("machine".to_owned(), json!(machine)), ("versions".to_owned(), versions)].into_iter().collect())
}

/// A digest of programs, so that rows of the same ones need not be measured twice. A quick run's rows are others.
pub fn build_of(programs: &[PathBuf], quick: bool) -> Result<String> {
    // Nobody attacks a bench: a hash that the standard library has is enough.
    let mut hasher = DefaultHasher::new();
    for program in programs {
        hasher.write(&fs::read(program).with_context(|| format!("cannot read `{}`", program.display()))?);
    }
    Ok(format!("{:016x}{}", hasher.finish(), if quick { "-quick" } else { "" }))
}

/// What the checkout says in English, French and Arabic, and some old novels: its own pages and bench/perplexity.txt.
pub fn prose() -> Result<String> {
    let root = crate::root();
    let output = Command::new("git").args(["ls-files", "*.md", "bench/perplexity.txt"]).current_dir(&root).output()?;
    let mut text = String::new();
    for path in String::from_utf8_lossy(&output.stdout).lines() {
        text.push_str(&fs::read_to_string(root.join(path)).with_context(|| format!("cannot read `{path}`"))?);
    }
    anyhow::ensure!(text.len() > 10_000, "the text comes from the files that git knows");
    // The peer's programs would read escapes in it, and drop a last line's end.
    Ok(text.replace('\\', "/").trim_end().to_owned())
}
