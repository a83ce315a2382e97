//! Axes: from values to places, ticks at round numbers, and how these are written. Knows no SVG.

/// What an axis says and how it counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Axis {
    /// With its unit: `tokens/s`.
    pub label: String,
    /// Equal distances are equal ratios. Values that are not positive are then left out.
    pub log: bool,
}

impl Axis {
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), log: false }
    }

    pub fn log(label: impl Into<String>) -> Self {
        Self { label: label.into(), log: true }
    }

    /// Whether a value has a place on it.
    pub(crate) fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }
}

/// An axis that covers some values.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    log: bool,
    from: f64,
    to: f64,
    /// Value and text.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// `whole`: it begins and ends at ticks; otherwise at the least and the greatest value.
    pub fn over(axis: &Axis, values: impl Iterator<Item = f64>, wanted: usize, whole: bool) -> Self {
        let (mut from, mut to) = values
            .filter(|value| axis.shows(*value))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), value| (from.min(value), to.max(value)));
        if from > to {
            (from, to) = if axis.log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        if from == to {
            let room = if from == 0.0 { 1.0 } else { from.abs() * 0.1 };
            (from, to) = (from - room, to + room);
        }
        if axis.log {
            let ticks = log_ticks(from, to, wanted);
            return Self { log: true, from, to, ticks: ticks.into_iter().map(|tick| (tick, short(tick))).collect() };
        }
        let step = round_step(from, to, wanted);
        if whole {
            (from, to) = ((from / step + 1e-9).floor() * step, (to / step - 1e-9).ceil() * step);
        }
        let ticks = linear_ticks(from, to, step);
        let most = from.abs().max(to.abs());
        let ticks = ticks.into_iter().map(|tick| (tick, label(tick, step, most))).collect();
        Self { log: false, from, to, ticks }
    }

    /// From 0, where the axis begins, to 1.
    pub fn share(&self, value: f64) -> f64 {
        if self.log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        }
    }
}

/// 1, 2, 2.5 or 5 times a power of ten, so that about `wanted` of them fit.
fn round_step(from: f64, to: f64, wanted: usize) -> f64 {
    let least = (to - from) / wanted.max(1) as f64;
    let power = 10f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= least * 0.999);
    factor.unwrap_or(10.0) * power
}

fn linear_ticks(from: f64, to: f64, step: f64) -> Vec<f64> {
    let first = (from / step - 1e-9).ceil();
    let count = (to / step - first + 1e-9).floor().max(0.0) as usize;
    (0..=count.min(100)).map(|number| (first + number as f64) * step).collect()
}

/// Powers of ten; with twos and fives between where few powers fit; round steps where not even those do.
fn log_ticks(from: f64, to: f64, wanted: usize) -> Vec<f64> {
    let (low, high) = (from.log10().floor() as i32, to.log10().ceil() as i32);
    let inside = |tick: &f64| *tick >= from * (1.0 - 1e-9) && *tick <= to * (1.0 + 1e-9);
    let every = ((high - low) as usize).div_ceil(wanted.max(1)).max(1);
    let powers: Vec<f64> = (low..=high).step_by(every).map(|power| 10f64.powi(power)).filter(inside).collect();
    if powers.len() >= 4 {
        return powers;
    }
    let finer = (low..=high).flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(power)));
    let finer: Vec<f64> = finer.filter(inside).collect();
    if finer.len() >= 3 {
        return finer;
    }
    linear_ticks(from, to, round_step(from, to, wanted))
}

/// A tick beside others that are `step` apart and at most `most`: all with as many places.
fn label(tick: f64, step: f64, most: f64) -> String {
    if tick.abs() < step * 1e-6 {
        return "0".into();
    }
    if most < 1e-3 {
        let places = (tick.abs().log10().floor() - (step * 1.0001).log10().floor()).max(0.0) as usize;
        return format!("{tick:.places$e}");
    }
    let (unit, suffix) = unit(most);
    let places = (0..6).find(|places| {
        let scaled = step / unit * 10f64.powi(*places);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.abs()
    });
    let places = places.unwrap_or(6) as usize;
    format!("{:.places$}{suffix}", tick / unit)
}

/// A number by itself: three digits that matter at most, no zeros that say nothing.
pub(crate) fn short(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-3 {
        return format!("{value:.2e}").replace(".00e", "e");
    }
    let (unit, suffix) = unit(value.abs());
    let scaled = value / unit;
    let places = match scaled.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        0.0 => 0,
        size => (2.0 - size.log10().floor()) as usize,
    };
    let text = format!("{scaled:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

fn unit(most: f64) -> (f64, &'static str) {
    match most {
        most if most >= 9.9995e8 => (1e9, "G"),
        most if most >= 9.9995e5 => (1e6, "M"),
        most if most >= 9_999.5 => (1e3, "k"),
        _ => (1.0, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(axis: &Axis, values: &[f64], whole: bool) -> Vec<String> {
        let scale = Scale::over(axis, values.iter().copied(), 6, whole);
        scale.ticks.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round() {
        let linear = Axis::linear("");
        assert_eq!(ticks(&linear, &[0.13, 0.97], true), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(&linear, &[2.31, 9.02], true), ["2", "4", "6", "8", "10"]);
        assert_eq!(ticks(&linear, &[1.0, 300.0], false), ["50", "100", "150", "200", "250", "300"]);
        assert_eq!(ticks(&linear, &[0.0, 52_000.0], false), ["0", "10k", "20k", "30k", "40k", "50k"]);
        assert_eq!(ticks(&linear, &[-0.02, 0.021], true), ["-0.02", "-0.01", "0", "0.01", "0.02", "0.03"]);
        assert_eq!(ticks(&linear, &[0.0, 3e-4], true), ["0", "5e-5", "1.0e-4", "1.5e-4", "2.0e-4", "2.5e-4", "3.0e-4"]);
        assert_eq!(ticks(&linear, &[4.0], true).len(), 5);
        assert_eq!(ticks(&linear, &[f64::NAN], true).first().map(String::as_str), Some("0"));
    }

    #[test]
    fn log_ticks_are_powers_or_finer() {
        let log = Axis::log("");
        assert_eq!(ticks(&log, &[1.0, 1e6], false), ["1", "10", "100", "1000", "10k", "100k", "1M"]);
        assert_eq!(ticks(&log, &[3.0, 40.0], false), ["5", "10", "20"]);
        assert_eq!(ticks(&log, &[2.1, 4.2], false), ["2.5", "3", "3.5", "4"]);
        assert!(ticks(&log, &[1.0, 1e30], false).len() <= 8);
    }

    #[test]
    fn a_number_alone_keeps_three_digits() {
        for (value, text) in [
            (1.0, "1"),
            (2.345, "2.35"),
            (66.71, "66.7"),
            (477.2, "477"),
            (5822.0, "5822"),
            (12_345.0, "12.3k"),
            (999_999.0, "1M"),
            (0.0, "0"),
            (3e-4, "3e-4"),
            (0.002, "0.002"),
            (0.0125, "0.0125"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
