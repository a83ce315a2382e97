//! `falaj admin migrate`: moves a site's rows from the data folder to PostgreSQL, and its blobs to S3, and shows that both sides are equal.

use crate::context::Context;
use crate::data_dir::DataLock;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::state;
use crate::words::Word;
use falaj_store::{Moved, Places, Store};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// `blobs`: only them, to where `blobs.url` says; whoever moves the rows takes them along.
pub async fn migrate(context: &Context, to: Option<&str>, to_file: Option<&Path>, blobs: bool) -> Outcome {
    let config = &context.config;
    let url = match (to, to_file) {
        (_, Some(file)) => Some(fs::read_to_string(file).or_fail(|| format!("`{}`", file.display()))?),
        (Some(url), None) => {
            output::note(Word::MigrateAddress.text());
            Some(url.to_owned())
        }
        (None, None) if blobs => None,
        (None, None) => return Err(Failure::usage(Word::MigrateWhere.text())),
    };
    if url.is_some() && config.database_url_file.is_some() {
        return Err(Failure::usage(Word::MigrateMoved.text()));
    }
    let s3 = config.blobs.as_ref().map(state::blobs).transpose()?;
    if blobs && s3.is_none() {
        return Err(Failure::usage(Word::MigrateNoBlobs.text()));
    }
    // Nobody writes meanwhile.
    let _lock = DataLock::acquire(&config.data)?;
    let places = state::places(config)?;
    // Whoever moves the rows may have moved the blobs before.
    let s3 = if blobs || Places::has_blobs_on_disk(&config.data)? { s3 } else { None };
    let blobs_now = if s3.is_some() { None } else { places.blobs };
    let store = Store::open_at(&config.data, &Places { blobs: blobs_now, ..places }).await?;
    let mut progress = |table: &'static str, rows: u64| {
        if !context.json && rows.is_multiple_of(SHOWN_EVERY) {
            output::note(&format!("{table}: {rows}"));
        }
        Ok(())
    };
    let mut moved = Vec::new();
    if let Some(s3) = &s3 {
        moved.push(store.move_to_s3(s3, &mut progress).await?);
    }
    if let Some(url) = &url {
        moved.extend(store.move_to_postgres(url.trim(), &mut progress).await?);
    }
    if context.json {
        let tables: Vec<Value> = moved.iter().map(shown).collect();
        output::json(&json!({ "tables": tables }));
        return Ok(());
    }
    for Moved { table, rows, copied, digest } in &moved {
        output::line(&format!("{table:<18} {rows:>10} {copied:>10}  {}", digest.get(..16).unwrap_or(digest)));
    }
    if s3.is_some() {
        output::note(Word::MigrateBlobsDone.text());
    }
    if url.is_some() {
        output::note(Word::MigrateDone.text());
    }
    Ok(())
}

/// Rows.
const SHOWN_EVERY: u64 = 10_000;

fn shown(moved: &Moved) -> Value {
    json!({ "table": moved.table, "rows": moved.rows, "copied": moved.copied, "sha256": moved.digest })
}
