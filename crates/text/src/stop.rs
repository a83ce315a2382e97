//! Finds stop strings in streamed text, and holds back no more than what could still become one.

/// Watches for stop strings across pieces of text. Bytes leave as soon as no stop string can begin in them.
#[derive(Debug, Clone)]
pub struct StopFinder {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

/// What one piece of text released.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopStep {
    /// Text that is safe to send.
    pub emit: String,
    /// The index of the stop string that was reached; nothing follows it.
    pub stopped: Option<usize>,
}

impl StopFinder {
    /// Empty strings never match.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece. The stop string that starts first wins; among equals, the one that was given first.
    pub fn push(&mut self, text: &str) -> StopStep {
        if self.stopped {
            return StopStep::default();
        }
        if self.stops.iter().all(String::is_empty) {
            return StopStep { emit: text.to_owned(), stopped: None };
        }
        self.held.push_str(text);
        let found = self.first_match();
        let limit = self.first_open_prefix();
        // A stop that starts later must not win over one that started earlier and may still complete.
        if let Some((at, which)) = found.filter(|(at, _)| *at <= limit) {
            self.stopped = true;
            let mut emit = std::mem::take(&mut self.held);
            emit.truncate(at);
            return StopStep { emit, stopped: Some(which) };
        }
        let rest = self.held.split_off(limit);
        StopStep { emit: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// The text held back, at the end of the stream; a complete stop string in it still ends the text.
    pub fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        if let Some((at, _)) = first_match(&self.stops, &text) {
            self.stopped = true;
            text.truncate(at);
        }
        text
    }

    fn first_match(&self) -> Option<(usize, usize)> {
        first_match(&self.stops, &self.held)
    }

    /// The earliest position from which the held text is a proper prefix of a stop string; its length if none.
    fn first_open_prefix(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        self.held
            .char_indices()
            .map(|(at, _)| at)
            .filter(|at| *at >= from)
            .find(|at| {
                let tail = self.held.get(*at..).unwrap_or("");
                self.stops.iter().any(|stop| stop.len() > tail.len() && stop.starts_with(tail))
            })
            .unwrap_or(self.held.len())
    }
}

fn first_match(stops: &[String], text: &str) -> Option<(usize, usize)> {
    stops
        .iter()
        .enumerate()
        .filter(|(_, stop)| !stop.is_empty())
        .filter_map(|(which, stop)| text.find(stop.as_str()).map(|at| (at, which)))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut finder = StopFinder::new(stops.iter().map(ToString::to_string).collect());
        let mut out = String::new();
        for piece in pieces {
            let step = finder.push(piece);
            out.push_str(&step.emit);
            if step.stopped.is_some() {
                return (out, step.stopped);
            }
        }
        out.push_str(&finder.finish());
        (out, None)
    }

    #[test]
    fn holds_back_only_prefixes() {
        let mut finder = StopFinder::new(vec!["###".into()]);
        assert_eq!(finder.push("a#b#"), StopStep { emit: "a#b".into(), stopped: None });
        assert_eq!(finder.push("#"), StopStep::default());
        assert_eq!(finder.push("#x"), StopStep { emit: String::new(), stopped: Some(0) });
    }

    #[test]
    fn earliest_start_wins() {
        assert_eq!(run(&["bc", "abcd"], &["xab", "c", "d"]), ("x".into(), Some(1)));
        assert_eq!(run(&["bc", "abcd"], &["xabc", "e"]), ("xa".into(), Some(0)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(text in "[abسé]{0,24}", stops in prop::collection::vec("[abسé]{1,4}", 1..4), cuts in prop::collection::vec(0usize..24, 0..6)) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(chars.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([chars.len()]) {
                pieces.push(chars[from..cut].iter().collect::<String>());
                from = cut;
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (split, _) = run(&stops, &pieces);
            let expected = stops.iter().filter_map(|s| text.find(s)).min().map_or(text.as_str(), |at| &text[..at]);
            prop_assert_eq!(split, expected);
        }
    }
}
