//! One JSON object that is a tool call, read character by character: the name as soon as it is known, then the
//! arguments as they come.

/// What a stretch of the object told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scanned {
    Begin { id: Option<String>, name: String },
    Arguments(String),
}

#[derive(Debug)]
pub(super) struct ObjectScanner {
    at: At,
    key: String,
    value: String,
    name: Option<String>,
    id: Option<String>,
    /// Arguments that came before the name.
    early: String,
    begun: bool,
    sent_arguments: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Open,
    Key,
    InKey { escaped: bool },
    Colon,
    Value,
    InValue { depth: usize, string: bool, escaped: bool, scalar: bool },
    AfterValue,
    Done,
    Broken,
}

impl ObjectScanner {
    pub fn new() -> Self {
        Self {
            at: At::Open,
            key: String::new(),
            value: String::new(),
            name: None,
            id: None,
            early: String::new(),
            begun: false,
            sent_arguments: false,
        }
    }

    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    pub fn is_broken(&self) -> bool {
        self.at == At::Broken
    }

    /// Whether a `Begin` has come out.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Reads up to the object's end; returns what it told and the text after it.
    pub fn read<'t>(&mut self, text: &'t str) -> (Vec<Scanned>, &'t str) {
        let mut out = Vec::new();
        for (at, c) in text.char_indices() {
            self.character(c, &mut out);
            if matches!(self.at, At::Done | At::Broken) {
                return (out, text.get(at + c.len_utf8()..).unwrap_or(""));
            }
        }
        (out, "")
    }

    fn character(&mut self, c: char, out: &mut Vec<Scanned>) {
        let space = c.is_ascii_whitespace();
        self.at = match (self.at, c) {
            (At::Open | At::Key | At::Colon | At::Value | At::AfterValue, _) if space => self.at,
            (At::Open, '{') => At::Key,
            (At::Key, '"') => {
                self.key.clear();
                At::InKey { escaped: false }
            }
            (At::Key | At::AfterValue, '}') => self.end(out),
            (At::InKey { escaped: false }, '"') => At::Colon,
            (At::InKey { escaped }, c) => {
                self.key.push(c);
                At::InKey { escaped: c == '\\' && !escaped }
            }
            (At::Colon, ':') => At::Value,
            (At::Value, c) => self.value_start(c, out),
            (At::InValue { depth, string, escaped, scalar }, c) => {
                self.value_character(c, depth, string, escaped, scalar, out)
            }
            (At::AfterValue, ',') => At::Key,
            _ => At::Broken,
        };
    }

    fn value_start(&mut self, c: char, out: &mut Vec<Scanned>) -> At {
        self.value.clear();
        match c {
            '{' | '[' => {
                self.value_push(c, true, out);
                At::InValue { depth: 1, string: false, escaped: false, scalar: false }
            }
            '"' => {
                self.value_push(c, false, out);
                At::InValue { depth: 0, string: true, escaped: false, scalar: false }
            }
            '}' | ']' | ',' | ':' => At::Broken,
            c => {
                self.value_push(c, false, out);
                At::InValue { depth: 0, string: false, escaped: false, scalar: true }
            }
        }
    }

    fn value_character(
        &mut self,
        c: char,
        depth: usize,
        string: bool,
        escaped: bool,
        scalar: bool,
        out: &mut Vec<Scanned>,
    ) -> At {
        if scalar {
            return match c {
                ',' => {
                    self.value_end(out);
                    At::Key
                }
                '}' => {
                    self.value_end(out);
                    self.end(out)
                }
                c if c.is_ascii_whitespace() => {
                    self.value_end(out);
                    At::AfterValue
                }
                c => {
                    self.value_push(c, false, out);
                    At::InValue { depth, string, escaped, scalar }
                }
            };
        }
        self.value_push(c, depth > 0, out);
        if string {
            return match c {
                _ if escaped => At::InValue { depth, string, escaped: false, scalar },
                '\\' => At::InValue { depth, string, escaped: true, scalar },
                '"' if depth == 0 => {
                    self.value_end(out);
                    At::AfterValue
                }
                '"' => At::InValue { depth, string: false, escaped, scalar },
                _ => At::InValue { depth, string, escaped, scalar },
            };
        }
        match c {
            '"' => At::InValue { depth, string: true, escaped, scalar },
            '{' | '[' => At::InValue { depth: depth + 1, string, escaped, scalar },
            '}' | ']' if depth == 1 => {
                self.value_end(out);
                At::AfterValue
            }
            '}' | ']' => At::InValue { depth: depth - 1, string, escaped, scalar },
            _ => At::InValue { depth, string, escaped, scalar },
        }
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    /// Arguments that are an object go on at once when the call has begun; all else is gathered.
    fn value_push(&mut self, c: char, nested: bool, out: &mut Vec<Scanned>) {
        if nested && self.is_arguments() && self.begun {
            self.sent_arguments = true;
            match out.last_mut() {
                Some(Scanned::Arguments(text)) => text.push(c),
                _ => out.push(Scanned::Arguments(c.to_string())),
            }
        } else {
            self.value.push(c);
        }
    }

    fn value_end(&mut self, out: &mut Vec<Scanned>) {
        let value = std::mem::take(&mut self.value);
        let text = || serde_json::from_str::<String>(&value).ok();
        if self.is_arguments() {
            if value.is_empty() {
                return;
            }
            // Some models write the arguments as a string that holds JSON.
            let value = text().unwrap_or(value);
            if self.begun {
                self.sent_arguments = true;
                out.push(Scanned::Arguments(value));
            } else {
                self.early = value;
            }
        } else if self.key == "id" && !self.begun {
            self.id = text();
        } else if self.key == "name" && !self.begun {
            self.name = text();
            if let Some(name) = self.name.clone() {
                self.begun = true;
                out.push(Scanned::Begin { id: self.id.take(), name });
                if !self.early.is_empty() {
                    self.sent_arguments = true;
                    out.push(Scanned::Arguments(std::mem::take(&mut self.early)));
                }
            }
        }
    }

    /// A call without arguments has empty ones.
    fn end(&mut self, out: &mut Vec<Scanned>) -> At {
        if self.begun && !self.sent_arguments {
            self.sent_arguments = true;
            out.push(Scanned::Arguments("{}".to_owned()));
        }
        At::Done
    }
}
