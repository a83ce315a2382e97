//! `falaj policy`: what does not fit is refused, cases are decided, and recorded decisions are made again under other policies.

use crate::site::Site;
use serde_json::json;
use std::fs;

const NIGHT: &str = r#"@id("night") @remedy("train at night") @remedy_fr("entraînez la nuit")
forbid (principal, action == Action::"adapt", resource) when { context.hour >= 6 && context.hour < 20 };"#;

fn site(name: &str) -> Site {
    let site = Site::new(name);
    let world = json!({
        "site": {"id": "here", "operator": "us", "country": "MA", "operator_country": "MA"},
        "organisations": {"us": {"country": "MA"}, "them": {"country": "AE"}},
        "workspaces": {"desk": {"organisation": "us"}, "lab": {"organisation": "them"}},
        "actors": {
            "key": {"kind": "key", "workspace": "desk", "can": ["infer", "adapt"]},
            "guest": {"kind": "key", "workspace": "lab", "can": ["infer"]},
        },
        "artifacts": {"model": {"owner": "us", "kind": "model", "country": "MA"}},
    });
    fs::write(site.path("world.json"), world.to_string()).unwrap();
    fs::write(site.path("night.cedar"), NIGHT).unwrap();
    let case = |actor: &str, action: &str, expect: &str, by: &str| {
        let question = json!({"actor": actor, "action": action, "target": {"artifact": "model"}, "purpose": "test", "class": "internal"});
        format!("{}\n", json!({"question": question, "expect": expect, "by": by, "time": 1_795_429_200}))
    };
    let cases = [
        case("key", "infer", "permit", "own-artifact"),
        case("key", "adapt", "deny", "night"),
        case("guest", "infer", "deny", "no-grant"),
    ];
    fs::write(site.path("cases.jsonl"), cases.concat()).unwrap();
    site
}

#[test]
fn policies_are_tried_before_they_take_effect() {
    let site = site("policy-tried");
    let listed = site.falaj(&["policy", "check", "night.cedar"]).ok();
    assert!(listed.out.contains("night") && listed.out.contains("residency"), "{}", listed.out);
    let test = ["policy", "test", "cases.jsonl", "--world", "world.json", "--records", "decided.jsonl"];
    site.falaj(&test).fails(1, &["2 of 3 cases"]);
    let with = [&test[..], &["--policies", "night.cedar"]].concat();
    assert!(site.falaj(&with).ok().out.contains("all 3 cases"));

    // The records are those of the second call: without `night` one would be another.
    let changed = site.falaj(&["policy", "diff", "decided.jsonl"]).ok().out;
    assert!(changed.contains("decided.jsonl:2") && changed.contains("1 of 3 decisions"), "{changed}");
    let same = site.falaj(&["policy", "diff", "decided.jsonl", "--policies", "night.cedar"]).ok().out;
    assert!(same.contains("0 of 3 decisions"), "{same}");
    let told =
        site.falaj(&["policy", "explain", "decided.jsonl", "--policies", "night.cedar", "--lang", "fr"]).ok().out;
    assert!(told.contains("entraînez la nuit") && told.matches("refaite : la même").count() == 3, "{told}");
    let forged = fs::read_to_string(site.path("decided.jsonl")).unwrap().replacen(
        "\"permitted\":false",
        "\"permitted\":true",
        1,
    );
    fs::write(site.path("decided.jsonl"), forged).unwrap();
    let told = site.falaj(&["policy", "explain", "decided.jsonl", "--policies", "night.cedar"]).ok().out;
    assert!(told.contains("NOT the same"), "{told}");
}

#[test]
fn what_is_wrong_is_told() {
    let site = site("policy-wrong");
    fs::write(site.path("bad.cedar"), NIGHT.replace("context.hour", "context.mood")).unwrap();
    site.falaj(&["policy", "check", "bad.cedar"]).fails(2, &["mood", "next:"]);
    site.falaj(&["policy", "check", "none.cedar"]).fails(1, &["none.cedar"]);
    fs::write(site.path("cases.jsonl"), "{}\n").unwrap();
    site.falaj(&["policy", "test", "cases.jsonl", "--world", "world.json"]).fails(1, &["cases.jsonl:1", "question"]);
    let world = fs::read_to_string(site.path("world.json"))
        .unwrap()
        .replace("\"organisation\":\"them\"", "\"organisation\":\"gone\"");
    fs::write(site.path("world.json"), world).unwrap();
    site.falaj(&["policy", "test", "cases.jsonl", "--world", "world.json"]).fails(1, &["`lab`", "`gone`"]);
}
