//! `falaj engine …`: OpenAI-compatible servers whose models this site serves behind its own API. They are written down in
//! `engines.toml` of the data folder, which a running `falaj up` reads again whenever it changes; a key stands there as the path of
//! its file only. What passes requests on is `falaj_server`'s.

use crate::args::{Attach, EngineCommand};
use crate::config;
use crate::context::Context;
use crate::data_dir;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::talk::Server;
use crate::words::Word;
use falaj_server::{App, AttachedEngine};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One engine as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    url: String,
    models: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<PathBuf>,
    /// Where it stands, where that is not the site's country.
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    #[serde(default)]
    engine: Vec<Entry>,
}

pub fn engine(context: &Context, command: EngineCommand) -> Outcome {
    match command {
        EngineCommand::Attach(options) => attach(context, options),
        EngineCommand::List => list(context),
        EngineCommand::Detach { name } => detach(context, &name),
    }
}

/// What is written down now, keys and all, for the server.
pub fn attached(data: &Path) -> Outcome<Vec<AttachedEngine>> {
    read(data)?.engine.iter().map(Entry::open).collect()
}

/// Hands the server what is written down whenever it is not what it knows. What cannot be read changes nothing.
pub async fn watch(app: App, data: PathBuf, known: Vec<AttachedEngine>) {
    let (mut known, mut complaint) = (Some(known), String::new());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (app, data) = (app.clone(), data.clone());
        let last = known.take();
        let looked = tokio::task::spawn_blocking(move || match attached(&data) {
            Ok(engines) => {
                if last.as_ref() != Some(&engines) {
                    tracing::info!(?engines, "attached engines have changed");
                    app.attach(engines.clone());
                }
                (Some(engines), String::new())
            }
            Err(failure) => (last, failure.to_string()),
        });
        let Ok((engines, failure)) = looked.await else { return };
        if failure != complaint && !failure.is_empty() {
            tracing::error!(failure, "`{FILE}` was changed, and what is there now cannot be used");
        }
        (known, complaint) = (engines, failure);
    }
}

fn attach(context: &Context, options: Attach) -> Outcome {
    let data = &context.config.data;
    // A relative path would change its meaning with the directory.
    let key_file = options.key_file.as_deref().map(std::path::absolute).transpose()?;
    let country = options.country.map(|country| {
        let known = config::country(&country);
        known.ok_or_else(|| Failure::usage(format!("`--country {country}`")).next(config::COUNTRY))
    });
    let country = country.transpose()?;
    let mut entry = Entry {
        name: options.name.unwrap_or_else(|| name_of(&options.url)),
        url: options.url,
        models: options.models,
        key_file,
        country,
    };
    entry.open()?;
    if entry.models.is_empty() {
        entry.models = Server::new(&entry.url, entry.key()?.as_deref())?.models()?;
    }
    if entry.models.is_empty() {
        return Err(Failure::new(Word::EngineNoModels.with(&[&entry.url])).next(Word::EngineNoModelsNext.text()));
    }
    data_dir::create(data)?;
    let mut entries = read(data)?;
    entries.engine.retain(|other| other.name != entry.name);
    entries.engine.push(entry.clone());
    write(data, &entries)?;
    match context.json {
        true => output::json(&json!(entry)),
        false => output::line(&Word::EngineAttached.with(&[&entry.name, &entry.models.join(", ")])),
    }
    Ok(())
}

fn list(context: &Context) -> Outcome {
    let entries = read(&context.config.data)?.engine;
    if context.json {
        output::json(&json!(entries));
    } else if entries.is_empty() {
        output::note(Word::EngineNone.text());
    } else {
        let row =
            |entry: Entry| vec![entry.name, entry.url, entry.country.unwrap_or_default(), entry.models.join(", ")];
        output::table(&entries.into_iter().map(row).collect::<Vec<_>>());
    }
    Ok(())
}

fn detach(context: &Context, name: &str) -> Outcome {
    let mut entries = read(&context.config.data)?;
    let before = entries.engine.len();
    entries.engine.retain(|entry| entry.name != name);
    if entries.engine.len() == before {
        return Err(Failure::new(Word::EngineUnknown.with(&[name])).next("`falaj engine list`"));
    }
    write(&context.config.data, &entries)?;
    if !context.json {
        output::line(&Word::EngineDetached.with(&[name]));
    }
    Ok(())
}

impl Entry {
    fn key(&self) -> Outcome<Option<String>> {
        let Some(path) = &self.key_file else { return Ok(None) };
        let key = fs::read_to_string(path).or_fail(|| format!("`{}`", path.display()))?;
        Ok(Some(key.trim().to_owned()))
    }

    fn open(&self) -> Outcome<AttachedEngine> {
        let key = self.key()?;
        let engine =
            AttachedEngine::new(&self.name, &self.url, key.as_deref(), self.models.clone(), self.country.clone());
        Ok(engine?)
    }
}

/// `http://gpu:8000/v1` → `gpu-8000`.
fn name_of(url: &str) -> String {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    host.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-")
}

fn read(data: &Path) -> Outcome<Entries> {
    let path = data.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).or_fail(|| format!("`{}`", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Entries::default()),
        Err(error) => Err(Failure::from(error).while_doing(&format!("`{}`", path.display()))),
    }
}

/// In one step: a server that looks meanwhile sees the old file or the new one.
fn write(data: &Path, entries: &Entries) -> Outcome {
    let (path, new) = (data.join(FILE), data.join(format!("{FILE}.new")));
    let text = toml::to_string(entries)?;
    fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).or_fail(|| format!("`{}`", path.display()))
}

const FILE: &str = "engines.toml";
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_named_after_their_host() {
        assert_eq!(name_of("http://gpu.example:8000/v1"), "gpu.example-8000");
        assert_eq!(name_of("http://[::1]:9"), "---1--9");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let entry = Entry {
            name: "gpu".into(),
            url: "http://gpu:8000".into(),
            models: vec!["a".into(), "b".into()],
            key_file: Some("/srv/key".into()),
            country: None,
        };
        let text = toml::to_string(&Entries { engine: vec![entry.clone()] }).unwrap();
        assert_eq!(toml::from_str::<Entries>(&text).unwrap().engine, [entry]);
        assert!(toml::from_str::<Entries>("[[engine]]\nname='a'\nurl='b'\nmodels=[]\nkey='s3cret'").is_err());
    }
}
