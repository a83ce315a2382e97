//! `falaj admin migrate`: moves a site's rows from the data folder to PostgreSQL, and shows that both sides are equal.

use crate::context::Context;
use crate::data_dir::DataLock;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::words::Word;
use falaj_store::{Moved, Store};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

pub async fn migrate(context: &Context, to: Option<&str>, to_file: Option<&Path>) -> Outcome {
    if context.config.database_url_file.is_some() {
        return Err(Failure::usage(Word::MigrateMoved.text()));
    }
    let url = match (to, to_file) {
        (_, Some(file)) => fs::read_to_string(file).or_fail(|| format!("`{}`", file.display()))?,
        (Some(url), None) => {
            output::note(Word::MigrateAddress.text());
            url.to_owned()
        }
        (None, None) => return Err(Failure::usage(Word::MigrateWhere.text())),
    };
    // Nobody writes meanwhile.
    let _lock = DataLock::acquire(&context.config.data)?;
    let store = Store::open(&context.config.data).await?;
    let mut progress = |table: &'static str, rows: u64| {
        if !context.json && rows.is_multiple_of(SHOWN_EVERY) {
            output::note(&format!("{table}: {rows}"));
        }
        Ok(())
    };
    let moved = store.move_to_postgres(url.trim(), &mut progress).await?;
    if context.json {
        let tables: Vec<Value> = moved.iter().map(shown).collect();
        output::json(&json!({ "tables": tables }));
        return Ok(());
    }
    for Moved { table, rows, copied, digest } in &moved {
        output::line(&format!("{table:<18} {rows:>10} {copied:>10}  {}", digest.get(..16).unwrap_or(digest)));
    }
    output::note(Word::MigrateDone.text());
    Ok(())
}

/// Rows.
const SHOWN_EVERY: u64 = 10_000;

fn shown(moved: &Moved) -> Value {
    json!({ "table": moved.table, "rows": moved.rows, "copied": moved.copied, "sha256": moved.digest })
}
