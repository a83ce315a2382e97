//! Cuts a file into rows without trusting it: JSON lines, one JSON list of rows, or plain text. Memory is bounded by the
//! longest row that is allowed, whatever the file holds.

use std::io::{self, BufRead};

use super::{BadLine, Reason};

/// One row as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    /// Where it begins, from 1.
    pub line: u64,
    pub text: &'a str,
    /// A row of JSON, or plain text.
    pub json: bool,
    /// Whether a document begins and ends with this row; only plain text goes on over several.
    pub begins: bool,
    pub ends: bool,
}

/// A row may be a whole book.
pub const MOST_LINE_BYTES: usize = 16 << 20;

/// The rows of a file, one after another.
pub struct Lines<R> {
    reader: R,
    layout: Layout,
    /// Of the next byte, from 1.
    line: u64,
    row: Vec<u8>,
    started: bool,
    /// The last row ended its document.
    ended: bool,
    most_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Lines,
    List,
    Plain,
}

impl<R: BufRead> Lines<R> {
    /// `plain`: the file is text, not JSON.
    pub fn new(reader: R, plain: bool) -> Self {
        let layout = if plain { Layout::Plain } else { Layout::Lines };
        Self { reader, layout, line: 1, row: Vec::new(), started: false, ended: true, most_bytes: MOST_LINE_BYTES }
    }

    /// The next row that is not blank, or why it cannot be read; None at the end.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn next_row(&mut self) -> io::Result<Option<Result<Raw<'_>, BadLine>>> {
        if !self.started {
            self.started = true;
            if let Some(bad) = self.begin()? {
                return Ok(Some(Err(bad)));
            }
        }
        let found = match self.layout {
            Layout::Lines => self.json_line()?,
            Layout::List => self.list_item()?,
            Layout::Plain => self.piece()?,
        };
        let Some((line, fits, ends)) = found else { return Ok(None) };
        let json = self.layout != Layout::Plain;
        let begins = std::mem::replace(&mut self.ended, ends);
        if !fits {
            return Ok(Some(Err(BadLine { line, reason: Reason::TooLong { most_bytes: self.most_bytes } })));
        }
        Ok(Some(match std::str::from_utf8(&self.row) {
            Ok(text) => Ok(Raw { line, text: text.trim_matches([' ', '\t', '\r', '\n']), json, begins, ends }),
            Err(error) => Err(BadLine { line, reason: Reason::NotUtf8 { byte: error.valid_up_to() + 1 } }),
        }))
    }

    /// Skips a mark of byte order and finds out whether the file is one list.
    fn begin(&mut self) -> io::Result<Option<BadLine>> {
        let start = self.reader.fill_buf()?;
        if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
            // UTF-16 has a line break inside half of its characters: nothing more can be said of such a file.
            self.skip_all()?;
            return Ok(Some(BadLine { line: 1, reason: Reason::NotUtf8 { byte: 1 } }));
        }
        if start.starts_with(&[0xef, 0xbb, 0xbf]) {
            self.reader.consume(3);
        }
        if self.layout == Layout::Plain {
            return Ok(None);
        }
        while let Some(byte) = self.peek()? {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => self.take_byte(byte),
                b'[' => {
                    self.take_byte(byte);
                    self.layout = Layout::List;
                    return Ok(None);
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Line number, whether it fits, whether the document ends.
    fn json_line(&mut self) -> io::Result<Option<(u64, bool, bool)>> {
        loop {
            let line = self.line;
            let Some(fits) = self.read_line()? else { return Ok(None) };
            if !fits || self.row.iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Ok(Some((line, fits, true)));
            }
        }
    }

    /// Into `row`, without its end; whether it fits. None at the end of the file.
    fn read_line(&mut self) -> io::Result<Option<bool>> {
        self.row.clear();
        let (mut any, mut fits) = (false, true);
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                return Ok(any.then_some(fits));
            }
            any = true;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
            if self.row.len() + part.len() > self.most_bytes {
                (fits, self.row) = (false, Vec::new());
            } else if fits {
                self.row.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                self.line += 1;
                return Ok(Some(fits));
            }
        }
    }

    /// The bytes of the list's next item. Only brackets and quotes are looked at; what is between them is the parser's.
    fn list_item(&mut self) -> io::Result<Option<(u64, bool, bool)>> {
        self.row.clear();
        while let Some(byte) = self.peek()? {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => self.take_byte(byte),
                b']' => {
                    // What stands behind the list is read as lines: it is not JSON, and is told so.
                    self.take_byte(byte);
                    self.layout = Layout::Lines;
                    return self.json_line();
                }
                _ => break,
            }
        }
        let line = self.line;
        let (mut depth, mut quoted, mut escaped, mut fits) = (0_usize, false, false, true);
        while let Some(byte) = self.peek()? {
            if depth == 0 && !quoted && matches!(byte, b',' | b']') && !self.row.is_empty() {
                return Ok(Some((line, fits, true)));
            }
            self.take_byte(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
            if self.row.len() < self.most_bytes {
                self.row.push(byte);
            } else {
                fits = false;
            }
        }
        Ok((!self.row.is_empty()).then_some((line, fits, true)))
    }

    /// Lines up to a blank one, or as many as a piece may have.
    fn piece(&mut self) -> io::Result<Option<(u64, bool, bool)>> {
        let (mut text, mut first) = (Vec::new(), None);
        loop {
            let line = self.line;
            let Some(fits) = self.read_line()? else { break };
            if !fits {
                return Ok(Some((line, false, true)));
            }
            if self.row.iter().all(u8::is_ascii_whitespace) {
                if first.is_some() {
                    break;
                }
                continue;
            }
            if first.is_none() {
                first = Some(line);
            } else {
                text.push(b'\n');
            }
            text.append(&mut self.row);
            if text.len() >= PIECE_BYTES {
                let next = self.peek()?;
                self.row = text;
                return Ok(first.map(|first| (first, true, matches!(next, None | Some(b'\n' | b'\r')))));
            }
        }
        self.row = text;
        Ok(first.map(|first| (first, true, true)))
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.reader.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_byte(&mut self, byte: u8) {
        self.line += u64::from(byte == b'\n');
        self.reader.consume(1);
    }

    fn skip_all(&mut self) -> io::Result<()> {
        while let len @ 1.. = self.reader.fill_buf()?.len() {
            self.reader.consume(len);
        }
        Ok(())
    }
}

