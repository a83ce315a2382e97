//! Writing to people and programs. Standard output carries results, standard error everything else. A reader that
//! leaves (`falaj model list | head -1`) ends the program quietly.

use std::io::{self, IsTerminal, Write};

/// One line on standard output.
pub fn line(text: &str) {
    write_out(text, true);
}

/// Text on standard output as it comes, flushed.
pub fn piece(text: &str) {
    write_out(text, false);
}

/// One line on standard error.
pub fn note(text: &str) {
    // Nothing sensible can be done when standard error is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

pub fn json(value: &serde_json::Value) {
    line(&value.to_string());
}

pub fn pretty_json(value: &serde_json::Value) {
    line(&format!("{value:#}"));
}

/// `1536` → `1.5 KiB`. Digits stay Western in all three languages, as in commands and logs.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `7_241_732_096` → `7.24 B`.
pub fn parameters(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.2} B", count as f64 / 1e9),
    }
}

/// `3661` → `1:01:01`, hours first.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Columns padded to the widest cell, two spaces apart; the last column is left as it is.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    for row in rows {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < columns {
                let pad = width(column).unwrap_or(0) + 2 - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', pad));
            }
        }
        line(text.trim_end());
    }
}

/// What a model wrote, without what could drive the terminal: escape sequences and other control characters go, line
/// breaks, tabs and the marks that order right-to-left text stay.
pub fn printable(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || c == '\t' || !c.is_control()).collect()
}

/// Whether to use colour: a terminal, and nobody said no (<https://no-color.org>).
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn write_out(text: &str, newline: bool) {
    let mut out = io::stdout().lock();
    let result = out.write_all(text.as_bytes());
    let result = result.and_then(|()| if newline { out.write_all(b"\n") } else { Ok(()) }).and_then(|()| out.flush());
    if let Err(error) = result {
        if error.kind() != io::ErrorKind::BrokenPipe {
            note(&format!("standard output: {error}"));
            std::process::exit(1);
        }
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(16 * 1024 * 1024), "16.0 MiB");
        assert_eq!(parameters(7_241_732_096), "7.24 B");
        assert_eq!(parameters(12_600_000), "12.6 M");
        assert_eq!([clock(0.2), clock(61.0), clock(360_000.0)], ["0:00:00", "0:01:01", "100:00:00"]);
    }

    #[test]
    fn a_model_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}]0;owned\u{7}b\r\nفلج\u{200f}\u{9b}2J"), "a]0;ownedb\nفلج\u{200f}2J");
    }
}
