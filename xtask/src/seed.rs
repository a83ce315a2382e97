//! `cargo xtask seed-data`: writes what falaj-seed is trained on, from the books and from the lists in `seed/`. The same books, seed and
//! counts give the same bytes; their digests are printed. How it is trained is in `models/falaj-seed/recipe.toml`.

mod chance;
mod corpus;
pub mod curves;
mod grounded;
mod invented;
mod phrases;
mod spans;
mod suites;
mod tasks;
mod tools;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use chance::Chance;
use corpus::Book;
use phrases::{Language, Phrases, Side};
use spans::Level;
use tools::{Outcome, ToolTalk, Toolbox};

pub fn run(args: &[String]) -> Result<()> {
    let mut options = Options { books: None, out: None, seed: 1, count: 240_000, each: 40 };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("`{flag}` needs a value"))?;
        match flag.as_str() {
            "--books" => options.books = Some(PathBuf::from(value)),
            "--out" => options.out = Some(PathBuf::from(value)),
            "--seed" => options.seed = value.parse()?,
            "--count" => options.count = value.parse()?,
            "--each" => options.each = value.parse()?,
            _ => bail!("unknown option `{flag}`; `cargo xtask help` lists them"),
        }
    }
    let books =
        options.books.context("`--books` is missing: a folder with en.txt, fr.txt and ar.txt, a paragraph a line")?;
    let out = options.out.context("`--out` is missing: a folder to write to")?;
    let material = Material::new(&books)?;
    fs::create_dir_all(&out)?;
    material.write_books(&out)?;
    material.write_words(&out, options.seed)?;
    let chat = |name: &str, count: usize, side: Side, kinds: &[(Kind, usize)]| -> Result<()> {
        let mut chance = Chance::new(options.seed, name);
        let mut file = BufWriter::new(File::create(out.join(name))?);
        for number in 0..count {
            let language = Language::ALL[number % 3];
            writeln!(file, "{}", material.row(&mut chance, side, language, kinds))?;
        }
        Ok(file.flush()?)
    };
    chat("chat.jsonl", options.count, Side::Train, &KINDS)?;
    chat("copy.jsonl", options.count / 6, Side::Train, &[(Kind::Copying, 1)])?;
    chat("held.jsonl", 600, Side::Development, &KINDS)?;
    material.write_spans(&out, options.seed, options.count / 6)?;
    suites::write(&material, &out.join("dev"), options.seed, options.each)?;
    digests(&out)
}

struct Options {
    books: Option<PathBuf>,
    out: Option<PathBuf>,
    seed: u64,
    /// Conversations.
    count: usize,
    /// Questions of each kind and language in the development suites.
    each: usize,
}

/// All that rows are made of.
pub struct Material {
    books: Vec<Book>,
    words: Phrases,
    attributes: Phrases,
    requests: Phrases,
    tasks: Phrases,
    about: Phrases,
    toolbox: Toolbox,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Grounded,
    Tools,
    Task,
    Copying,
    Fact,
    SmallTalk,
    Beyond,
    Remembered,
    Several,
}

/// How often each comes.
const KINDS: [(Kind, usize); 8] = [
    (Kind::Grounded, 40),
    (Kind::Tools, 26),
    (Kind::Task, 14),
    (Kind::Fact, 8),
    (Kind::SmallTalk, 3),
    (Kind::Beyond, 3),
    (Kind::Remembered, 3),
    (Kind::Several, 3),
];

impl Material {
    fn new(books: &Path) -> Result<Self> {
        let tools = crate::root().join("models/falaj-seed/tools.json");
        Ok(Self {
            books: Language::ALL.map(|language| Book::read(books, language)).into_iter().collect::<Result<_>>()?,
            words: Phrases::parse(include_str!("seed/words.txt")),
            attributes: Phrases::parse(include_str!("seed/attributes.txt")),
            requests: Phrases::parse(include_str!("seed/requests.txt")),
            tasks: Phrases::parse(include_str!("seed/tasks.txt")),
            about: Phrases::parse(include_str!("seed/about.txt")),
            toolbox: Toolbox::parse(&fs::read_to_string(tools)?)?,
        })
    }

