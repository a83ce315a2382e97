//! Where `falaj_energy` meets settings and jobs: what to measure with, what a job took, and what a place's electricity stands for.

use crate::config::Config;
use crate::machine::Machine;
use crate::words::Word;
use falaj_energy::{Area, Carbon, Grade, Method, Own, Settings, Taken};
use falaj_protocol::jobs::{self, Energy, Metering};

/// This machine, with what the operator knows of it.
pub fn settings(config: &Config) -> Settings {
    Settings {
        cpu_watts: config.energy.cpu_watts,
        meter_file: config.energy.meter_file.clone(),
        threads: Machine::look().cores,
        ..Settings::default()
    }
}

pub fn carbon(config: &Config) -> Carbon {
    Carbon::of(&config.site.facts.country, config.energy.grams_per_kwh)
}

/// Grams for joules, with where the figure comes from: `1.31 mg (MA, 2024; Ember, …)`.
pub fn emitted(carbon: &Carbon, joules: f64) -> String {
    let grams = carbon.grams((joules * 1e6) as u64);
    let amount = if grams >= 1.0 { format!("{grams:.2} g") } else { format!("{:.3} mg", grams * 1e3) };
    format!("{amount} ({})", place(carbon))
}

/// What a figure of CO2 is of.
pub fn place(carbon: &Carbon) -> String {
    match (&carbon.area, carbon.year) {
        (Area::Site, _) | (_, None) => carbon.source.to_owned(),
        (Area::Country(code), Some(year)) => format!("{code}, {year}; {}", carbon.source),
        (Area::World, Some(year)) => format!("{}, {year}; {}", Word::World.text(), carbon.source),
    }
}

/// Of a job, which has this process for itself. Counts from when it was made.
pub struct Meter(Own);

impl Meter {
    pub fn start(config: &Config) -> Self {
        Self(Own::start(settings(config)))
    }

    /// Joules since the start.
    pub fn read(&self) -> Option<Energy> {
        self.0.read().map(told)
    }
}

fn told(taken: Taken) -> Energy {
    let Taken { joules, method, watts_per_thread } = taken;
    let method_told = match method {
        Method::MeterAboveIdle | Method::MeterShare => Metering::MeterShare,
        Method::RaplAboveIdle | Method::RaplShare => Metering::RaplShare,
        Method::CpuTimeTdp => Metering::CpuTimeTdp,
        Method::CpuTimeAssumed => Metering::CpuTimeAssumed,
    };
    let grade = match method.grade() {
        Grade::A => jobs::Grade::A,
        Grade::B => jobs::Grade::B,
        Grade::C => jobs::Grade::C,
        Grade::D => jobs::Grade::D,
        Grade::E => jobs::Grade::E,
    };
    Energy { joules, grade, method: method_told, watts_per_thread }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_how_its_energy_is_known() {
        let energy = told(Taken { joules: 24.4, method: Method::CpuTimeTdp, watts_per_thread: Some(8.0) });
        assert_eq!(energy.in_words(), "24 J (D: CPU time × 8.0 W a thread, from the TDP)");
        let france = Carbon::of("FR", None);
        assert_eq!(emitted(&france, 100.0), "1.227 mg (FR, 2024; Ember, Yearly Electricity Data, CC BY 4.0)");
        assert_eq!(emitted(&Carbon::of("FR", Some(36.0)), 3.6e6), "36.00 g (energy.grams_per_kwh)");
        let energy = told(Taken { joules: 24.4, method: Method::RaplShare, watts_per_thread: None });
        assert_eq!(energy.in_words(), "24 J (B: RAPL, by share of CPU time)");
    }
}
