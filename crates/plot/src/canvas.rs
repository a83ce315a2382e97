//! SVG text: elements, escaping, directions, and the style that both kinds of chart share.

use std::fmt::Write;

/// A picture being written. Coordinates are CSS pixels of its view box.
pub(crate) struct Canvas {
    text: String,
}

/// On which side of its place a text stands, whatever its direction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Right,
    Left,
    Middle,
}

/// How many colours there are; `c0`, `c1`, … name them.
pub(crate) const COLOURS: usize = 6;

impl Canvas {
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n"
        );
        let _ = writeln!(text, "<title>{}</title>\n<style>{}</style>", escaped(title), style());
        let _ = writeln!(text, "<rect class=\"ground\" width=\"{width:.0}\" height=\"{height:.0}\"/>");
        let mut canvas = Self { text };
        let (x, side) = if is_rtl(title) { (width - MARGIN, Side::Left) } else { (MARGIN, Side::Right) };
        canvas.words(x, 26.0, side, "title", title);
        canvas
    }

    /// `class` is one of the style's.
    pub fn words(&mut self, x: f64, y: f64, side: Side, class: &str, words: &str) {
        if words.is_empty() {
            return;
        }
        // `start` is where reading begins: on the right of Arabic.
        let (rtl, direction) = match is_rtl(words) {
            true => (true, " direction=\"rtl\" unicode-bidi=\"embed\""),
            false => (false, ""),
        };
        let anchor = match side {
            Side::Middle => " text-anchor=\"middle\"",
            Side::Right if rtl => " text-anchor=\"end\"",
            Side::Left if !rtl => " text-anchor=\"end\"",
            _ => "",
        };
        let words = escaped(words);
        let _ =
            writeln!(self.text, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\"{anchor}{direction}>{words}</text>");
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.text,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        let _ = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\"/>"
        );
    }

    pub fn dot(&mut self, (x, y): (f64, f64), class: &str) {
        let _ = writeln!(self.text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" class=\"{class}\"/>");
    }

    /// One stroke through all places.
    pub fn path(&mut self, places: &[(f64, f64)], class: &str) {
        let mut path = String::new();
        for (number, (x, y)) in places.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if number == 0 { "M" } else { "L" });
        }
        let _ = writeln!(self.text, "<path d=\"{path}\" class=\"{class}\"/>");
    }

    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

/// About how wide words of the normal size are: no font is at hand, and a little too much room hurts nobody.
pub(crate) fn width_of(words: &str) -> f64 {
    words.chars().map(|letter| if letter > '\u{2e7f}' { 13.0 } else { 7.8 }).sum()
}

/// At most so many letters, with an ellipsis for the rest.
pub(crate) fn clipped(words: &str, letters: usize) -> String {
    if words.chars().count() <= letters {
        return words.to_owned();
    }
    words.chars().take(letters.saturating_sub(1)).chain(['…']).collect()
}

/// Whether the first letter that has a direction is of a script written from right to left.
fn is_rtl(words: &str) -> bool {
    let rtl =
        |letter: char| matches!(letter, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}');
    words.chars().find(|letter| letter.is_alphabetic()).is_some_and(rtl)
}

/// XML knows no control characters, not even escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

fn style() -> String {
    // Each colour has a contrast of 4.5 to its ground or more, and neighbours differ in lightness too.
    let light = colours(
        ["#ffffff", "#1b1f24", "#3d444d", "#656d76", "#e4e7eb"],
        ["#0a6c94", "#c2410c", "#3f7d20", "#7c3aed", "#8a5a00", "#be185d"],
    );
    let dark = colours(
        ["#12161b", "#f0f3f6", "#c6cdd5", "#919ba6", "#2a3038"],
        ["#56bdea", "#fb923c", "#8fd16a", "#bda4ff", "#e5b94e", "#f77fb4"],
    );
    format!("{SHAPES}{light}@media(prefers-color-scheme:dark){{{dark}}}")
}

fn colours([ground, strong, normal, weak, grid]: [&str; 5], lines: [&str; COLOURS]) -> String {
    let mut css = format!(
        "text{{fill:{normal}}}.ground{{fill:{ground}}}.title{{fill:{strong}}}.weak{{fill:{weak}}}\
         .grid{{stroke:{grid}}}.base,.guide{{stroke:{weak}}}.mark{{stroke:{strong}}}"
    );
    for (number, colour) in lines.into_iter().enumerate() {
        let _ = write!(
            css,
            "text.c{number},rect.c{number},circle.c{number}{{fill:{colour}}}path.c{number},line.c{number}{{stroke:{colour}}}"
        );
    }
    css
}

const SHAPES: &str = "text{font:13px system-ui,sans-serif}.title{font-size:16px;font-weight:600}.small{font-size:12px}\
    path{fill:none;stroke-width:2;stroke-linejoin:round}.faint{stroke-width:1;opacity:.35}.dashed{stroke-dasharray:6 4}\
    .guide{stroke-dasharray:2 3}.mark{stroke-width:2.5}";

/// Around everything.
pub(crate) const MARGIN: f64 = 16.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(words: &str, side: Side) -> String {
        let mut canvas = Canvas::new(100.0, 50.0, "");
        canvas.words(5.0, 6.0, side, "weak", words);
        canvas.finish().lines().find(|line| line.starts_with("<text")).unwrap_or_default().to_owned()
    }

    #[test]
    fn arabic_has_its_direction_and_stays_in_its_place() {
        assert_eq!(drawn("loss", Side::Right), "<text x=\"5.0\" y=\"6.0\" class=\"weak\">loss</text>");
        let arabic = drawn("3.2 الخسارة", Side::Right);
        assert!(arabic.contains("direction=\"rtl\"") && arabic.contains("text-anchor=\"end\""), "{arabic}");
        assert!(!drawn("الخسارة", Side::Left).contains("text-anchor"));
        assert!(drawn("Llama الخسارة", Side::Left).contains("text-anchor=\"end\">"));
    }

    #[test]
    fn text_is_only_text() {
        assert!(
            drawn("</text><script>&\u{0}", Side::Middle).ends_with("&lt;/text&gt;&lt;script&gt;&amp;\u{fffd}</text>")
        );
    }
}
