//! `falaj config show`: each value and where it came from.

use crate::site::Site;
use std::fs;

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let site = Site::new("config");
    fs::write(site.path("f.toml"), "log = \"error\"\n\n[server]\nlisten = \"127.0.0.1:7001\"\n[engine]\nthreads = 5\n")
        .unwrap();
    let show = |env: &[(&str, &str)], args: &[&str]| {
        let args: Vec<&str> = ["config", "show", "--json", "--config", "f.toml"].iter().chain(args).copied().collect();
        site.falaj_with(env, &args).ok().json()
    };
    let shown = show(&[("FALAJ_LISTEN", "127.0.0.1:7002")], &["--threads", "7"]);
    assert_eq!(shown["log"]["from"], "f.toml:1");
    assert_eq!(shown["server.listen"]["value"], "127.0.0.1:7002");
    assert_eq!(shown["server.listen"]["from"], "env FALAJ_LISTEN");
    assert_eq!(shown["engine.threads"]["value"], "7");
    assert_eq!(shown["engine.threads"]["from"], "flag --threads");
    assert_eq!(shown["engine.isa"]["from"], "default");
    assert_eq!(shown["data"]["from"], "env FALAJ_DATA");

    let table = site.falaj(&["config", "show", "--config", "f.toml"]).ok().out;
    assert!(table.contains("f.toml:4"), "{table}");
}

#[test]
fn the_file_is_found_in_its_usual_place() {
    let site = Site::new("config-home");
    fs::create_dir_all(site.path(".config/falaj")).unwrap();
    fs::write(site.path(".config/falaj/falaj.toml"), "[hub]\nendpoint = \"https://hub.example.org\"\n").unwrap();
    let shown = site.falaj(&["config", "show", "--json"]).ok().json();
    assert_eq!(shown["hub.endpoint"]["value"], "https://hub.example.org");
    let shown = site.falaj_with(&[("HF_ENDPOINT", "http://mirror")], &["config", "show", "--json"]).ok().json();
    assert_eq!(shown["hub.endpoint"]["from"], "env HF_ENDPOINT");
}

#[test]
fn mistakes_name_the_line_and_the_neighbour() {
    let site = Site::new("config-wrong");
    let try_file = |text: &str| {
        fs::write(site.path("f.toml"), text).unwrap();
        site.falaj(&["config", "show", "--config", "f.toml"])
    };
    try_file("[server]\n\nlisen = \"127.0.0.1:1\"\n")
        .fails(2, &["f.toml:3", "`server.lisen`", "did you mean `server.listen`?"]);
    try_file("[engine]\nmax_sequences = -1\n").fails(2, &["f.toml:2", "`engine.max_sequences` cannot be `-1`"]);
    try_file("[engine]\nthreads = true\n").fails(2, &["f.toml:2", "boolean"]);
    try_file("[engine\n").fails(2, &["f.toml:1"]);
    site.falaj(&["config", "show", "--config", "missing.toml"]).fails(2, &["missing.toml"]);
    site.falaj_with(&[("FALAJ_ISA", "mmx")], &["config", "show"]).fails(2, &["env FALAJ_ISA", "`scalar`"]);
}

#[test]
fn doctor_knows_the_machine() {
    let site = Site::new("doctor");
    let found = site.falaj(&["doctor", "--quick", "--json"]).ok().json();
    assert!(found["usable_cores"].as_u64().unwrap() >= 1);
    assert!(found["memory_bytes"].as_u64().unwrap() > 0);
    assert!(found["parameters_that_fit"]["Q8_0"].as_u64().unwrap() > 0);
    assert!(found["isa_available"].as_array().unwrap().iter().any(|isa| isa == "scalar"));
    let told = site.falaj(&["doctor", "--quick", "--lang", "ar"]).ok().out;
    assert!(told.contains("المعالج"), "{told}");
    // How energy is known depends on the machine; that it is said does not.
    let grade = found["energy"]["grade"].as_str().unwrap();
    assert!(["B", "D", "E"].contains(&grade), "{grade}");
    assert!(found["energy"]["counters"].is_u64() != found["energy"]["counters_absent"].is_string());
    assert!(told.contains(&format!("الدرجة {grade}")), "{told}");
    let env = [("FALAJ_ENERGY_GRAMS_PER_KWH", "12"), ("FALAJ_ENERGY_CPU_WATTS", "40")];
    let found = site.falaj_with(&env, &["doctor", "--quick", "--json"]).ok().json();
    assert!(found["energy"]["grade"] != "E" && found["energy"]["grams_co2_source"] == "energy.grams_per_kwh");
    let told = site.falaj_with(&[("FALAJ_SITE_COUNTRY", "FR")], &["doctor", "--quick", "--lang", "fr"]).ok().out;
    assert!(told.contains("44 g de CO2 par kWh (FR, 2024;"), "{told}");
    std::fs::write(site.path("meter"), "1234.5\n").unwrap();
    let meter = site.path("meter").display().to_string();
    let found = site.falaj_with(&[("FALAJ_ENERGY_METER_FILE", &meter)], &["doctor", "--quick", "--json"]).ok().json();
    assert_eq!((&found["energy"]["grade"], &found["energy"]["method"]), (&"A".into(), &"meter_above_idle".into()));
    site.falaj_with(&[("FALAJ_ENERGY_CPU_WATTS", "-1")], &["doctor"]).fails(2, &["energy.cpu_watts"]);
}

#[test]
fn doctor_compares_a_model_with_the_machine() {
    let site = Site::new("doctor-model");
    let found = site.falaj(&["doctor", "falaj-seed", "--json"]).ok().json();
    let number = |path: &str| {
        found.pointer(path).and_then(serde_json::Value::as_f64).unwrap_or_else(|| panic!("{path}: {found}"))
    };
    assert_eq!(found["formats"][0]["format"], "Q8_0");
    // Eight bits and a scale of sixteen per thirty-two weights; a multiplication and an addition per weight.
    let per_weight = number("/bytes_per_token") / (number("/operations_per_token") / 2.0);
    assert!((1.06..1.1).contains(&per_weight), "{per_weight}");
    for kind in ["decode", "prompt"] {
        let share = number(&format!("/{kind}/tokens_per_s")) / number(&format!("/{kind}/limit_tokens_per_s"));
        assert!((share - number(&format!("/{kind}/share"))).abs() < 1e-9 && share > 0.0);
    }
    assert!(number("/resident_bytes") > 0.0 && number("/load_s") > 0.0);
    let told = site.falaj(&["doctor", "falaj-seed", "--lang", "fr"]).ok().out;
    assert!(told.contains("Chaque jeton coûte"), "{told}");
    site.falaj(&["doctor", "nobody"]).fails(1, &["no model is called"]);
}
