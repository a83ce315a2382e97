//! Measures two sides by turns, so that slow changes of the machine meet both, and repeats a turn that others disturbed.

use std::time::Duration;

use anyhow::Result;

use super::meter::{Meter, TOLERATED_CORES, wait_for_quiet};

/// Measures and gives, per case, one sample or several.
pub type Side<'a> = &'a mut dyn FnMut() -> Result<Vec<Vec<f64>>>;

/// Samples per case, and whether any kept one was disturbed.
#[derive(Debug, Default)]
pub struct Samples {
    cases: Vec<Vec<f64>>,
    pub disturbed: bool,
}

impl Samples {
    pub fn of(&self, case: usize) -> &[f64] {
        self.cases.get(case).map_or(&[], Vec::as_slice)
    }

    pub fn add(&mut self, turn: Vec<Vec<f64>>) {
        self.cases.resize(self.cases.len().max(turn.len()), Vec::new());
        self.cases.iter_mut().zip(turn).for_each(|(case, samples)| case.extend(samples));
    }
}

/// `ours`, `peer`, `ours`, `peer`, …: `repetitions` of each. The second side may be left out.
pub fn alternate(
    repetitions: usize,
    patience: Patience,
    ours: Side<'_>,
    mut peer: Option<Side<'_>>,
) -> Result<(Samples, Samples)> {
    let (mut our_samples, mut peer_samples) = (Samples::default(), Samples::default());
    for _ in 0..repetitions {
        turn("ours", patience, ours, &mut our_samples)?;
        if let Some(peer) = &mut peer {
            turn("peer", patience, *peer, &mut peer_samples)?;
        }
    }
    Ok((our_samples, peer_samples))
}

/// How long to wait for others to leave the machine before a turn: the first time, and before it is repeated.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub first: Duration,
    pub later: Duration,
}

impl Patience {
    pub const USUAL: Self = Self { first: Duration::from_secs(10), later: Duration::from_secs(30) };
    pub const SHORT: Self = Self { first: Duration::from_secs(2), later: Duration::from_secs(2) };
}

fn turn(name: &str, patience: Patience, side: Side<'_>, samples: &mut Samples) -> Result<()> {
    for attempt in 1.. {
        let wait = if attempt == 1 { patience.first } else { patience.later };
        if !wait.is_zero() {
            wait_for_quiet(wait)?;
        }
        let meter = Meter::start()?;
        let values = side()?;
        let others = meter.other_cores()?;
        let shown: Vec<String> = values.iter().flatten().map(|value| super::rows::short(*value)).collect();
        if others <= TOLERATED_CORES {
            println!("    {name}: {}", shown.join("  "));
            samples.add(values);
            break;
        }
        println!("    {name}: {}  (others used {others:.2} cores)", shown.join("  "));
        if attempt == ATTEMPTS {
            samples.add(values);
            samples.disturbed = true;
            break;
        }
    }
    Ok(())
}

const ATTEMPTS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let mut ours = || {
            order.borrow_mut().push('o');
            Ok(vec![vec![1.0], vec![2.0, 2.5]])
        };
        let mut peer = || {
            order.borrow_mut().push('p');
            Ok(vec![vec![3.0], vec![4.0]])
        };
        let patience = Patience { first: Duration::ZERO, later: Duration::ZERO };
        let (our_samples, peer_samples) = alternate(2, patience, &mut ours, Some(&mut peer)).expect("both measure");
        assert_eq!(*order.borrow(), "opop");
        assert_eq!(our_samples.of(1), [2.0, 2.5, 2.0, 2.5]);
        assert_eq!(peer_samples.of(0), [3.0, 3.0]);
    }
}
