//! What requests and jobs took from the socket, how well that is known, and the CO2 of it: the site's price of CPU time applied, and
//! counted by model for `/metrics`. What nobody measured is nowhere zero: it is missing, and counted as missing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falaj_energy::{Carbon, Grade, Site, State};
use falaj_ledger::{Energy, EnergyGrade};
use serde_json::{Value, json};

use crate::metrics::Exposition;

/// The site's sources, and what was charged since the start.
pub(crate) struct Power {
    site: Option<Arc<Site>>,
    carbon: Carbon,
    charged: Mutex<Charged>,
}

#[derive(Default)]
struct Charged {
    /// By model, then grade.
    models: BTreeMap<String, Grades>,
    /// Requests of which nothing is known, by model.
    unknown: BTreeMap<String, u64>,
    /// Of jobs, by grade, in joules.
    jobs: BTreeMap<char, f64>,
}

type Grades = BTreeMap<char, Sum>;

#[derive(Clone, Copy, Default)]
struct Sum {
    uj: u64,
    tokens: u64,
}

impl Default for Power {
    /// Nothing measures.
    fn default() -> Self {
        Self { site: None, carbon: Carbon::of("", None), charged: Mutex::default() }
    }
}

impl Power {
    pub(crate) fn new(site: Arc<Site>, carbon: Carbon) -> Self {
        Self { site: Some(site), carbon, charged: Mutex::default() }
    }

    /// Of a request that took this CPU time just now. `tokens`: those that were computed for it.
    pub(crate) fn charge(&self, model: &str, cpu_ns: u64, tokens: u64) -> Option<Energy> {
        let Some(charge) = self.site.as_ref().and_then(|site| site.charge(cpu_ns)) else {
            self.unknown(model);
            return None;
        };
        count(&mut self.charged().models, model, |grades: &mut Grades| {
            let sum = grades.entry(charge.grade.letter()).or_default();
            sum.uj = sum.uj.saturating_add(charge.uj);
            sum.tokens = sum.tokens.saturating_add(tokens);
        });
        let grade = match charge.grade {
            Grade::A => EnergyGrade::A,
            Grade::B => EnergyGrade::B,
            Grade::C => EnergyGrade::C,
            Grade::D => EnergyGrade::D,
            Grade::E => EnergyGrade::E,
        };
        Some(Energy { uj: charge.uj, grade })
    }

    /// A request that nothing here measures.
    pub(crate) fn unknown(&self, model: &str) {
        count(&mut self.charged().unknown, model, |count: &mut u64| *count += 1);
    }

    /// What so many tokens of the model may take, in microjoules, by what its tokens took until now; 0 before there were any.
    pub(crate) fn expect(&self, model: &str, tokens: u64) -> u64 {
        let charged = self.charged();
        let Some(sums) = charged.models.get(model) else { return 0 };
        let [uj, known] = sums
            .values()
            .fold([0u128; 2], |[uj, tokens], sum| [uj + u128::from(sum.uj), tokens + u128::from(sum.tokens)]);
        if known == 0 {
            return 0;
        }
        u64::try_from(uj.saturating_mul(u128::from(tokens)).div_ceil(known)).unwrap_or(u64::MAX)
    }

    /// A job that is done.
    pub(crate) fn job(&self, energy: &falaj_protocol::jobs::Energy) {
        let grade = format!("{:?}", energy.grade).chars().next().unwrap_or('E');
        *self.charged().jobs.entry(grade).or_default() += energy.joules;
    }

    /// CO2 of this energy, with where the figure comes from.
    pub(crate) fn co2(&self, joules: f64) -> Value {
        let Carbon { grams_per_kwh, area, year, source } = &self.carbon;
        json!({
            "grams": joules / JOULES_PER_KWH * grams_per_kwh,
            "grams_per_kwh": grams_per_kwh,
            "area": area.name(),
            "year": year,
            "source": source,
        })
    }

