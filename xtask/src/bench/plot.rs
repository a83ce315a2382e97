//! Draws rows as SVG: a bar per case for the ratio to the peer with a mark where the target is, and a bar for the share
//! of the machine's limit. Made from the JSON alone, readable on light and dark ground.

use std::fmt::Write;

use super::rows::{Row, TargetOf};

/// Bars of `ratio`, a tick at each row's target.
pub fn ratios(title: &str, rows: &[&Row]) -> String {
    let bars = rows.iter().filter_map(|row| {
        let ratio = row.ratio()?;
        let target = row.target.filter(|target| target.of == TargetOf::Ratio).map(|target| target.value);
        Some(Bar { label: row.case.clone(), value: ratio, mark: target, text: format!("{ratio:.2} ×") })
    });
    draw(title, "times the peer; the mark is what was asked for", &bars.collect::<Vec<_>>(), Some(1.0))
}

/// Bars of `limit_share` in per cent.
pub fn limits(title: &str, rows: &[&Row]) -> String {
    let bars = rows.iter().filter_map(|row| {
        let share = row.limit_share? * 100.0;
        Some(Bar { label: row.case.clone(), value: share, mark: None, text: format!("{share:.0} %") })
    });
    draw(title, "per cent of what memory or arithmetic of this machine allow", &bars.collect::<Vec<_>>(), Some(100.0))
}

struct Bar {
    label: String,
    value: f64,
    mark: Option<f64>,
    text: String,
}

fn draw(title: &str, axis: &str, bars: &[Bar], line: Option<f64>) -> String {
    let most = bars.iter().flat_map(|bar| [bar.value, bar.mark.unwrap_or(0.0)]).chain(line).fold(1e-9, f64::max);
    let width = |value: f64| value / most * (WIDTH - LEFT - RIGHT);
    let bottom = TOP + bars.len() as f64 * STEP;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {:.0}" font-family="sans-serif" font-size="13" role="img">"#,
        bottom + 30.0
    );
    let _ = writeln!(svg, "<title>{}</title>\n<style>{STYLE}</style>", escaped(title));
    let _ = writeln!(svg, r#"<text x="8" y="20" class="t" font-size="15">{}</text>"#, escaped(title));
    for (number, bar) in bars.iter().enumerate() {
        let y = TOP + number as f64 * STEP;
        let middle = y + STEP / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            r#"<text x="{:.0}" y="{middle:.0}" class="t" text-anchor="end">{}</text>"#,
            LEFT - 8.0,
            escaped(&bar.label)
        );
        let class = if bar.mark.is_some_and(|mark| bar.value < mark) { "b m" } else { "b" };
        let _ = writeln!(
            svg,
            r#"<rect x="{LEFT:.0}" y="{:.0}" width="{:.1}" height="{:.0}" class="{class}"/>"#,
            y + 3.0,
            width(bar.value).max(1.0),
            STEP - 6.0
        );
        if let Some(mark) = bar.mark {
            let x = LEFT + width(mark);
            let _ = writeln!(
                svg,
                r#"<line x1="{x:.1}" x2="{x:.1}" y1="{:.0}" y2="{:.0}" class="k"/>"#,
                y + 1.0,
                y + STEP - 1.0
            );
        }
        let x = LEFT + width(bar.value.max(bar.mark.unwrap_or(0.0))) + 6.0;
        let _ = writeln!(svg, r#"<text x="{x:.0}" y="{middle:.0}" class="t">{}</text>"#, escaped(&bar.text));
    }
    if let Some(line) = line {
        let x = LEFT + width(line);
        let _ = writeln!(svg, r#"<line x1="{x:.1}" x2="{x:.1}" y1="{:.0}" y2="{bottom:.0}" class="l"/>"#, TOP - 2.0);
    }
    let _ = writeln!(
        svg,
        r#"<text x="{LEFT:.0}" y="{:.0}" class="t" font-size="12">{}</text>"#,
        bottom + 18.0,
        escaped(axis)
    );
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 200.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 36.0;
const STEP: f64 = 22.0;
/// Colours that hold on light and on dark ground; `m` is a bar that misses its mark.
const STYLE: &str = ".t{fill:#777}.b{fill:#2a7f8e}.m{fill:#c7812f}.k{stroke:#b03050;stroke-width:3}.l{stroke:#777;stroke-dasharray:3 3}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::{Better, Spread, Target};

    #[test]
    fn a_row_is_a_bar_with_its_mark() {
        let row = Row {
            case: "decode/q4_0 <a>".into(),
            unit: "tokens/s".into(),
            better: Better::Higher,
            ours: Spread::of(&[20.0]).expect("a sample"),
            peer: Spread::of(&[10.0]),
            target: Some(Target { value: 4.0, of: TargetOf::Ratio }),
            limit_share: Some(0.5),
            flagged: false,
            note: String::new(),
        };
        let svg = ratios("Speed", &[&row]);
        // Half as long as the mark is far, and said to miss it.
        assert!(svg.contains(r#"width="245.0""#) && svg.contains(r#"x1="690.0""#), "{svg}");
        assert!(svg.contains("b m") && svg.contains("2.00 ×") && svg.contains("decode/q4_0 &lt;a&gt;"));
        assert!(limits("Limits", &[&row]).contains("50 %"));
        let alone = Row { peer: None, ..row };
        assert!(!ratios("Speed", &[&alone]).contains("<rect"));
    }
}
