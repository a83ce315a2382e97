//! The ledger of a site that served: exported, verified by somebody else, a request answered again, and whatever was changed found.

use crate::site::Site;
use serde_json::json;
use std::fs;

#[test]
fn what_was_served_is_verified_replayed_and_tampering_is_named() {
    let site = Site::new("ledger");
    site.falaj(&["ledger", "status"]).fails(1, &["falaj up"]);
    let up = site.up(&[]);
    let key = up.hello["key"].as_str().unwrap().to_owned();
    // Nothing is fixed but the seed, which the site chose: the receipt has it.
    let ask = json!({ "model": "falaj-seed", "max_tokens": 12, "temperature": 0.8,
        "messages": [{ "role": "user", "content": "Write a sentence about the sea." }] });
    fs::write(site.path("request.json"), ask.to_string()).unwrap();
    let (status, response) = up.exchange("POST", "/v1/chat/completions", &key, &ask.to_string());
    assert_eq!(status, 200, "{response}");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    fs::write(site.path("response.json"), body).unwrap();
    let receipt = head.lines().find_map(|line| line.strip_prefix("falaj-receipt: ")).expect("a receipt");
    fs::write(site.path("receipt.txt"), receipt).unwrap();
    site.falaj(&["ledger", "keys", "--out", "keys"]).ok();
    // Stopping writes the last checkpoint.
    assert_eq!(up.stop("-TERM").0, Some(0));
    assert_eq!(site.falaj(&["ledger", "status", "--json"]).ok().json()["entries"], 3);
    site.falaj(&["ledger", "export", "pack"]).ok();

    let all = ["verify", "pack", "--trust", "keys", "--receipt", "receipt.txt", "--json"];
    let told = site.falaj(&all).ok().json();
    assert_eq!((&told["holds"], &told["receipts"], &told["decisions"]), (&json!(true), &json!(1), &json!(1)));
    assert_eq!(told["receipt"]["purpose"], "general");
    let replay = ["--replay", "falaj-seed", "--request", "request.json", "--response", "response.json"];
    let replayed = site.falaj(&[&all[..6], &replay].concat()).ok();
    assert!(replayed.err.contains("the same"), "{}", replayed.err);
    assert!(replayed.out.contains("everything holds"), "{}", replayed.out);
    let own = site.falaj(&["verify", "pack", "--lang", "fr"]).ok();
    assert!(own.err.contains("--trust") && own.out.contains("tout tient"), "{}", own.err);

    // Another answer, another request, another pack.
    let changed = body.replacen("\"content\":\"", "\"content\":\"Not ", 1);
    fs::write(site.path("response.json"), changed).unwrap();
    let other = site.falaj(&[&all[..6], &replay].concat()).fails(1, &["1 things"]);
    assert!(other.out.contains("another from character 0"), "{}", other.out);
    let records: Vec<_> = fs::read_dir(site.path("pack/records")).unwrap().map(|item| item.unwrap().path()).collect();
    for record in &records {
        let good = fs::read(record).unwrap();
        fs::write(record, [good.as_slice(), b" "].concat()).unwrap();
        let name = record.file_name().unwrap().to_str().unwrap();
        let told = site.falaj(&["verify", "pack", "--trust", "keys"]).fails(1, &[]);
        assert!(told.out.contains(name), "{}", told.out);
        fs::remove_file(record).unwrap();
        let told = site.falaj(&["verify", "pack", "--trust", "keys"]).fails(1, &[]);
        assert!(told.out.contains("not in the pack"), "{}", told.out);
        fs::write(record, good).unwrap();
    }
    fs::write(site.path("keys/site"), fs::read(site.path("keys/log")).unwrap()).unwrap();
    site.falaj(&["verify", "pack", "--trust", "keys"]).fails(1, &["one key"]);

    let decided = site.falaj(&["ledger", "decisions"]).ok().out;
    fs::write(site.path("decided.jsonl"), &decided).unwrap();
    fs::write(site.path("none.cedar"), "@id(\"none\") forbid (principal, action, resource);").unwrap();
    let diff = site.falaj(&["policy", "diff", "decided.jsonl", "--policies", "none.cedar"]).ok().out;
    assert!(diff.contains("1 of 1 decisions"), "{diff}");
}

#[test]
fn a_denial_is_recomputed_like_a_permit_and_can_be_tried_under_other_policies() {
    let site = Site::new("ledger-denied");
    fs::create_dir_all(site.data().join("policies")).unwrap();
    let policy = "@id(\"only-care\") forbid (principal, action == Action::\"infer\", resource)
        unless { context.purpose == \"care\" };";
    fs::write(site.data().join("policies/care.cedar"), policy).unwrap();
    let up = site.up(&[]);
    let key = up.hello["key"].as_str().unwrap().to_owned();
    let ask = json!({ "model": "falaj-seed", "messages": [{ "role": "user", "content": "the secret word" }] });
    assert_eq!(up.exchange("POST", "/v1/chat/completions", &key, &ask.to_string()).0, 403);
    assert_eq!(up.stop("-TERM").0, Some(0));
    site.falaj(&["ledger", "keys", "--out", "keys"]).ok();
    site.falaj(&["ledger", "export", "pack"]).ok();
    let verify = ["verify", "pack", "--trust", "keys"];
    let told = site.falaj(&[&verify[..], &["--json"]].concat()).ok().json();
    assert_eq!((&told["denials"], &told["decisions"], &told["admissions"]), (&json!(1), &json!(1), &json!(0)));
    assert!(site.falaj(&verify).ok().out.contains("1 denials"));

    let decided = site.falaj(&["ledger", "decisions"]).ok().out;
    assert!(!decided.contains("secret word"), "{decided}");
    fs::write(site.path("decided.jsonl"), decided).unwrap();
    let diff = site.falaj(&["policy", "diff", "decided.jsonl"]).ok().out;
    assert!(diff.contains("1 of 1 decisions") && diff.contains("only-care"), "{diff}");

    // The decision is part of the pack, as those of permits are.
    for record in fs::read_dir(site.path("pack/records")).unwrap() {
        let path = record.unwrap().path();
        if fs::read_to_string(&path).unwrap().contains("\"question\"") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(site.falaj(&verify).fails(1, &[]).out.contains("not in the pack"));
}