    pub(crate) fn write(&self, out: &mut Exposition) {
        let charged = self.charged();
        let year = self.carbon.year.map_or_else(String::new, |year| year.to_string());
        let mut by_model = |name: &str, help: &str, more: &[(&str, &str)], value: &dyn Fn(&Sum) -> f64| {
            out.family(name, "counter", help);
            for (model, sums) in &charged.models {
                for (grade, sum) in sums {
                    let grade = grade.to_string();
                    let labels = [&[("model", model.as_str()), ("grade", grade.as_str())], more].concat();
                    out.sample(name, &labels, value(sum));
                }
            }
        };
        by_model("falaj_energy_joules_total", "What requests took, above idle.", &[], &|sum| sum.uj as f64 / 1e6);
        let help = "Tokens computed for that: prompts without what was cached, and answers.";
        by_model("falaj_energy_tokens_total", help, &[], &|sum| sum.tokens as f64);
        let place = [("area", self.carbon.area.name()), ("year", &*year), ("source", self.carbon.source)];
        by_model("falaj_energy_co2_grams_total", "CO2 equivalent of that.", &place, &|sum| self.carbon.grams(sum.uj));
        let name = "falaj_energy_unknown_requests_total";
        out.family(name, "counter", "Requests whose energy nobody knows.");
        charged.unknown.iter().for_each(|(model, count)| out.sample(name, &[("model", model)], *count as f64));
        let name = "falaj_energy_jobs_joules_total";
        out.family(name, "counter", "What finished jobs took, with their share of idle.");
        for (grade, joules) in &charged.jobs {
            out.sample(name, &[("grade", &grade.to_string())], *joules);
        }
        let name = "falaj_energy_co2_grams_per_kwh";
        out.family(name, "gauge", "CO2 equivalent of the electricity here.");
        out.sample(name, &place, self.carbon.grams_per_kwh);
        drop(charged);
        if let Some(site) = &self.site {
            machine(&site.state(), out);
        }
    }

    fn charged(&self) -> MutexGuard<'_, Charged> {
        self.charged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No text is made for a model that is there already.
fn count<T: Default>(all: &mut BTreeMap<String, T>, model: &str, change: impl FnOnce(&mut T)) {
    match all.get_mut(model) {
        Some(of) => change(of),
        None => change(all.entry(model.to_owned()).or_default()),
    }
}

/// Whoever's it was. What nothing counts has no line.
fn machine(state: &State, out: &mut Exposition) {
    let mut single = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            out.family(name, kind, help);
            out.sample(name, &[], value);
        }
    };
    let joules = |uj: Option<u64>| uj.map(|uj| uj as f64 / 1e6);
    single(
        "falaj_energy_idle_joules_total",
        "counter",
        "What the machine takes while nothing runs; charged to nobody.",
        joules(state.idle_uj),
    );
    single(
        "falaj_energy_counted_joules_total",
        "counter",
        "What the processors' packages took, or the machine by its meter, whoever used them.",
        joules(state.counted_uj),
    );
    single(
        "falaj_energy_gpus_joules_total",
        "counter",
        "What GPUs took, whoever used them; charged to nobody.",
        joules(state.gpus_uj),
    );
    single("falaj_energy_idle_watts", "gauge", "Of the same, while nothing runs.", state.idle_watts);
    let name = "falaj_energy_thread_watts";
    out.family(name, "gauge", "Price of CPU time: a hardware thread that is always busy.");
    out.sample(name, &[("grade", &state.method.grade().letter().to_string())], state.watts_per_thread);
}

const JOULES_PER_KWH: f64 = 3.6e6;

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_energy::Settings;

    fn power() -> Power {
        let settings = Settings {
            cpu_watts: Some(20.0),
            threads: 4,
            powercap: "/nowhere".into(),
            proc: "/nowhere".into(),
            gpus: false,
            meter_file: None,
        };
        Power::new(Arc::new(Site::new(settings)), Carbon::of("FR", None))
    }

    #[test]
    fn what_is_charged_is_counted_by_model_and_grade() {
        let power = power();
        let charged = power.charge("small", 2_000_000_000, 40).unwrap();
        assert_eq!((charged.uj, charged.grade), (10_000_000, EnergyGrade::D));
        power.charge("small", 1_000_000_000, 10).unwrap();
        assert_eq!(power.charge("large", 0, 7), None);
        let mut out = Exposition::default();
        power.write(&mut out);
        for line in [
            r#"falaj_energy_joules_total{model="small",grade="D"} 15"#,
            r#"falaj_energy_tokens_total{model="small",grade="D"} 50"#,
            r#"falaj_energy_unknown_requests_total{model="large"} 1"#,
            r#"falaj_energy_thread_watts{grade="D"} 5"#,
        ] {
            assert!(out.0.lines().any(|written| written == line), "{line} is not in\n{}", out.0);
        }
        assert!(
            out.0.contains(
                r#"falaj_energy_co2_grams_total{model="small",grade="D",area="FR",year="2024",source="Ember"#
            )
        );
        // Unknown is not zero.
        assert!(!out.0.contains("falaj_energy_idle_joules_total") && !out.0.contains(r#"joules_total{model="large""#));
        assert_eq!((power.expect("small", 5), power.expect("large", 5)), (1_500_000, 0));
        let co2 = power.co2(3_600_000.0);
        assert_eq!((&co2["grams"], &co2["year"], &co2["area"]), (&json!(44.18), &json!(2024), &json!("FR")));
    }

    #[test]
    fn without_sources_nothing_is_known() {
        let power = Power::default();
        assert_eq!(power.charge("small", 1_000_000_000, 40), None);
        assert_eq!(power.expect("small", 5), 0);
    }
}
