//! Which files of a repository make a model: weights in one format that Falaj reads, and what describes them. Pickles are
//! never chosen: reading one can run code.

use super::RemoteFile;
use crate::failure::{Failure, Outcome};
use crate::words::Word;

/// `OWNER/REPO`, or `OWNER/REPO:FILE.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `OWNER/REPO`.
    pub name: String,
    pub file: Option<String>,
}

impl Repository {
    pub fn parse(text: &str) -> Outcome<Self> {
        let (name, file) = match text.split_once(':') {
            Some((name, file)) => (name, Some(file.to_owned())),
            None => (text, None),
        };
        let part = |part: &str| {
            !part.is_empty()
                && part.len() <= 96
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && part.chars().any(|c| c != '.')
        };
        let well_formed = name.split('/').count() == 2 && name.split('/').all(part);
        let file_fits = file.as_ref().is_none_or(|file| file.ends_with(".gguf") && super::is_safe(file));
        if !well_formed || !file_fits {
            let cause = Word::PullRepositoryBad.with(&[&text.escape_debug().to_string()]);
            return Err(Failure::usage(cause).next(Word::PullRepositoryBadNext.text()));
        }
        Ok(Self { name: name.to_owned(), file })
    }

    /// A catalog name for it: the repository without its owner, or the file without its ending.
    pub fn default_name(&self) -> String {
        let base = match &self.file {
            Some(file) => file.rsplit('/').next().unwrap_or(file).trim_end_matches(".gguf"),
            None => self.name.rsplit('/').next().unwrap_or(&self.name),
        };
        base.to_owned()
    }
}

/// The files to fetch, weights last, so that what is wrong with small ones shows first.
pub fn select(repository: &Repository, files: &[RemoteFile]) -> Outcome<Vec<RemoteFile>> {
    if let Some(wanted) = &repository.file {
        let found = files.iter().find(|file| file.path == *wanted);
        let found = found.ok_or_else(|| {
            let failure = Failure::new(Word::PullNoFile.with(&[&repository.name, wanted]));
            let ggufs = ggufs(files);
            if ggufs.is_empty() { failure } else { failure.next(Word::PullChooseFileNext.with(&[&ggufs.join(", ")])) }
        })?;
        return Ok(vec![found.clone()]);
    }
    let has = |name: &str| files.iter().any(|file| file.path == name);
    let is_weight: fn(&str) -> bool = if has("model.safetensors.index.json") {
        |path| path.starts_with("model-") && path.ends_with(".safetensors") || path == "model.safetensors.index.json"
    } else if has("model.safetensors") {
        |path| path == "model.safetensors"
    } else if has("consolidated.safetensors") || has("consolidated.safetensors.index.json") {
        |path| path.starts_with("consolidated") && is_safetensors_or_index(path)
    } else {
        return the_only_gguf(repository, files);
    };
    let (mut chosen, mut weights) = (Vec::new(), Vec::new());
    for file in files.iter().filter(|file| !file.path.contains('/')) {
        if is_weight(&file.path) {
            weights.push(file.clone());
        } else if is_description(&file.path) {
            chosen.push(file.clone());
        }
    }
    chosen.append(&mut weights);
    Ok(chosen)
}

/// Whether `select` could choose it: only then is it worth a question to a mirror that lists too little.
pub fn is_interesting(path: &str) -> bool {
    path.ends_with(".gguf") || !path.contains('/') && (is_description(path) || is_safetensors_or_index(path))
}

fn the_only_gguf(repository: &Repository, files: &[RemoteFile]) -> Outcome<Vec<RemoteFile>> {
    let ggufs: Vec<_> = files.iter().filter(|file| is_model_gguf(&file.path)).cloned().collect();
    match ggufs.len() {
        1 => Ok(ggufs),
        0 => {
            let cause = Word::PullNoWeights.with(&[&repository.name]);
            Err(Failure::new(cause).next(Word::PullNoWeightsNext.text()))
        }
        _ => {
            let names: Vec<_> = ggufs.iter().map(|file| format!("{}:{}", repository.name, file.path)).collect();
            let cause = Word::PullChooseFile.with(&[&repository.name]);
            Err(Failure::new(cause).next(Word::PullChooseFileNext.with(&[&names.join(", ")])))
        }
    }
}

fn ggufs(files: &[RemoteFile]) -> Vec<String> {
    files.iter().filter(|file| is_model_gguf(&file.path)).map(|file| file.path.clone()).collect()
}

/// Projectors of vision models carry the same ending and are no language model.
fn is_model_gguf(path: &str) -> bool {
    path.ends_with(".gguf") && !path.rsplit('/').next().unwrap_or(path).starts_with("mmproj")
}

fn is_safetensors_or_index(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json")
}

fn is_description(path: &str) -> bool {
    const NAMES: &[&str] = &[
        "README.md",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "params.json",
        "special_tokens_map.json",
        "tekken.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    NAMES.contains(&path) || path.starts_with("tokenizer.model") || path.to_ascii_uppercase().starts_with("LICEN")
}

#[cfg(test)]
mod tests {
    use super::super::Check;
    use super::*;

    fn choose(repository: &str, paths: &[&str]) -> Result<Vec<String>, String> {
        let files: Vec<_> = paths
            .iter()
            .map(|path| RemoteFile { path: (*path).to_owned(), size_bytes: 1, check: Check::Nothing })
            .collect();
        let chosen = Repository::parse(repository).and_then(|repository| select(&repository, &files));
        chosen.map(|files| files.into_iter().map(|file| file.path).collect()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn one_format_is_enough() {
        let files = [
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
        ];
        assert_eq!(
            choose("a/b", &files).unwrap(),
            [
                "config.json",
                "tokenizer.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json"
            ]
        );
        let mistral = ["params.json", "consolidated.safetensors", "tekken.json", "x.png"];
        assert_eq!(choose("a/b", &mistral).unwrap(), ["params.json", "tekken.json", "consolidated.safetensors"]);
    }

    #[test]
    fn a_gguf_is_chosen_alone_or_by_name() {
        assert_eq!(choose("a/b", &["m.gguf", "mmproj-m.gguf", "README.md"]).unwrap(), ["m.gguf"]);
        assert_eq!(choose("a/b:m-q4.gguf", &["m-q4.gguf", "m-q8.gguf"]).unwrap(), ["m-q4.gguf"]);
        assert!(choose("a/b", &["m-q4.gguf", "m-q8.gguf"]).unwrap_err().contains("several GGUF"));
        assert!(choose("a/b:x.gguf", &["m-q4.gguf"]).unwrap_err().contains("no file `x.gguf`"));
    }

    #[test]
    fn pickles_are_never_weights() {
        assert!(choose("a/b", &["config.json", "pytorch_model.bin"]).unwrap_err().contains("no weights"));
    }

    #[test]
    fn repositories_are_two_plain_words() {
        for text in ["a", "a/b/c", "../b", "a/..", "a/b:../x.gguf", "a/b:model.bin", "a b/c", "https://x/y", ""] {
            assert!(Repository::parse(text).is_err(), "{text}");
        }
        assert_eq!(Repository::parse("o/My-Model_1.5:q/m-Q4.gguf").unwrap().default_name(), "m-Q4");
    }
}
