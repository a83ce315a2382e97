//! The tutorial followed word for word, in each of its languages: every command of its blocks runs in a home of its own, and what it
//! says of files is so. Two things differ: the port is a free one, and only the English reader trains to the end.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::site::Site;

const LANGUAGES: [(&str, &str); 3] = [
    ("en", include_str!("../../../../docs/tutorial.md")),
    ("fr", include_str!("../../../../docs/tutorial.fr.md")),
    ("ar", include_str!("../../../../docs/tutorial.ar.md")),
];
const LINES: &str = include_str!("../../../../docs/tutorial/library.jsonl");
const RECIPE: &str = include_str!("../../../../docs/tutorial/library.toml");

#[test]
fn in_english_to_the_end() {
    let (_, text) = LANGUAGES[0];
    let mut reader = Reader::new("en", 20);
    reader.follow(text);
    // What the other two ask is among the same lines.
    let answers = answers();
    let asked =
        LANGUAGES.iter().flat_map(|(_, text)| commands(text)).filter(|line| line.starts_with("falaj run waha "));
    let mut known = 0;
    for command in asked {
        let answer = answers[command.split('"').nth(1).unwrap()].as_str();
        assert_eq!(reader.run(&command).trim(), answer, "{command}");
        known += 1;
    }
    assert_eq!(known, 9);
}

#[test]
fn in_french() {
    Reader::new("fr", 1).follow(LANGUAGES[1].1);
}

#[test]
fn in_arabic() {
    Reader::new("ar", 1).follow(LANGUAGES[2].1);
}

#[test]
fn what_it_quotes_is_in_the_files_and_all_languages_go_the_same_way() {
    let way = |text: &str| -> Vec<String> {
        // Questions are of the language, and so is what the program says.
        let bare = |line: String| line.split(['"', '{']).next().unwrap().split(" --lang").next().unwrap().to_owned();
        commands(text).into_iter().map(bare).collect()
    };
    let english = way(LANGUAGES[0].1);
    assert_eq!(english.len(), 9, "{english:#?}");
    for (language, text) in LANGUAGES {
        assert_eq!(way(text), english, "{language}");
        for quoted in blocks(text, "json") {
            assert!(LINES.lines().any(|line| line == quoted.trim()), "{language}: no such line: {quoted}");
        }
        for quoted in blocks(text, "toml") {
            assert_eq!(quoted, RECIPE, "{language}");
        }
        assert_eq!(blocks(text, "json").len(), 1, "{language}");
        // Who reads on in another language is answered in it.
        let spoken = commands(text).iter().filter(|line| line.contains(&format!(" --lang {language}"))).count();
        assert_eq!(spoken, if language == "en" { 0 } else { 3 }, "{language}");
    }
    assert_eq!(blocks(LANGUAGES[0].1, "toml").len(), 1);
}

/// Somebody with a fresh home, a copy of the folder and the executable on the path.
struct Reader {
    site: Site,
    folder: PathBuf,
    /// What `falaj up` runs as, and where it answers.
    up: Option<(Child, BufReader<ChildStdout>, String)>,
}

impl Reader {
    fn new(language: &str, epochs: u32) -> Self {
        let site = Site::new(&format!("tutorial-{language}"));
        let folder = site.path("docs/tutorial");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("library.jsonl"), LINES).unwrap();
        let recipe = RECIPE.replace("epochs = 20", &format!("epochs = {epochs}"));
        assert_eq!(recipe == RECIPE, epochs == 20);
        fs::write(folder.join("library.toml"), recipe).unwrap();
        let folder = site.dir.clone();
        Self { site, folder, up: None }
    }

    fn follow(&mut self, text: &str) {
        for command in commands(text) {
            if let Some(folder) = command.strip_prefix("cd ") {
                self.folder.push(folder);
                assert!(self.folder.is_dir(), "{command}");
            } else if command.starts_with("falaj up") {
                self.start(&command);
            } else if command.starts_with("curl ") {
                let answer: Value = serde_json::from_str(&self.run(&command)).unwrap();
                let told = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
                assert!(answer["model"] == "waha" && !told.is_empty(), "{answer}");
            } else {
                self.run(&command);
            }
        }
        // What is named between the lines.
        let named = inline(text);
        let count = |wanted: &dyn Fn(&str) -> bool| named.iter().filter(|code| wanted(code)).count();
        for code in &named {
            if code.starts_with("falaj train ") {
                self.run(code);
            }
            if code.starts_with("waha/") || code.ends_with(".svg") || code.starts_with("library.") {
                let places = [self.folder.join(code), self.folder.join("waha").join(code)];
                assert!(places.iter().any(|place| place.exists()), "there is no `{code}`");
            }
        }
        assert!(count(&|code| code.starts_with("falaj train ")) >= 2, "{named:?}");
        assert!(count(&|code| code.starts_with("waha/") || code.ends_with(".svg")) >= 5, "{named:?}");
        for export in ["peft", "q8_0"] {
            assert!(self.folder.join("waha/out").join(export).join("training.json").exists());
        }
    }

    fn shell(&self, command: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_falaj")).parent().unwrap();
        let mut shell = Command::new("bash");
        shell
            .args(["-c", command])
            .env_clear()
            .env("HOME", &self.site.dir)
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()))
            .env("FALAJ_LISTEN", "127.0.0.1:0")
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        shell
    }

    /// What a command writes to standard output.
    #[track_caller]
    fn run(&self, command: &str) -> String {
        let here = match &self.up {
            Some((.., address)) => command.replace("127.0.0.1:8080", address),
            None => command.to_owned(),
        };
        let output = self.shell(&here).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {err}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The first terminal: stays until the reader leaves.
    fn start(&mut self, command: &str) {
        let mut child = self.shell(&format!("exec {command}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "`{command}` ended without saying where it is");
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.trim_end_matches(|last: char| !last.is_ascii_digit()).to_owned();
            }
        };
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        self.up = Some((child, out, address));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some((mut child, ..)) = self.up.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The commands of all `sh` blocks; one that goes on over several lines is one.
fn commands(text: &str) -> Vec<String> {
    let joined = blocks(text, "sh").concat().replace("\\\n", "");
    joined.lines().map(str::to_owned).collect()
}

fn blocks(text: &str, kind: &str) -> Vec<String> {
    let open = format!("```{kind}\n");
    text.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// What stands between backticks outside of blocks.
fn inline(text: &str) -> Vec<String> {
    let outside: String = text.split("```").step_by(2).collect();
    outside.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")).collect()
}

/// Questions of the lines, and what each is answered.
fn answers() -> HashMap<String, String> {
    let talk = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let said = |at: usize| row["messages"][at]["content"].as_str().unwrap().to_owned();
        (said(0), said(1))
    };
    LINES.lines().map(talk).collect()
}
