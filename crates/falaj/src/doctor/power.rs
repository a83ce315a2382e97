//! How the energy of work is known on this machine, why not better, and what a kilowatt-hour stands for here.

use crate::energy;
use crate::words::Word;
use falaj_energy::{Absent, Carbon, Findings, Method, Tdp};
use serde_json::{Value, json};

pub(super) fn rows(found: &Findings, carbon: &Carbon) -> Vec<(Word, String)> {
    let watts = format!("{:.1}", found.watts_per_thread);
    let by = match (&found.counters, found.tdp) {
        (Ok(_), _) if found.method == Method::MeterAboveIdle => Word::DoctorEnergyMeter.text().to_owned(),
        (Ok(packages), _) => Word::DoctorEnergyCounters.with(&[&packages.to_string()]),
        (Err(_), Tdp::Set { .. }) => Word::DoctorEnergySet.with(&[&watts]),
        (Err(_), Tdp::Kernel { .. }) => Word::DoctorEnergyLimit.with(&[&watts]),
        (Err(_), Tdp::Assumed { .. }) => Word::DoctorEnergyAssumed.with(&[&watts]),
    };
    let grade = found.method.grade().letter();
    let mut rows = vec![(Word::DoctorEnergy, Word::DoctorEnergyGrade.with(&[&grade.to_string(), &by]))];
    if let Err(absent) = &found.counters {
        rows.push((Word::DoctorEnergy, why(absent)));
    }
    if let Ok(gpus) = &found.gpus {
        rows.push((Word::DoctorEnergy, Word::DoctorEnergyGpus.with(&[&gpus.to_string()])));
    }
    let grams = format!("{:.0}", carbon.grams_per_kwh);
    rows.push((Word::DoctorCarbon, Word::DoctorCarbonOf.with(&[&grams, &energy::place(carbon)])));
    rows
}

fn why(absent: &Absent) -> String {
    match absent {
        Absent::NoCounters { path } => Word::DoctorNoCounters.with(&[&path.display().to_string()]),
        Absent::Denied { path } => Word::DoctorCountersDenied.with(&[&path.display().to_string()]),
        Absent::Unreadable { .. } | Absent::NoGpus { .. } => absent.to_string(),
    }
}

pub(super) fn json(found: &Findings, carbon: &Carbon) -> Value {
    json!({
        "grade": found.method.grade().letter().to_string(),
        "method": match found.method {
            Method::MeterAboveIdle => "meter_above_idle",
            Method::MeterShare => "meter_share",
            Method::RaplAboveIdle => "rapl_above_idle",
            Method::RaplShare => "rapl_share",
            Method::CpuTimeTdp => "cpu_time_tdp",
            Method::CpuTimeAssumed => "cpu_time_assumed",
        },
        "counters": found.counters.as_ref().ok(),
        "counters_absent": found.counters.as_ref().err().map(ToString::to_string),
        "gpus": found.gpus.as_ref().ok(),
        "gpus_absent": found.gpus.as_ref().err().map(ToString::to_string),
        "watts_per_thread": found.watts_per_thread,
        "grams_co2_per_kwh": carbon.grams_per_kwh,
        "grams_co2_of": carbon.area.name(),
        "grams_co2_year": carbon.year,
        "grams_co2_source": carbon.source,
    })
}
