//! Line charts: series over a number, each named where it ends instead of in a legend.

use crate::axis::{Axis, Scale};
use crate::canvas::{COLOURS, Canvas, MARGIN, Side, clipped, width_of};

/// Lines over a number. Series that share a chart share both axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    /// The first has the first colour; from the seventh on colours return, dashed.
    pub series: Vec<Series>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Stands where the line ends.
    pub name: String,
    /// In the order in which they are joined. What is not finite, or not positive on a logarithmic axis, is a gap.
    pub points: Vec<(f64, f64)>,
    pub style: Style,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Line,
    /// Thin and pale, without a name, in the colour of the series after it: what that one smooths.
    Faint,
    /// A line with a dot at every point: few points, such as evaluations.
    Dots,
}

impl Series {
    pub fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, style: Style::Line }
    }

    pub fn dots(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, style: Style::Dots }
    }

    pub fn faint(points: Vec<(f64, f64)>) -> Self {
        Self { name: String::new(), points, style: Style::Faint }
    }
}

/// Each point's mean with up to `radius` neighbours on each side, as many on the one as on the other, so that ends are not
/// pulled inwards.
pub fn smooth(points: &[(f64, f64)], radius: usize) -> Vec<(f64, f64)> {
    let mean = |(at, (x, _)): (usize, &(f64, f64))| {
        let radius = radius.min(at).min(points.len() - 1 - at);
        let near = &points[at - radius..=at + radius];
        (*x, near.iter().map(|(_, y)| y).sum::<f64>() / near.len() as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

impl Chart {
    /// The whole file.
    pub fn svg(&self) -> String {
        let shown = |(x, y): &&(f64, f64)| self.x.shows(*x) && self.y.shows(*y);
        let points = || self.series.iter().flat_map(|series| &series.points).filter(shown);
        let x = Scale::over(&self.x, points().map(|(x, _)| *x), 7, false);
        let y = Scale::over(&self.y, points().map(|(_, y)| *y), 6, true);
        let widest = |texts: &mut dyn Iterator<Item = &str>| texts.map(width_of).fold(0.0, f64::max);
        let names: Vec<String> = self.series.iter().map(|series| clipped(&series.name, LONGEST_NAME)).collect();
        let left = MARGIN + widest(&mut y.ticks.iter().map(|(_, text)| text.as_str())) + 6.0;
        let right = WIDTH - MARGIN - (widest(&mut names.iter().map(String::as_str)) + 8.0).max(10.0);
        let (top, bottom) = (if self.y.label.is_empty() { 50.0 } else { 68.0 }, HEIGHT - 50.0);
        let frame = Frame { x, y, left, right, top, bottom };

        let mut canvas = Canvas::new(WIDTH, HEIGHT, &self.title);
        canvas.words(MARGIN, 50.0, Side::Right, "weak small", &self.y.label);
        canvas.words(right, HEIGHT - 14.0, Side::Left, "weak small", &self.x.label);
        frame.draw(&mut canvas);
        let mut ends = Vec::new();
        let (mut colour, mut over_faint) = (0, false);
        for (series, name) in self.series.iter().zip(names) {
            let class = format!("c{}", colour % COLOURS);
            let dashed = if colour >= COLOURS { " dashed" } else { "" };
            let faint = series.style == Style::Faint;
            let stroke = format!("{class}{}", if faint { " faint" } else { dashed });
            let mut last = None;
            for piece in series.points.split(|point| !shown(&point)).filter(|piece| !piece.is_empty()) {
                let places: Vec<(f64, f64)> = piece.iter().map(|point| frame.place(*point)).collect();
                let dots = series.style == Style::Dots && places.len() <= MOST_DOTS;
                places.iter().filter(|_| dots || places.len() == 1).for_each(|place| canvas.dot(*place, &class));
                if places.len() > 1 {
                    let places = thinned(&places);
                    // A rim of ground keeps a line apart from the pale one that it smooths.
                    if over_faint && !faint {
                        canvas.path(&places, "halo");
                    }
                    canvas.path(&places, &stroke);
                }
                last = places.last().copied();
            }
            over_faint = faint;
            if !faint {
                colour += 1;
                ends.extend(last.filter(|_| !name.is_empty()).map(|end| End { at: end, y: end.1, name, class }));
            }
        }
        frame.name(&mut canvas, ends);
        canvas.finish()
    }
}

/// Where the plot lies in the picture.
struct Frame {
    x: Scale,
    y: Scale,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// Where a series ends, and where its name stands.
struct End {
    at: (f64, f64),
    y: f64,
    name: String,
    class: String,
}

impl Frame {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (
            self.left + self.x.share(x) * (self.right - self.left),
            self.bottom - self.y.share(y) * (self.bottom - self.top),
        )
    }

    fn draw(&self, canvas: &mut Canvas) {
        for (value, text) in &self.y.ticks {
            let y = self.bottom - self.y.share(*value) * (self.bottom - self.top);
            canvas.line((self.left, y), (self.right, y), "grid");
            canvas.words(self.left - 6.0, y + 4.5, Side::Left, "small", text);
        }
        canvas.line((self.left, self.bottom), (self.right, self.bottom), "base");
        for (value, text) in &self.x.ticks {
            let x = self.left + self.x.share(*value) * (self.right - self.left);
            canvas.line((x, self.bottom), (x, self.bottom + 4.0), "base");
            canvas.words(x, self.bottom + 18.0, Side::Middle, "small", text);
        }
    }

    /// Names stand as near to their ends as they can without touching.
    fn name(&self, canvas: &mut Canvas, mut ends: Vec<End>) {
        ends.sort_by(|one, other| one.y.total_cmp(&other.y));
        let mut free = self.top;
        for end in &mut ends {
            end.y = end.y.max(free);
            free = end.y + LINE;
        }
        let mut free = self.bottom;
        for end in ends.iter_mut().rev() {
            end.y = end.y.min(free);
            free = end.y - LINE;
        }
        for end in ends {
            if end.at.0 < self.right - 6.0 {
                canvas.line((end.at.0 + 4.0, end.at.1), (self.right, end.y), "guide");
            }
            canvas.words(self.right + 8.0, end.y + 4.5, Side::Right, &end.class, &end.name);
        }
    }
}

/// First, lowest, highest and last place of every column of the picture: the same picture from few points, spikes included.
/// What goes back to the left is kept as it is.
fn thinned(places: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept = Vec::new();
    for column in places.chunk_by(|one, other| (one.0 / COLUMN).floor() == (other.0 / COLUMN).floor()) {
        let extreme = |better: fn(f64, f64) -> bool| {
            (1..column.len()).fold(0, |best, at| if better(column[at].1, column[best].1) { at } else { best })
        };
        let mut chosen = [0, extreme(|one, other| one < other), extreme(|one, other| one > other), column.len() - 1];
        chosen.sort_unstable();
        let distinct = chosen.iter().enumerate().filter(|(number, at)| *number == 0 || chosen[number - 1] != **at);
        kept.extend(distinct.map(|(_, at)| column[*at]));
    }
    kept
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// Between two names.
const LINE: f64 = 16.0;
const COLUMN: f64 = 1.5;
const LONGEST_NAME: usize = 30;
const MOST_DOTS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Chart {
        Chart { title: "Loss".into(), x: Axis::linear("step"), y: Axis::linear("nats"), series }
    }

    fn paths(svg: &str) -> Vec<&str> {
        svg.lines().filter(|line| line.starts_with("<path")).collect()
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let svg = chart(vec![Series::line("ours", vec![(0.0, 0.0), (10.0, 4.0)])]).svg();
        // Left and right depend on the widths of ticks and names, top and bottom on nothing.
        let path = paths(&svg)[0];
        let numbers: Vec<f64> = path.split(['M', 'L', ' ', '"']).filter_map(|word| word.parse().ok()).collect();
        assert_eq!((numbers[1], numbers[3]), (350.0, 68.0), "{path}");
        assert!(svg.contains("class=\"c0\">ours</text>"));
        assert!(svg.contains(">step</text>") && svg.contains(">nats</text>") && svg.contains("<title>Loss</title>"));
    }

    #[test]
    fn a_long_series_keeps_its_spikes_and_little_else() {
        let points = (0..200_000).map(|x| (f64::from(x), if x == 77_777 { 50.0 } else { f64::from(x % 7) })).collect();
        let svg = chart(vec![Series::line("loss", points)]).svg();
        assert!(svg.len() < 40_000, "{}", svg.len());
        let spike = paths(&svg)[0].matches(" 68.0").count();
        assert_eq!(spike, 1);
    }

    #[test]
    fn what_has_no_place_is_a_gap() {
        let points =
            vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 2.0), (4.0, 1.0), (5.0, f64::INFINITY), (6.0, 1.0)];
        let svg = chart(vec![Series::line("a", points)]).svg();
        assert_eq!((paths(&svg).len(), svg.matches("<circle").count()), (2, 1));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let log =
            Chart { y: Axis::log(""), ..chart(vec![Series::line("a", vec![(0.0, 0.0), (1.0, 1.0), (2.0, 10.0)])]) };
        assert_eq!(paths(&log.svg())[0].matches('L').count(), 1);
        assert!(chart(Vec::new()).svg().ends_with("</svg>\n"));
    }

    #[test]
    fn names_do_not_touch() {
        let series =
            (0..8).map(|number| Series::line(format!("line {number}"), vec![(0.0, 0.0), (1.0, 1.0)])).collect();
        let svg = chart(series).svg();
        let mut ys: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains(">line "))
            .filter_map(|line| line.split("y=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        ys.sort_by(f64::total_cmp);
        assert_eq!(ys.len(), 8);
        assert!(ys.windows(2).all(|pair| pair[1] - pair[0] >= 15.9), "{ys:?}");
    }

    #[test]
    fn a_smoothed_line_stands_apart_from_what_it_smooths() {
        let points = vec![(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)];
        let svg =
            chart(vec![Series::faint(points.clone()), Series::line("a", points.clone()), Series::line("b", points)]);
        let svg = svg.svg();
        let classes: Vec<_> = paths(&svg).into_iter().filter_map(|path| path.split("class=\"").nth(1)).collect();
        assert_eq!(classes, ["c0 faint\"/>", "halo\"/>", "c0\"/>", "c1\"/>"]);
    }

    #[test]
    fn smoothing_leaves_straight_lines() {
        let line: Vec<(f64, f64)> = (0..10).map(|x| (f64::from(x), 2.0 * f64::from(x))).collect();
        assert_eq!(smooth(&line, 3), line);
        assert_eq!(smooth(&[(0.0, 1.0), (1.0, 4.0), (2.0, 1.0)], 1)[1], (1.0, 2.0));
        assert!(smooth(&[], 3).is_empty());
    }
}
