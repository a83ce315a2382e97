//! `falaj chat` with standard input that is no terminal: lines in, answers out.

use crate::site::Site;
use std::fs;

#[test]
fn a_conversation_goes_on_and_is_saved() {
    let site = Site::new("chat");
    let input = "Hello\n/save talk.json\n/reset\n/system Answer in French.\n/model\n/hlep\n\"\"\"\ntwo\nlines\n\"\"\"\n/exit\nnever\n";
    let ran = site.falaj_reading(input, &["chat", "--max-tokens", "8"]).ok();
    for words in ["/help lists", "saved in", "forgotten", "* falaj-seed", "unknown command `/hlep`"] {
        assert!(ran.err.contains(words), "`{words}` is not in: {}", ran.err);
    }
    let saved: serde_json::Value = serde_json::from_str(&fs::read_to_string(site.path("talk.json")).unwrap()).unwrap();
    assert_eq!(saved["messages"][0]["content"], "Hello");
    assert_eq!(saved["messages"][1]["role"], "assistant");
    let answer = saved["messages"][1]["content"].as_str().unwrap();
    assert!(!answer.is_empty() && ran.out.contains(answer), "{}", ran.out);
}

#[test]
fn a_running_server_answers_the_same() {
    let site = Site::new("chat-url");
    let up = site.up(&[]);
    let args = ["chat", "--max-tokens", "12", "--json"];
    let here = site.falaj_reading("Hello\nAnd you?\n", &args).ok();
    let there = site.falaj_reading("Hello\nAnd you?\n", &[&args[..], &["--url", up.url()]].concat()).ok();
    assert_eq!(there.out, here.out);
    let wrong = site.falaj(&["chat", "--url", up.url(), "--key", "fj-wrong"]);
    wrong.fails(1, &["401", "--key-file"]);
    let url = up.url().to_owned();
    up.stop("-TERM");
    site.falaj(&["chat", "--url", &url]).fails(1, &["no server answers", "falaj up"]);
}
