//! How the learning rate runs over the steps of a job.

use serde::{Deserialize, Serialize};

/// The share of the full rate at each step, after a linear rise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Schedule {
    Constant,
    /// Falls along half a cosine to the share `floor`. Source: Loshchilov & Hutter 2017.
    Cosine {
        floor: f32,
    },
    /// Falls in a line to the share `floor`.
    Linear {
        floor: f32,
    },
    /// Stays, then falls in a line to the share `floor` over the last `decay` of the steps (warm-up, stable, decay).
    Wsd {
        decay: f32,
        floor: f32,
    },
}

impl Schedule {
    /// At `step` of `steps`, the first being 0; the rate rises over the first `warmup`.
    pub fn share(self, step: u64, steps: u64, warmup: u64) -> f32 {
        let rise = if step < warmup { (step + 1) as f64 / warmup as f64 } else { 1.0 };
        let between = |from: u64| {
            let whole = steps.saturating_sub(from).max(1) as f64;
            (step.saturating_sub(from) as f64 / whole).min(1.0)
        };
        let fall = |progress: f64, floor: f32| 1.0 - progress * (1.0 - f64::from(floor));
        let share = match self {
            Schedule::Constant => 1.0,
            Schedule::Cosine { floor } => {
                let (_, cosine) = falaj_kernels::sin_cos(std::f64::consts::PI * between(warmup));
                fall((1.0 - cosine) / 2.0, floor)
            }
            Schedule::Linear { floor } => fall(between(warmup), floor),
            Schedule::Wsd { decay, floor } => {
                let from = (steps as f64 * (1.0 - f64::from(decay))).round() as u64;
                fall(between(from), floor)
            }
        };
        (rise * share) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_stay_and_fall() {
        let shares = |schedule: Schedule| [0, 4, 9, 10, 55, 80, 90, 99].map(|step| schedule.share(step, 100, 10));
        for schedule in [Schedule::Cosine { floor: 0.1 }, Schedule::Linear { floor: 0.1 }] {
            let [first, fifth, tenth, top, middle, later, _, last] = shares(schedule);
            assert_eq!([first, fifth, tenth, top], [0.1, 0.5, 1.0, 1.0]);
            assert!((middle - 0.55).abs() < 1e-6 && later < middle && (0.1..0.12).contains(&last), "{schedule:?}");
        }
        let wsd = shares(Schedule::Wsd { decay: 0.2, floor: 0.0 });
        assert_eq!(wsd[3..6], [1.0; 3]);
        assert!((wsd[6] - 0.5).abs() < 1e-6 && wsd[7] > 0.0);
        assert_eq!(Schedule::Constant.share(99, 100, 0), 1.0);
    }
}