    fn book(&self, language: Language) -> &Book {
        &self.books[language as usize]
    }

    /// A conversation as a line of JSON.
    fn row(&self, chance: &mut Chance, side: Side, language: Language, kinds: &[(Kind, usize)]) -> String {
        let (kind, _) = kinds[chance.weighted(kinds.iter().map(|(_, weight)| *weight))];
        let mut messages = Vec::new();
        if chance.of(0.08) {
            messages.push(message("system", self.tasks.pick(chance, "system", "", language)));
        }
        let turns = match kind {
            Kind::Tools => {
                let talk = self.tool_talk(chance, side, language);
                return tool_row(messages, talk, chance.of(0.5));
            }
            Kind::Grounded => {
                let one = self.grounded(chance, side, language);
                vec![(one.prompt(), one.reply(language))]
            }
            Kind::Task => vec![self.task(chance, side, language)],
            Kind::Copying => vec![self.copying(chance, side, language)],
            Kind::Fact => vec![self.fact(chance, side, language)],
            Kind::SmallTalk => vec![self.small_talk(chance, side, language)],
            Kind::Beyond => vec![self.beyond(chance, side, language)],
            Kind::Remembered => self.remembered(chance, side, language),
            Kind::Several => (0..chance.between(2, 4)).map(|_| self.short(chance, side, language)).collect(),
        };
        talk_row(messages, turns)
    }

    /// The training paragraphs as documents of some thousand letters, and what is held out.
    fn write_books(&self, out: &Path) -> Result<()> {
        for book in &self.books {
            let code = book.language.code();
            let mut file = BufWriter::new(File::create(out.join(format!("books.{code}.jsonl")))?);
            for block in &book.train {
                for some in block.chunks(PARAGRAPHS) {
                    writeln!(file, "{}", json!({ "text": some.join("\n") }))?;
                }
            }
            file.flush()?;
        }
        Ok(())
    }
}

impl Material {
    /// Answers that copy, `count` conversations of each level.
    fn write_spans(&self, out: &Path, seed: u64, count: usize) -> Result<()> {
        for level in Level::ALL {
            let mut chance = Chance::new(seed, &level.file());
            let mut file = BufWriter::new(File::create(out.join(level.file()))?);
            for number in 0..count {
                let language = Language::ALL[number % 3];
                let talk = self.spans(&mut chance, Side::Train, language, level);
                writeln!(file, "{}", talk_row(Vec::new(), talk.turns(language)))?;
            }
            file.flush()?;
        }
        Ok(())
    }

    /// What a vocabulary is learnt from, a file for each language: books, conversations, and the tools now and then.
    fn write_words(&self, out: &Path, seed: u64) -> Result<()> {
        for book in &self.books {
            let code = book.language.code();
            let mut chance = Chance::new(seed, &format!("words {code}"));
            let mut file = BufWriter::new(File::create(out.join(format!("words.{code}.jsonl")))?);
            for block in book.train.iter().step_by(3) {
                writeln!(file, "{}", json!({ "text": block.join("\n") }))?;
                for _ in 0..12 {
                    let row: Value = serde_json::from_str(&self.row(&mut chance, Side::Train, book.language, &KINDS))?;
                    let messages = row["messages"].as_array().into_iter().flatten();
                    let texts: Vec<&str> = messages.filter_map(|message| message["content"].as_str()).collect();
                    writeln!(file, "{}", json!({ "text": texts.join("\n") }))?;
                }
                writeln!(file, "{}", json!({ "text": self.toolbox.offer(&mut chance, None, None) }))?;
            }
            file.flush()?;
        }
        Ok(())
    }
}

const PARAGRAPHS: usize = 8;

