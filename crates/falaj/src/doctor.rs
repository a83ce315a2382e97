//! `falaj doctor`: what this machine is, what would fit, and how fast its memory and its cores are. With a model's name:
//! how near that model comes to them (`doctor/model.rs`).

mod cost;
mod limits;
mod model;
mod power;

use crate::args::Doctor;
use crate::context::Context;
use crate::energy;
use crate::failure::Outcome;
use crate::machine::Machine;
use crate::models::free_bytes;
use crate::output;
use crate::words::Word;
use falaj_energy::Findings;
use falaj_kernels::{Format, Isa};
use limits::Limits;
use serde_json::json;

pub fn doctor(context: &Context, options: &Doctor) -> Outcome {
    if let Some(name) = &options.model {
        return model::examine(context, name);
    }
    let machine = Machine::look();
    let data = &context.config.data;
    // The directory may not be there yet; its disk is that of the nearest one that is.
    let existing = data.ancestors().find(|dir| dir.exists()).unwrap_or(data);
    let disk_bytes = free_bytes(existing)?;
    let (isa, threads) = (context.config.engine.isa, context.config.engine.options.threads);
    let limits = (!options.quick).then(|| Limits::measure(isa, threads));
    let (power, carbon) = (Findings::look(&energy::settings(&context.config)), energy::carbon(&context.config));
    let fits = FORMATS.map(|format| (format, parameters_that_fit(format, machine.usable_bytes())));
    if context.json {
        output::pretty_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": machine.cpu,
            "cpu_features": machine.features,
            "isa": isa.to_string(),
            "isa_available": Isa::available().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "cores": machine.cores,
            "usable_cores": machine.usable_cores,
            "threads": threads,
            "memory_bytes": machine.memory_bytes,
            "memory_available_bytes": machine.available_bytes,
            "memory_limit_bytes": machine.limit_bytes,
            "data": data,
            "disk_free_bytes": disk_bytes,
            "energy": power::json(&power, &carbon),
            "parameters_that_fit": fits.iter().map(|(f, n)| (f.to_string(), *n)).collect::<std::collections::BTreeMap<_, _>>(),
            "limits": limits.as_ref().map(Limits::json),
            "debug_build": cfg!(debug_assertions),
        }));
        return Ok(());
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |label: &Word, value: String| rows.push(vec![label.text().to_owned(), value]);
    row(&Word::DoctorCpu, machine.cpu.clone());
    row(&Word::DoctorFeatures, machine.features.join(" "));
    let available: Vec<_> = Isa::available().iter().map(ToString::to_string).collect();
    row(&Word::DoctorIsa, format!("{isa} ({})", available.join(", ")));
    row(&Word::DoctorCores, Word::DoctorCoresOf.with(&[&machine.usable_cores.to_string(), &machine.cores.to_string()]));
    let memory = [&*output::bytes(machine.available_bytes), &output::bytes(machine.memory_bytes)];
    row(&Word::DoctorMemory, Word::DoctorMemoryOf.with(&memory));
    if let Some(limit) = machine.limit_bytes {
        row(&Word::DoctorMemory, Word::DoctorLimit.with(&[&output::bytes(limit)]));
    }
    let disk = [&*output::bytes(disk_bytes), &data.display().to_string()];
    row(&Word::DoctorDisk, Word::DoctorDiskOf.with(&disk));
    for (label, value) in power::rows(&power, &carbon) {
        row(&label, value);
    }
    if let Some(limits) = &limits {
        row(&Word::DoctorBandwidth, format!("{:.1} GB/s", limits.read_bytes_per_s / 1e9));
        let peaks = [("int8", limits.int8), ("bf16", limits.bf16), ("f32", limits.f32)];
        let peaks = peaks.map(|(kind, peak)| format!("{kind} {:.0} GOPS ({})", peak.ops_per_s / 1e9, peak.instruction));
        row(&Word::DoctorPeaks, peaks.join(", "));
    }
    output::table(&rows);
    output::line("");
    output::line(Word::DoctorFits.text());
    let fits = fits.iter().map(|(format, parameters)| {
        let count = format!("{} {}", output::parameters(*parameters), Word::DoctorFitsParameters.text());
        let pace = limits.as_ref().map(|limits| {
            // Each token reads every weight once: memory speed bounds decoding.
            let tokens_per_s = limits.read_bytes_per_s / (7e9 * bytes_per_parameter(*format));
            Word::DoctorFitsSpeed.with(&[&format!("{tokens_per_s:.1}")])
        });
        vec![format!("  {format}"), count, pace.unwrap_or_default()]
    });
    output::table(&fits.collect::<Vec<_>>());
    if cfg!(debug_assertions) {
        output::note(Word::DoctorDebugBuild.text());
    }
    Ok(())
}

/// From exact to small.
const FORMATS: [Format; 6] = [Format::F32, Format::BF16, Format::Q8_0, Format::Q6_K, Format::Q5_K, Format::Q4_K];

fn bytes_per_parameter(format: Format) -> f64 {
    format.block_bytes() as f64 / format.block_len() as f64
}

/// A fifth of the memory is left for the context and everything else.
fn parameters_that_fit(format: Format, usable_bytes: u64) -> u64 {
    (usable_bytes as f64 * 0.8 / bytes_per_parameter(format)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_formats_hold_more() {
        let fits = FORMATS.map(|format| parameters_that_fit(format, 16 << 30));
        assert!(fits.is_sorted());
        assert!((3.4e9..3.5e9).contains(&(fits[0] as f64)));
    }
}