/// Plain text is taken in pieces of about this size.
const PIECE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: &[u8], plain: bool) -> Vec<String> {
        let mut lines = Lines::new(io::BufReader::with_capacity(7, bytes), plain);
        lines.most_bytes = 40;
        let mut rows = Vec::new();
        while let Some(row) = lines.next_row().unwrap() {
            rows.push(match row {
                Ok(raw) => format!("{} {}{}", raw.line, raw.text, if raw.ends { "" } else { " …" }),
                Err(bad) => format!("{}: {}", bad.line, bad.reason),
            });
        }
        rows
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = b"\xef\xbb\xbf{\"a\":1}\r\n\r\n  {\"b\":2}\n\n\n{\"c\"";
        assert_eq!(rows(text, false), ["1 {\"a\":1}", "3 {\"b\":2}", "6 {\"c\""]);
        assert_eq!(rows(b"", false), Vec::<String>::new());
        assert_eq!(rows(b"\n\n", false), Vec::<String>::new());
    }

    #[test]
    fn long_and_foreign_lines_are_told_and_passed_over() {
        let text = [&b"{}\n"[..], &[b'x'; 41], b"\n{\"\xff\"}\n{}"].concat();
        let found = rows(&text, false);
        assert_eq!(found.len(), 4);
        assert!(found[1].starts_with("2: it is longer than 40 bytes"), "{}", found[1]);
        assert_eq!(found[2], "3: it is not UTF-8, from byte 3 on");
        assert_eq!(found[3], "4 {}");
        assert_eq!(rows(b"\xff\xfe{\0}\0\n\0", false), ["1: it is not UTF-8, from byte 1 on"]);
    }

    #[test]
    fn a_list_is_cut_at_its_items() {
        let text = b" \n[\n {\"a\": \"]},\\\"{\"},\n\n {\"b\": [1,\n {}]}\n, 3 ]\n";
        assert_eq!(rows(text, false), ["3 {\"a\": \"]},\\\"{\"}", "5 {\"b\": [1,\n {}]}", "7 3"]);
        assert_eq!(rows(b"[]", false), Vec::<String>::new());
        assert_eq!(rows(b"[{\"a\"", false), ["1 {\"a\""]);
        assert_eq!(rows(b"[{}]\nrest", false), ["1 {}", "2 rest"]);
        assert_eq!(rows(b"[}]}", false).len(), 2);
    }

    #[test]
    fn plain_text_is_cut_at_blank_lines() {
        assert_eq!(rows(b"one\ntwo\r\n\n\n three\n", true), ["1 one\ntwo", "5 three"]);
        let book: Vec<u8> = std::iter::repeat_n(&b"0123456789012345678901234567890\n"[..], PIECE_BYTES / 16)
            .flatten()
            .copied()
            .collect();
        let pieces = rows(&book, true);
        assert_eq!(pieces.len(), 2);
        assert!(pieces[0].ends_with('…') && !pieces[1].ends_with('…'));
    }
}