fn message(role: &str, content: &str) -> String {
    format!("{{\"role\": \"{role}\", \"content\": {}}}", Value::from(content))
}

/// What was said before, then turns of user and assistant.
fn talk_row(mut messages: Vec<String>, turns: Vec<(String, String)>) -> String {
    for (asked, told) in turns {
        messages.push(message("user", &asked));
        messages.push(message("assistant", &told));
    }
    format!("{{\"messages\": [{}]}}", messages.join(", "))
}

/// `answered`: whether the tool's result and the reply to it follow.
fn tool_row(mut messages: Vec<String>, talk: ToolTalk, answered: bool) -> String {
    messages.push(message("user", &talk.asked));
    match talk.outcome {
        Outcome::Words(told) => messages.push(message("assistant", &told)),
        Outcome::Call { name, arguments, result, told } => {
            let arguments = Value::from(arguments);
            messages.push(format!(
                "{{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{{\"id\": \"call00001\", \"type\": \"function\", \
                 \"function\": {{\"name\": \"{name}\", \"arguments\": {arguments}}}}}]}}"
            ));
            if answered {
                let result = Value::from(result);
                messages
                    .push(format!("{{\"role\": \"tool\", \"tool_call_id\": \"call00001\", \"content\": {result}}}"));
                messages.push(message("assistant", &told));
            }
        }
    }
    format!("{{\"messages\": [{}], \"tools\": {}}}", messages.join(", "), talk.tools)
}

