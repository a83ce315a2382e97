//! `falaj ledger …`: what the site wrote down, for others. Only reads: a running site has the ledger open and goes on. Checking an
//! export is `verify.rs`.

use crate::args::LedgerCommand;
use crate::config;
use crate::context::Context;
use crate::data_dir;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::site_key;
use crate::words::Word;
use falaj_govern::Record;
use falaj_ledger::{Checkpoint, Folder, Note, PackTrust};
use serde_json::json;
use std::path::Path;

pub fn ledger(context: &Context, command: &LedgerCommand) -> Outcome {
    match command {
        LedgerCommand::Status => status(context),
        LedgerCommand::Export { to } => export(context, to),
        LedgerCommand::Keys { out } => keys(context, out.as_deref()),
        LedgerCommand::Decisions => decisions(context),
        LedgerCommand::MakeKey => make_key(context),
    }
}

fn status(context: &Context) -> Outcome {
    let folder = open(context)?;
    let note = folder.read("checkpoint")?.unwrap_or_default();
    let note: Note = String::from_utf8_lossy(&note).parse()?;
    let (checkpoint, cosigned) = Checkpoint::verified(&note, &trust(context)?.log.log)?;
    let Checkpoint { origin, size, root, .. } = checkpoint;
    let time_s = cosigned.first().map(|line| line.time_s);
    if context.json {
        output::json(&json!({ "origin": origin, "entries": size, "root": root.to_string(), "time_s": time_s }));
    } else {
        output::line(&Word::LedgerHolds.with(&[&origin, &size.to_string(), &root.to_string()]));
    }
    Ok(())
}

fn export(context: &Context, to: &Path) -> Outcome {
    let entries = falaj_ledger::export(&open(context)?, &trust(context)?, to)?;
    if context.json {
        output::json(&json!({ "entries": entries, "path": to }));
    } else {
        output::line(&Word::LedgerExported.with(&[&entries.to_string(), &to.display().to_string()]));
    }
    Ok(())
}

fn keys(context: &Context, out: Option<&Path>) -> Outcome {
    open(context)?;
    let trust = trust(context)?;
    if let Some(out) = out {
        std::fs::create_dir_all(out).or_fail(|| format!("`{}`", out.display()))?;
        return Ok(trust.write(&Folder::new(out))?);
    }
    let log: Vec<String> = trust.log.log.iter().map(ToString::to_string).collect();
    let site = trust.site.to_string();
    if context.json {
        output::json(&json!({ "log": log, "site": site }));
    } else {
        log.iter().chain([&site]).for_each(|key| output::line(key));
    }
    Ok(())
}

fn decisions(context: &Context) -> Outcome {
    let folder = open(context)?;
    for hash in folder.records()? {
        let bytes = folder.record(&hash)?.unwrap_or_default();
        // Policies are kept there, too.
        if serde_json::from_slice::<Record>(&bytes).is_ok() {
            output::line(&String::from_utf8_lossy(&bytes));
        }
    }
    Ok(())
}

fn make_key(context: &Context) -> Outcome {
    let site = &context.config.site;
    data_dir::create(&context.config.data)?;
    let key = trust_in(site, site_key::make(&site.key)?)?.site.to_string();
    if context.json {
        output::json(&json!({ "site": key }));
    } else {
        output::line(&Word::LedgerKeyMade.with(&[&key]));
    }
    Ok(())
}

fn trust_in(site: &config::Site, public_key: [u8; 32]) -> Outcome<PackTrust> {
    Ok(falaj_ledger::keys(&falaj_server::origin(&site.facts.id), &site.facts.id, public_key)?)
}

fn open(context: &Context) -> Outcome<Folder> {
    let path = context.config.data.join("ledger");
    if !path.join("checkpoint").exists() {
        let cause = Word::LedgerEmpty.with(&[&path.display().to_string()]);
        return Err(Failure::new(cause).next(Word::LedgerEmptyNext.text()));
    }
    Ok(Folder::new(&path))
}

/// The site's own keys and those of its witnesses, as others know them.
fn trust(context: &Context) -> Outcome<PackTrust> {
    let site = &context.config.site;
    let mut trust = trust_in(site, site_key::public_key(&site.key)?)?;
    trust.log.witnesses = site.witnesses.iter().map(|(_, key)| key.clone()).collect();
    Ok(trust)
}
