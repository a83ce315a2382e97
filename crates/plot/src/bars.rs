//! Horizontal bars: rows of one bar per side, with the figure behind each, and a mark for what a row is measured against.

use crate::axis::{Axis, Scale, short};
use crate::canvas::{COLOURS, Canvas, MARGIN, Side, clipped, width_of};

/// Rows of bars that share one axis, which begins at 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bars {
    pub title: String,
    /// What the figures are, with their unit; stands below the title.
    pub axis: String,
    /// Behind each figure: ` %`, ` ×`.
    pub suffix: String,
    /// Names of the sides, one per bar of a row. With one side, none are written.
    pub sides: Vec<String>,
    /// What the rows' marks are. Empty: rows have none.
    pub mark: String,
    pub rows: Vec<Row>,
    /// A line through all rows: where 1 × or 100 % is.
    pub line: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub label: String,
    /// As many as there are sides. `None`: not measured.
    pub values: Vec<Option<f64>>,
    pub mark: Option<f64>,
}

impl Bars {
    /// The whole file.
    pub fn svg(&self) -> String {
        let labels: Vec<String> = self.rows.iter().map(|row| clipped(&row.label, LONGEST_LABEL)).collect();
        let left = MARGIN + labels.iter().map(|label| width_of(label)).fold(0.0, f64::max) + 8.0;
        let right = WIDTH - MARGIN - width_of(&format!("0000 {}", self.suffix));
        let values = self.rows.iter().flat_map(|row| row.values.iter().flatten().chain(&row.mark)).chain(&self.line);
        let scale = Scale::over(&Axis::default(), values.copied().filter(|value| *value >= 0.0).chain([0.0]), 6, false);
        let place = |value: f64| left + scale.share(value.max(0.0)) * (right - left);

        let sides = self.sides.len().max(1);
        let legend = sides > 1 || !self.mark.is_empty();
        let top = 62.0 + if legend { 22.0 } else { 0.0 };
        let row_height = sides as f64 * BAR + GAP;
        let bottom = top + self.rows.len() as f64 * row_height;
        let mut canvas = Canvas::new(WIDTH, bottom + 34.0, &self.title);
        canvas.words(MARGIN, 48.0, Side::Right, "weak small", &self.axis);
        if legend {
            self.legend(&mut canvas, 68.0);
        }
        for (value, text) in &scale.ticks {
            canvas.line((place(*value), top - 2.0), (place(*value), bottom), "grid");
            canvas.words(place(*value), bottom + 16.0, Side::Middle, "weak small", text);
        }
        if let Some(line) = self.line {
            canvas.line((place(line), top - 2.0), (place(line), bottom), "guide");
        }
        for (number, (row, label)) in self.rows.iter().zip(&labels).enumerate() {
            let y = top + number as f64 * row_height + GAP / 2.0;
            let height = sides as f64 * BAR;
            canvas.words(left - 8.0, y + height / 2.0 + 4.5, Side::Left, "", label);
            for (side, value) in row.values.iter().enumerate() {
                let y = y + side as f64 * BAR;
                let Some(value) = value.filter(|value| value.is_finite()) else { continue };
                canvas.rect(left, y + 1.0, (place(value) - left).max(1.0), BAR - 2.0, &format!("c{}", side % COLOURS));
                let text = format!("{}{}", short(value), self.suffix);
                let mut x = place(value) + 5.0;
                // A figure that the mark would strike through stands behind the mark.
                if let Some(mark) = row.mark.map(place).filter(|mark| *mark > x - 5.0 && *mark < x + width_of(&text)) {
                    x = mark + 5.0;
                }
                canvas.words(x, y + BAR / 2.0 + 4.5, Side::Right, "small", &text);
            }
            if let Some(mark) = row.mark {
                canvas.line((place(mark), y - 1.0), (place(mark), y + height + 1.0), "mark");
            }
        }
        canvas.line((left, top - 2.0), (left, bottom), "base");
        canvas.finish()
    }

    /// One line below the axis' words.
    fn legend(&self, canvas: &mut Canvas, y: f64) {
        let mut x = MARGIN;
        let sides = self.sides.iter().filter(|_| self.sides.len() > 1);
        for (side, name) in sides.enumerate() {
            let class = format!("c{}", side % COLOURS);
            canvas.rect(x, y - 9.0, 10.0, 10.0, &class);
            canvas.words(x + 15.0, y, Side::Right, "small", name);
            x += 15.0 + width_of(name) + 16.0;
        }
        if !self.mark.is_empty() {
            canvas.line((x + 3.0, y - 11.0), (x + 3.0, y + 3.0), "mark");
            canvas.words(x + 10.0, y, Side::Right, "small", &self.mark);
        }
    }
}

const WIDTH: f64 = 720.0;
const BAR: f64 = 17.0;
/// Between two rows.
const GAP: f64 = 9.0;
const LONGEST_LABEL: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn bars() -> Bars {
        let row = |label: &str, ours, peer, mark| Row { label: label.into(), values: vec![ours, peer], mark };
        Bars {
            title: "Speed".into(),
            axis: "tokens/s".into(),
            sides: vec!["ours".into(), "peer".into()],
            mark: "limit".into(),
            rows: vec![row("decode", Some(40.0), Some(20.0), Some(50.0)), row("<long>", Some(10.0), None, None)],
            ..Bars::default()
        }
    }

    fn widths(svg: &str) -> Vec<f64> {
        let bars = svg.lines().filter(|line| line.starts_with("<rect") && line.contains("height=\"15.0\""));
        bars.filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let svg = bars().svg();
        let widths = widths(&svg);
        assert_eq!(widths.len(), 3, "{svg}");
        assert!((widths[0] - 2.0 * widths[1]).abs() < 0.2 && (widths[0] - 4.0 * widths[2]).abs() < 0.3);
        assert!(svg.contains(">40</text>") && svg.contains("&lt;long&gt;") && svg.contains(">limit</text>"));
        // The legend's and the row's.
        assert_eq!(svg.matches("class=\"mark\"").count(), 2);
    }

    #[test]
    fn one_side_needs_no_legend() {
        let mut bars = Bars { mark: String::new(), suffix: " %".into(), line: Some(100.0), ..bars() };
        bars.sides.clear();
        bars.rows.iter_mut().for_each(|row| row.values.truncate(1));
        let svg = bars.svg();
        assert!(!svg.contains(">ours<") && svg.contains(">40 %</text>") && svg.contains("guide"));
        assert!(Bars::default().svg().ends_with("</svg>\n"));
    }
}
