//! The books: paragraphs to learn from and paragraphs that are held out, sentences to quote, words and names that occur in them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::chance::Chance;
use super::phrases::Language;

pub struct Book {
    pub language: Language,
    /// Neighbouring paragraphs, a block at a time.
    pub train: Vec<Vec<String>>,
    pub held: Vec<String>,
    /// Whole sentences of a handy length, from the training paragraphs.
    pub sentences: Vec<String>,
    /// Words of 3 letters and more, the frequent ones more often.
    words: Vec<String>,
    /// What is written with a capital inside sentences and almost never without; empty for Arabic.
    names: Vec<String>,
}

impl Book {
    /// `folder/en.txt` and so on: a paragraph a line.
    pub fn read(folder: &Path, language: Language) -> Result<Self> {
        let path = folder.join(format!("{}.txt", language.code()));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let (mut train, mut held) = (Vec::new(), Vec::new());
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (number, block) in lines.chunks(BLOCK).enumerate() {
            let block = block.iter().filter(|line| !line.is_empty()).map(|line| (*line).to_owned());
            if number % EVERY == HELD {
                held.extend(block);
            } else {
                train.push(block.collect());
            }
        }
        let sentences: Vec<String> = train.iter().flatten().flat_map(|text: &String| sentences(text)).collect();
        let (words, names) = vocabulary(&sentences);
        let names = if language == Language::Ar { Vec::new() } else { names };
        Ok(Self { language, train, held, sentences, words, names })
    }

    pub fn sentence<'a>(&'a self, chance: &mut Chance) -> &'a str {
        chance.pick(&self.sentences).as_str()
    }

    /// Between `least` and `most` words that follow each other in a sentence, without marks at the ends.
    pub fn fragment(&self, chance: &mut Chance, least: usize, most: usize) -> String {
        loop {
            let words: Vec<&str> = self.sentence(chance).split(' ').collect();
            let count = chance.between(least, most).min(words.len());
            let from = chance.below(words.len() - count + 1);
            let text = words[from..from + count].join(" ");
            let text = text.trim_matches(|c: char| !c.is_alphanumeric());
            if !text.is_empty() {
                return text.to_owned();
            }
        }
    }

    pub fn word<'a>(&'a self, chance: &mut Chance) -> &'a str {
        chance.pick(&self.words).as_str()
    }

    pub fn words(&self, chance: &mut Chance, count: usize) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        while words.len() < count {
            let word = self.word(chance).to_owned();
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words
    }

    pub fn name<'a>(&'a self, chance: &mut Chance) -> Option<&'a str> {
        (!self.names.is_empty()).then(|| chance.pick(&self.names).as_str())
    }

    pub fn is_name(&self, word: &str) -> bool {
        self.names.binary_search_by(|name| name.as_str().cmp(word)).is_ok()
    }
}

/// Those of a paragraph that have 5 to 30 words and no quotation that opens or closes elsewhere.
fn sentences(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut from, mut last) = (0, ' ');
    for (at, letter) in text.char_indices() {
        let ends = matches!(last, '.' | '!' | '?' | '؟' | '…') && letter == ' ';
        if ends {
            found.push(&text[from..at]);
            from = at + 1;
        }
        last = letter;
    }
    found.push(&text[from..]);
    let handy = |text: &&str| {
        let words = text.split(' ').count();
        let marks = |set: &[char]| text.matches(set).count();
        (5..=30).contains(&words)
            && text.ends_with(['.', '!', '?', '؟'])
            && text.chars().next().is_some_and(char::is_alphabetic)
            && marks(&['"', '_', '*', '[', ']', '«', '»', '(', ')', '{', '}', '|']) == 0
            && !text.contains("--")
    };
    found.into_iter().filter(handy).map(str::to_owned).collect()
}

fn vocabulary(sentences: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut counts, mut small) = (HashMap::<&str, usize>::new(), HashSet::new());
    for sentence in sentences {
        for word in sentence.split(' ').skip(1) {
            let word = word.trim_matches(|c: char| !c.is_alphabetic());
            if word.chars().count() < 3 || !word.chars().all(char::is_alphabetic) {
                continue;
            }
            if word.chars().next().is_some_and(char::is_uppercase) {
                *counts.entry(word).or_default() += 1;
            } else {
                *counts.entry(word).or_default() += 1;
                small.insert(word);
            }
        }
    }
    let mut sorted: Vec<(&str, usize)> = counts.into_iter().filter(|(_, count)| *count > 1).collect();
    sorted.sort_unstable();
    let (mut words, mut names) = (Vec::new(), Vec::new());
    for (word, count) in sorted {
        let big = word.chars().next().is_some_and(char::is_uppercase);
        if big && word.chars().any(char::is_lowercase) && !small.contains(word.to_lowercase().as_str()) {
            names.push(word.to_owned());
        } else if !big {
            // Flat enough that rare words come, too.
            words.extend(std::iter::repeat_n(word.to_owned(), (count as f64).sqrt() as usize));
        }
    }
    (words, names)
}

/// Paragraphs of a block; one block in EVERY is held out, at fixed places, so that every book is on both sides.
const BLOCK: usize = 32;
const EVERY: usize = 50;
const HELD: usize = 7;
