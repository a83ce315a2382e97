//! An engine's event stream, cut where events end. Whole events go on at once and unchanged; what is held back is the beginning of
//! one that is still coming. Usage is read, and hidden from a caller that did not ask for it; the end is told apart.

use axum::body::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::answer::{Usage, Written};

#[derive(Debug, Default)]
pub(super) struct Events {
    held: Vec<u8>,
    hides_usage: bool,
    /// Of the last chunk that carried it.
    pub usage: Option<Usage>,
    /// Chunks that went on: about a token each.
    pub chunks: u64,
    /// The engine said that this was all.
    pub done: bool,
}

/// What is looked at of a chunk that may carry usage.
#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<IgnoredAny>>,
    usage: Option<Written>,
}

impl Events {
    pub(super) fn new(hides_usage: bool) -> Self {
        Self { hides_usage, ..Self::default() }
    }

    /// What may go on of everything that has come. What follows the end is dropped, and the end itself is the caller's to write.
    pub(super) fn take(&mut self, data: Bytes) -> Bytes {
        if self.done {
            return Bytes::new();
        }
        let mut data = match self.held.is_empty() {
            true => data,
            false => {
                self.held.extend_from_slice(&data);
                Bytes::from(std::mem::take(&mut self.held))
            }
        };
        let whole = whole(&data);
        if data.len() - whole <= HELD_BYTES {
            self.held = data.split_off(whole).to_vec();
        }
        let plain = memmem::find(&data, b"\"usage\"").is_none() && memmem::find(&data, END).is_none();
        if plain {
            self.chunks += memmem::find_iter(&data, b"data:").count() as u64;
            return data;
        }
        self.sift(data)
    }

    /// What came after the last whole event of a stream that has ended.
    pub(super) fn rest(&mut self) -> Bytes {
        let mut rest = std::mem::take(&mut self.held);
        match rest.is_empty() || self.done {
            true => Bytes::new(),
            false => {
                rest.extend_from_slice(b"\n\n");
                self.sift(rest.into())
            }
        }
    }

    /// Looks at each event.
    fn sift(&mut self, data: Bytes) -> Bytes {
        let mut kept: Vec<u8> = Vec::new();
        let mut left: &[u8] = &data;
        while let Some((event, rest)) = next(left) {
            left = rest;
            if self.goes_on(event) {
                kept.extend_from_slice(event);
            }
            if self.done {
                break;
            }
        }
        kept.into()
    }

    fn goes_on(&mut self, event: &[u8]) -> bool {
        let payload = payload(event);
        if payload == END {
            self.done = true;
            return false;
        }
        self.chunks += u64::from(!payload.is_empty());
        let Ok(Chunk { choices, usage: Some(usage) }) = serde_json::from_slice(payload) else { return true };
        self.usage = Some(usage.into());
        let only_usage = choices.is_none_or(|choices| choices.is_empty());
        self.chunks -= u64::from(only_usage);
        !(only_usage && self.hides_usage)
    }
}

/// Where the last whole event ends.
fn whole(data: &[u8]) -> usize {
    let ends = |at: &usize| {
        let before = data.get(..*at).unwrap_or_default();
        before.ends_with(b"\n") || before.ends_with(b"\n\r")
    };
    memchr::memrchr_iter(b'\n', data).find(ends).map_or(0, |at| at + 1)
}

/// The first event with its blank line, and what follows.
fn next(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let empty = |at: usize| {
        let after = data.get(at + 1..).unwrap_or_default();
        if after.starts_with(b"\n") {
            Some(at + 2)
        } else if after.starts_with(b"\r\n") {
            Some(at + 3)
        } else {
            None
        }
    };
    let end = memchr::memchr_iter(b'\n', data).find_map(empty).unwrap_or(data.len());
    data.split_at_checked(end).filter(|(event, _)| !event.is_empty())
}

/// Of the only `data:` line, as engines write them.
fn payload(event: &[u8]) -> &[u8] {
    let line = event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data:"));
    line.unwrap_or_default().trim_ascii()
}

const END: &[u8] = b"[DONE]";
/// An event longer than this goes on in pieces, unread.
const HELD_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"usage\\\" [DONE]\"}}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn passed(events: &mut Events, parts: &[&str]) -> String {
        let mut all = String::new();
        for part in parts {
            all.push_str(std::str::from_utf8(&events.take(Bytes::copy_from_slice(part.as_bytes()))).expect("UTF-8"));
        }
        all
    }

    #[test]
    fn whole_events_go_on_wherever_the_stream_is_cut() {
        let all = [TEXT, TEXT, USAGE, DONE, "data: more\n\n"].concat();
        for at in 0..all.len() {
            let (head, tail) = all.split_at(at);
            let mut events = Events::new(true);
            assert_eq!(passed(&mut events, &[head, tail]), [TEXT, TEXT].concat(), "cut at {at}");
            assert_eq!(events.usage, Some(Usage { prompt: 4, cached: 0, completion: 2 }));
            assert_eq!((events.chunks, events.done), (2, true));
        }
    }

    #[test]
    fn nothing_whole_waits() {
        let mut events = Events::new(false);
        assert_eq!(passed(&mut events, &[TEXT]), TEXT);
        assert_eq!(passed(&mut events, &["data: {"]), "");
        assert_eq!(passed(&mut events, &["}\r\n\r\ndata: x"]), "data: {}\r\n\r\n");
        assert_eq!(events.rest(), "data: x\n\n");
        assert_eq!(passed(&mut events, &[USAGE, DONE]), USAGE);
    }

    #[test]
    fn the_last_usage_counts_and_chunks_with_text_stay() {
        let mut events = Events::new(true);
        let early = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":1}}\n\n";
        let none = "data: {\"choices\":[{}],\"usage\":null}\n\n";
        assert_eq!(passed(&mut events, &[early, none]), [early, none].concat());
        assert_eq!(events.usage.map(|usage| usage.completion), Some(1));
        assert_eq!(passed(&mut events, &[USAGE]), "");
        assert_eq!((events.usage.map(|usage| usage.completion), events.chunks), (Some(2), 2));
    }
}
