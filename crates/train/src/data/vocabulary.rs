//! A vocabulary for a new model, fair to its languages: the amount of text of each file is moved until a token carries the
//! same number of bytes in each, measured on paragraphs that were not learnt from.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use falaj_text::{Conversation, Special, TextError, Tokenizer, learn_vocabulary};

use super::order::shuffled;
use super::row::{Dialogue, Preference};
use super::{Lines, Row};
use crate::TrainError;

/// What to learn.
#[derive(Debug, Clone)]
pub struct VocabularyPlan {
    pub vocab_size: usize,
    /// The first tokens, which no text makes.
    pub controls: Vec<String>,
    /// Most times that the amounts are moved.
    pub rounds: usize,
    /// Good enough: the most bytes per token of a file over the least, less 1.
    pub spread: f64,
    /// Most text of a file that is learnt from.
    pub most_bytes: usize,
}

impl Default for VocabularyPlan {
    fn default() -> Self {
        let controls = CONTROLS.iter().map(|name| (*name).to_owned()).collect();
        Self { vocab_size: 16_384, controls, rounds: 6, spread: 0.06, most_bytes: 6_000_000 }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    /// A `tokenizer.json`.
    pub file: Vec<u8>,
    pub shares: Vec<Share>,
    pub spread: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    pub path: PathBuf,
    /// Of its text, those that were learnt from.
    pub bytes: usize,
    /// On paragraphs that were held out.
    pub bytes_per_token: f64,
}

/// Learns from `files`, one for each language.
///
/// # Errors
/// `Io`; `NoData` for a file without text; `Vocabulary` where the texts cannot fill it.
pub fn vocabulary(files: &[PathBuf], plan: &VocabularyPlan) -> Result<Vocabulary, TrainError> {
    let texts = files.iter().map(|path| paragraphs(path)).collect::<Result<Vec<_>, _>>()?;
    let controls: Vec<&str> = plan.controls.iter().map(String::as_str).collect();
    let whole = |texts: &Texts| texts.learnt.iter().map(String::len).sum::<usize>().min(plan.most_bytes);
    // Half at first, so that there is room to move both ways.
    let mut bytes: Vec<usize> = texts.iter().map(|texts| (plan.most_bytes / 2).min(whole(texts))).collect();
    let mut round = 0;
    loop {
        let some = texts.iter().zip(&bytes).flat_map(|(texts, bytes)| {
            let mut left = *bytes as i64;
            texts.learnt.iter().take_while(move |text| {
                let goes_on = left > 0;
                left -= text.len() as i64;
                goes_on
            })
        });
        let fail = |source: TextError| TrainError::Vocabulary { source };
        let file = learn_vocabulary(some.map(String::as_str), plan.vocab_size, &controls).map_err(fail)?;
        let tokenizer = Tokenizer::from_tokenizer_json(&file).map_err(fail)?;
        let rates: Vec<f64> = texts.iter().map(|texts| rate(&tokenizer, &texts.held)).collect();
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (sorted.first().copied().unwrap_or(1.0), sorted.last().copied().unwrap_or(1.0));
        let spread = most / least - 1.0;
        round += 1;
        let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(1.0);
        let moved: Vec<usize> = bytes
            .iter()
            .zip(&rates)
            .zip(&texts)
            .map(|((bytes, rate), texts)| ((*bytes as f64 * (middle / rate).powi(3)) as usize).min(whole(texts)))
            .collect();
        if spread <= plan.spread || round >= plan.rounds || moved == bytes {
            let shares = files.iter().zip(bytes).zip(rates).map(|((path, bytes), bytes_per_token)| Share {
                path: path.clone(),
                bytes,
                bytes_per_token,
            });
            return Ok(Vocabulary { file, shares: shares.collect(), spread });
        }
        bytes = moved;
    }
}

/// Bytes per token.
fn rate(tokenizer: &Tokenizer, texts: &[String]) -> f64 {
    let text = texts.join("\n");
    text.len() as f64 / tokenizer.encode(&text, Special::Plain).len().max(1) as f64
}

/// The paragraphs of a file.
struct Texts {
    /// Shuffled.
    learnt: Vec<String>,
    held: Vec<String>,
}

fn paragraphs(path: &Path) -> Result<Texts, TrainError> {
    let file = File::open(path).map_err(TrainError::io("open", path))?;
    let plain = path.extension().is_some_and(|end| end == "txt" || end == "md");
    let mut lines = Lines::new(BufReader::with_capacity(1 << 18, file), plain);
    let mut all = Vec::new();
    while let Some(row) = lines.next_row().map_err(TrainError::io("read", path))? {
        // `falaj data check` tells of bad rows; here they are no text.
        let Ok((row, _)) = row.map_err(|bad| bad.reason).and_then(|raw| Row::parse(&raw, None)) else { continue };
        let mut add = |text: &str| all.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
        match &row {
            Row::Text { text, .. } => add(text),
            Row::Completion { prompt, completion } => [prompt, completion].into_iter().for_each(|text| add(text)),
            Row::Alpaca { instruction, input, output } => {
                [instruction, input, output].into_iter().for_each(|text| add(text));
            }
            Row::Dialogue(dialogue) => said(dialogue).iter().for_each(|text| add(text)),
            Row::Preference(Preference::Texts { prompt, answers: [chosen, rejected] }) => {
                [prompt, chosen, rejected].into_iter().for_each(|text| add(text));
            }
            Row::Preference(Preference::Dialogues(pair)) => {
                pair.iter().flat_map(said).for_each(|text| add(&text));
            }
        }
    }
    let is_held = |at: usize| at % HELD_EVERY == HELD_EVERY / 2;
    let held: Vec<String> =
        all.iter().enumerate().filter(|(at, _)| is_held(*at)).map(|(_, text)| text.clone()).collect();
    if held.is_empty() {
        return Err(TrainError::NoData);
    }
    let order = shuffled(0, 0, all.len());
    let order = order.into_iter().map(|at| at as usize).filter(|at| !is_held(*at));
    let learnt = order.filter_map(|at| all.get_mut(at).map(std::mem::take));
    Ok(Texts { learnt: learnt.collect(), held })
}

fn said(dialogue: &Dialogue) -> Vec<String> {
    let Conversation { messages, .. } = &dialogue.conversation;
    messages
        .iter()
        .flat_map(|message| {
            std::iter::once(message.text()).chain(message.tool_calls.iter().map(|call| call.arguments.clone()))
        })
        .collect()
}

/// One paragraph in so many is for measuring.
const HELD_EVERY: usize = 20;

/// Those of Mistral's v3 and of fill-in-the-middle, with an end and padding.
const CONTROLS: [&str; 16] = [
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[PREFIX]",
    "[SUFFIX]",
    "[MIDDLE]",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_get_tokens_of_equal_size() {
        let dir = std::env::temp_dir().join(format!("falaj-train-{}-vocabulary", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        // Two languages of different alphabets and lengths of word.
        let write = |name: &str, letters: &str, longest: u32| {
            let letters: Vec<char> = letters.chars().collect();
            let words: Vec<String> = shuffled(1, 1, 300)
                .chunks(1)
                .map(|seed| {
                    (0..2 + seed[0] % longest)
                        .map(|at| letters[((seed[0] * 31 + at * at * 7) % letters.len() as u32) as usize])
                        .collect()
                })
                .collect();
            let line = |at: u64| {
                let order = shuffled(2, at, words.len());
                order.iter().take(9).map(|word| words[*word as usize / 2].clone()).collect::<Vec<_>>().join(" ")
            };
            let path = dir.join(name);
            std::fs::write(&path, (0..1500).map(|at| line(at) + "\n").collect::<String>()).unwrap();
            path
        };
        let files = [write("a.txt", "abcdefghijklm", 4), write("b.txt", "ابتثجحخدذرز", 9)];
        let plan = VocabularyPlan { vocab_size: 420, most_bytes: 60_000, ..VocabularyPlan::default() };
        let once = vocabulary(&files, &VocabularyPlan { rounds: 1, ..plan.clone() }).unwrap();
        let fair = vocabulary(&files, &plan).unwrap();
        assert_eq!(fair, vocabulary(&files, &plan).unwrap());
        assert!(fair.spread < once.spread, "{} {}", fair.spread, once.spread);
        let tokenizer = Tokenizer::from_tokenizer_json(&fair.file).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.special_id("[INST]")), (420, Some(4)));
        std::fs::write(dir.join("empty.jsonl"), "{}\n").unwrap();
        assert!(matches!(vocabulary(&[dir.join("empty.jsonl")], &plan), Err(TrainError::NoData)));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
