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

/// The colours of one ground.
struct Scheme {
    ground: &'static str,
    strong: &'static str,
    normal: &'static str,
    weak: &'static str,
    grid: &'static str,
    lines: [&'static str; COLOURS],
}

// On their ground, what is read has a contrast of 4.5 or more, and what is only looked at of 3 (WCAG 2.2, 1.4.3 and 1.4.11).
// Neighbours among the lines differ in lightness too.
const LIGHT: Scheme = Scheme {
    ground: "#ffffff",
    strong: "#1b1f24",
    normal: "#3d444d",
    weak: "#656d76",
    grid: "#8c959f",
    lines: ["#0a6c94", "#c2410c", "#3f7d20", "#7c3aed", "#8a5a00", "#be185d"],
};

const DARK: Scheme = Scheme {
    ground: "#12161b",
    strong: "#f0f3f6",
    normal: "#c6cdd5",
    weak: "#919ba6",
    grid: "#5f6873",
    lines: ["#56bdea", "#fb923c", "#8fd16a", "#bda4ff", "#e5b94e", "#f77fb4"],
};

fn style() -> String {
    format!(
        "{SHAPES}.faint{{opacity:{FAINT}}}{}@media(prefers-color-scheme:dark){{{}}}",
        colours(&LIGHT),
        colours(&DARK)
    )
}

fn colours(Scheme { ground, strong, normal, weak, grid, lines }: &Scheme) -> String {
    let mut css = format!(
        "text{{fill:{normal}}}.ground{{fill:{ground}}}.title{{fill:{strong}}}.weak{{fill:{weak}}}\
         .halo{{stroke:{ground}}}.grid{{stroke:{grid}}}.base,.guide{{stroke:{weak}}}.mark{{stroke:{strong}}}"
    );
    for (number, colour) in lines.iter().enumerate() {
        let _ = write!(
            css,
            "text.c{number},rect.c{number},circle.c{number}{{fill:{colour}}}path.c{number},line.c{number}{{stroke:{colour}}}"
        );
    }
    css
}

/// Grids are dots, so that they stay behind what is drawn although each can be seen.
const SHAPES: &str = "text{font:13px system-ui,sans-serif}.title{font-size:16px;font-weight:600}.small{font-size:12px}\
    path{fill:none;stroke-width:2;stroke-linejoin:round}.faint{stroke-width:1}.halo{stroke-width:4}.dashed{stroke-dasharray:6 4}\
    .grid{stroke-dasharray:1 4}.guide{stroke-dasharray:2 3}.mark{stroke-width:2.5}";

/// How much of its colour a pale line has.
const FAINT: f64 = 0.75;

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

    /// Source: WCAG 2.2, relative luminance of sRGB; each part from 0 to 255.
    fn luminance(colour: [f64; 3]) -> f64 {
        let linear = |part: f64| match part / 255.0 {
            part if part <= 0.04045 => part / 12.92,
            part => ((part + 0.055) / 1.055).powf(2.4),
        };
        let [red, green, blue] = colour.map(linear);
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
        let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
        (one / other).max(other / one)
    }

    fn parts(colour: &str) -> [f64; 3] {
        [1, 3, 5].map(|at| f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()))
    }

    #[test]
    fn contrast_is_that_of_the_specification() {
        assert!((contrast(parts("#000000"), parts("#ffffff")) - 21.0).abs() < 1e-9);
        // The lightest grey that text on white may have.
        assert!(contrast(parts("#767676"), parts("#ffffff")) > 4.5);
        assert!(contrast(parts("#777777"), parts("#ffffff")) < 4.5);
    }

    #[test]
    fn both_grounds_show_all_that_is_drawn_on_them() {
        for Scheme { ground, strong, normal, weak, grid, lines } in [LIGHT, DARK] {
            let on = |colour: [f64; 3]| contrast(colour, parts(ground));
            // Names of series have the colours of their lines.
            for text in [strong, normal, weak].into_iter().chain(lines) {
                assert!(on(parts(text)) >= 4.5, "{text} on {ground}: {}", on(parts(text)));
            }
            let pale = lines.map(|line| {
                let (line, ground) = (parts(line), parts(ground));
                [0, 1, 2].map(|part| FAINT * line[part] + (1.0 - FAINT) * ground[part])
            });
            for line in pale.into_iter().chain([parts(grid)]) {
                assert!(on(line) >= 3.0, "{line:?} on {ground}: {}", on(line));
            }
        }
    }

    #[test]
    fn a_file_has_the_colours_of_both_grounds() {
        let svg = Canvas::new(100.0, 50.0, "").finish();
        let (light, dark) = svg.split_once("@media(prefers-color-scheme:dark){").unwrap();
        assert!(light.contains(&colours(&LIGHT)) && dark.starts_with(&colours(&DARK)));
        assert_eq!(svg.matches('{').count(), svg.matches('}').count());
    }

    #[test]
    fn text_is_only_text() {
        assert!(
            drawn("</text><script>&\u{0}", Side::Middle).ends_with("&lt;/text&gt;&lt;script&gt;&amp;\u{fffd}</text>")
        );
    }
}