fn digests(out: &Path) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    for folder in [out.to_path_buf(), out.join("dev")] {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "jsonl") {
                names.push(path.strip_prefix(out)?.display().to_string());
            }
        }
    }
    names.sort();
    let status = Command::new("sha256sum").args(&names).current_dir(out).status().context("`sha256sum`")?;
    if status.success() { Ok(()) } else { bail!("`sha256sum` failed") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few sentences stand in for the books.
    fn material(name: &str) -> Material {
        let folder = std::env::temp_dir().join(format!("falaj-seed-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let books = [
            ("en", "The old man opened the heavy door. Then Marius walked slowly to Paris and saw the great river."),
            (
                "fr",
                "Le vieil homme ouvrit la lourde porte. Alors Porthos prit son grand chapeau et sortit dans la rue.",
            ),
            ("ar", "فتح الرجل العجوز الباب الثقيل ونظر إلى الشارع. ثم ذهب إلى السوق الكبير واشترى خبزا وتمرا وماء."),
        ];
        for (code, text) in books {
            // Twice, so that words are no rarities.
            fs::write(folder.join(format!("{code}.txt")), format!("{text}\n{text} {text}\n").repeat(20)).unwrap();
        }
        let material = Material::new(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        material
    }

    #[test]
    fn answers_are_pieces_of_the_passage_they_name() {
        let material = material("spans");
        let mut answered = 0;
        for language in Language::ALL {
            let mut chance = Chance::new(3, language.code());
            for _ in 0..200 {
                let one = material.grounded(&mut chance, Side::Train, language);
                let Some((span, at)) = &one.answer else { continue };
                answered += 1;
                assert!(one.passages[*at].contains(span.as_str()), "{}", one.prompt());
                assert_eq!(one.reply(language), format!("{span} [{}]", at + 1));
            }
        }
        assert!((300..550).contains(&answered), "{answered}");
    }

    /// The word that stands before each place of a span in a text.
    fn words_before(text: &str, span: &str) -> Vec<String> {
        let before = |(at, _): (usize, &str)| text[..at].split_whitespace().last().unwrap_or_default().to_owned();
        text.match_indices(span).map(before).collect()
    }

    #[test]
    fn spans_begin_where_words_that_the_question_repeats_end() {
        let material = material("beside");
        for language in Language::ALL {
            for level in Level::ALL {
                let mut chance = Chance::new(6, language.code());
                let (mut turns, mut unanswered) = (0, 0);
                for _ in 0..200 {
                    let talk = material.spans(&mut chance, Side::Train, language, level);
                    for turn in &talk.turns {
                        turns += 1;
                        let Some((span, at)) = &turn.answer else {
                            unanswered += 1;
                            continue;
                        };
                        assert!(talk.passages[*at].contains(span.as_str()), "{:?} {}", talk.passages, turn.question);
                        let words = words_before(&talk.passages[*at], span);
                        let bare = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
                        let repeated = words.iter().any(|word| turn.question.contains(&bare(word)));
                        assert!(level != Level::Beside || repeated, "{:?} {}", talk.passages, turn.question);
                    }
                    let said = talk.turns(language);
                    assert_eq!(said[0].0, talk.first().prompt());
                    assert!(said.iter().skip(1).all(|(asked, _)| !asked.contains(&talk.passages[0])));
                }
                let most = if level == Level::Asked { turns / 5 } else { 0 };
                assert!(unanswered <= most && (most == 0 || unanswered > 0), "{level:?}: {unanswered} of {turns}");
            }
        }
    }

    /// Answers as a share of all that rows say.
    fn share_learnt(make: impl Fn(&mut Chance, Language) -> Vec<(String, String)>) -> f64 {
        let mut chance = Chance::new(7, "share");
        let rows: Vec<_> = (0..600).flat_map(|at| make(&mut chance, Language::ALL[at % 3])).collect();
        let (asked, told) = rows.iter().fold((0, 0), |(a, t), (asked, told)| (a + asked.len(), t + told.len()));
        told as f64 / (asked + told) as f64
    }

    #[test]
    fn more_of_a_row_is_learnt_than_of_harder_ones() {
        let material = material("learnt");
        let hard = share_learnt(|chance, language| {
            let one = material.grounded(chance, Side::Train, language);
            vec![(one.prompt(), one.reply(language))]
        });
        for level in Level::ALL {
            let easy =
                share_learnt(|chance, language| material.spans(chance, Side::Train, language, level).turns(language));
            assert!(easy > 1.5 * hard, "{level:?}: {easy:.3}, not {hard:.3}");
        }
    }

    #[test]
    fn arguments_are_copied_from_the_request() {
        let material = material("calls");
        let mut calls = 0;
        for language in Language::ALL {
            let mut chance = Chance::new(4, language.code());
            for _ in 0..200 {
                let talk = material.tool_talk(&mut chance, Side::Train, language);
                let tools: Value = serde_json::from_str(&talk.tools).unwrap();
                let Outcome::Call { name, arguments, .. } = &talk.outcome else { continue };
                calls += 1;
                assert!(tools.as_array().unwrap().iter().any(|tool| tool["function"]["name"] == name.as_str()));
                let arguments: Value = serde_json::from_str(arguments).unwrap();
                for value in arguments.as_object().unwrap().values() {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    assert!(talk.asked.contains(&value), "`{value}` in `{}`", talk.asked);
                }
            }
        }
        assert!((350..550).contains(&calls), "{calls}");
    }

    #[test]
    fn a_seed_gives_the_same_rows_and_development_asks_in_other_words() {
        let material = material("rows");
        let rows = |seed: u64| -> Vec<String> {
            let mut chance = Chance::new(seed, "rows");
            (0..60).map(|at| material.row(&mut chance, Side::Train, Language::ALL[at % 3], &KINDS)).collect()
        };
        assert_eq!(rows(1), rows(1));
        assert_ne!(rows(1), rows(2));
        assert!(rows(1).iter().all(|row| serde_json::from_str::<Value>(row).is_ok()));
        let asked = |side: Side| -> std::collections::BTreeSet<String> {
            let mut chance = Chance::new(5, "asked");
            let mut ask = || material.requests.ask(&mut chance, side, "get_time", "asks", Language::En).to_owned();
            (0..200).map(|_| ask()).collect()
        };
        let (train, development) = (asked(Side::Train), asked(Side::Development));
        assert_eq!(development.difference(&train).count(), 1);
    }
}
