//! Draft models: which one proposes to a model, by the settings; that it speaks the same vocabulary; what it takes.

use super::{Place, catalog, text, verified};
use crate::builtin;
use crate::config::Config;
use crate::failure::{Failure, Outcome};
use crate::outline::{Outline, builtin_manifest};
use crate::words::Word;
use falaj_artifact::Layout;
use falaj_model::{LoadOptions, Model};
use falaj_text::Tokenizer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Loads the draft model of `id`, whose tokenizer is `target`; `None` where the settings name none.
pub fn load(config: &Config, id: &str, target: &Tokenizer) -> Outcome<Option<Arc<Model>>> {
    let Some(name) = named(config, id) else { return Ok(None) };
    let load = || -> Outcome<_> {
        let place = Place::find(config, name)?;
        let (files, _) = verified(config, &place)?;
        let draft = text(&files)?.tokenizer;
        if let Some(difference) = difference(target, &draft) {
            let cause = Word::DraftVocabulary.with(&[name, id, &difference]);
            return Err(Failure::new(cause).next(Word::DraftVocabularyNext.text()));
        }
        let options = LoadOptions { isa: Some(config.engine.isa), ..LoadOptions::default() };
        Ok(Arc::new(falaj_model::load(&files, options)?))
    };
    load().map(Some).map_err(|failure| failure.while_doing("`engine.draft_models`"))
}

/// The configuration of the draft model of `id`, the bytes of its files, and what changes when it becomes another. `None` where
/// there is none, or none that could be loaded.
pub fn outline(config: &Config, id: &str) -> Option<(falaj_model::Config, u64, String)> {
    let found = |outline: Outline, bytes, key| Some((outline.config.ok()?, bytes, key));
    match Place::find(config, named(config, id)?).ok()? {
        Place::Builtin => {
            let (manifest, outline) = (builtin_manifest().ok()?, Outline::of_builtin().ok()?);
            found(outline, manifest.size_bytes(), builtin::NAME.to_owned())
        }
        Place::Catalog(name) => {
            let catalog = catalog(config).ok()??;
            let (manifest, dir) = (catalog.find(&name).ok()?, catalog.path(&name).ok()?);
            let outline = Outline::of_layout(&Layout::detect(&dir).ok()?).ok()?;
            found(outline, manifest.size_bytes(), manifest.digest().to_string())
        }
        Place::Path(path) => {
            let layout = Layout::detect(&path).ok()?;
            let bytes = layout.weights().iter().filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum();
            found(Outline::of_layout(&layout).ok()?, bytes, path.display().to_string())
        }
    }
}

fn named<'a>(config: &'a Config, id: &str) -> Option<&'a str> {
    config.engine.drafts.get(id).filter(|_| config.engine.options.speculation).map(String::as_str)
}

/// What makes a token of one mean something else in the other.
fn difference(target: &Tokenizer, draft: &Tokenizer) -> Option<String> {
    let (ours, theirs) = (target.vocab_size(), draft.vocab_size());
    if ours != theirs {
        return Some(format!("{theirs} != {ours}"));
    }
    let differs = |token: &u32| {
        target.token_bytes(*token) != draft.token_bytes(*token) || target.is_special(*token) != draft.is_special(*token)
    };
    if let Some(token) = (0..ours as u32).find(differs) {
        let shown =
            |tokenizer: &Tokenizer| String::from_utf8_lossy(tokenizer.token_bytes(token)).escape_debug().to_string();
        return Some(format!("{token}: `{}` != `{}`", shown(draft), shown(target)));
    }
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) = (target.specials().collect(), draft.specials().collect());
    let (name, token) = ours.symmetric_difference(&theirs).next()?;
    Some(format!("{token}: `{name}`"))
}
