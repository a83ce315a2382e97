//! `falaj data check`: what it tells of good and bad files, in three languages, and its exit code.

use crate::site::Site;
use std::fs;

const GOOD: &str =
    r#"{"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "falaj-seed"}]}"#;

#[test]
fn a_good_file_is_described() {
    let site = Site::new("data-good");
    fs::write(site.path("a.jsonl"), format!("{GOOD}\r\n\r\n{GOOD}\n")).unwrap();
    let ran = site.falaj(&["data", "check", "a.jsonl", "--json"]).ok();
    let found = ran.json();
    assert_eq!(found["format"], "chat");
    assert_eq!((&found["rows"], &found["bad_rows"], &found["length"]), (&2.into(), &0.into(), &2048.into()));
    assert_eq!(found["same"]["first_lines"], serde_json::json!([3]));
    // <s>[INST]…[/INST] is asked, the name and the end are learnt.
    let [total, learnt] = ["total", "learnt"].map(|key| found["tokens"][key].as_u64().unwrap());
    assert!(learnt >= 4 && learnt % 2 == 0 && total > learnt + 10, "{found}");
    assert_eq!(found["estimate"]["tokens_per_second_from"], "measured");
    assert!(found["estimate"]["tokens_per_second"].as_f64().unwrap() > 1.0, "{found}");
    let given = ["data", "check", "a.jsonl", "--tokens-per-second", "2", "--epochs", "1.5", "--length", "4"];
    let ran = site.falaj(&given).ok();
    let seconds = (total as f64 * 1.5 / 2.0).ceil();
    assert!(ran.out.contains(&format!("0:00:{seconds:02} (h:min:s)")), "{}", ran.out);
    assert!(ran.out.contains("2 (lines 1, 3)"), "{}", ran.out);
}

#[test]
fn every_bad_line_is_told_by_number_and_reason() {
    let site = Site::new("data-bad");
    let text = [
        GOOD.as_bytes(),
        b"\n{\"text\": \"x\"}\nno\n\xff\n",
        r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]}"#
            .as_bytes(),
    ];
    fs::write(site.path("a.jsonl"), text.concat()).unwrap();
    let ran = site.falaj(&["data", "check", "a.jsonl"]);
    for line in [
        "line 2: this is text, but the file is chat",
        "line 3: not JSON",
        "line 4: not UTF-8",
        "line 5: nothing to learn",
    ] {
        assert!(ran.out.contains(line), "{line} is not in {}", ran.out);
    }
    ran.fails(1, &["`a.jsonl`: 4 rows cannot be learnt from", "next:"]);
    let french = site.falaj(&["data", "check", "a.jsonl", "--lang", "fr"]);
    assert!(french.out.contains("ligne 5 : rien à apprendre"), "{}", french.out);
    let arabic = site.falaj(&["data", "check", "a.jsonl", "--lang", "ar"]);
    assert!(arabic.out.contains("السطر 5"), "{}", arabic.out);
    let ran = site.falaj(&["data", "check", "a.jsonl", "--json"]);
    assert_eq!((ran.code, ran.json()["bad"][3]["line"].as_u64()), (1, Some(5)));

    fs::write(site.path("empty.jsonl"), "\n").unwrap();
    site.falaj(&["data", "check", "empty.jsonl"]).fails(1, &["has no rows"]);
    site.falaj(&["data", "check", "nowhere.jsonl"]).fails(1, &["nowhere.jsonl"]);
    site.falaj(&["data", "check", "a.jsonl", "--model", "nobody"]).fails(1, &["no model is called"]);
    site.falaj(&["data", "check", "a.jsonl", "--epochs", "0"]).fails(2, &["above 0"]);
}
