//! `falaj up`: first start, requests, a second server, signals.

use crate::site::{Site, Up, tiny_gguf};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

fn ask(model: &str) -> String {
    json!({ "model": model, "max_tokens": 8, "temperature": 0, "messages": [{ "role": "user", "content": "Hello!" }] })
        .to_string()
}

fn body(response: &str) -> Value {
    let body = response.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {response}"))
}

#[test]
fn the_first_start_makes_a_key_and_answers_with_it() {
    let site = Site::new("up-first");
    let up = site.up(&[]);
    let key = up.hello["key"].as_str().expect("shown on the first start").to_owned();
    assert!(key.starts_with("fj-") && key.len() == 67, "{key}");
    assert_eq!(fs::read_to_string(site.data().join("admin.key")).unwrap().trim(), key);
    assert_eq!(up.hello["models"], json!(["falaj-seed"]));

    let (status, response) = up.exchange("POST", "/v1/chat/completions", &key, &ask("falaj-seed"));
    assert_eq!(status, 200, "{response}");
    let answer = body(&response);
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 0);

    let (status, _) = up.exchange("POST", "/v1/chat/completions", "fj-wrong", &ask("falaj-seed"));
    assert_eq!(status, 401);
    let (status, response) = up.exchange("POST", "/v1/chat/completions", &key, &ask("../../etc/passwd"));
    assert_eq!(status, 400, "a name that is a path opens nothing: {response}");

    assert_eq!(up.stop("-TERM").0, Some(0));
    let up = site.up(&[]);
    assert_eq!(up.hello["key"], Value::Null, "once is enough");
    assert_eq!(up.exchange("GET", "/v1/models", &key, "").0, 200);
    assert_eq!(up.stop("-INT").0, Some(0));
}

#[cfg(unix)]
#[test]
fn the_key_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new("up-mode");
    let key = site.data().join("admin.key");
    site.up(&[]).stop("-TERM");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(site.data()).unwrap().permissions().mode() & 0o777, 0o700);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, err) = site.up(&[]).stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(err.contains("mode 644"), "{err}");

    fs::write(&key, "").unwrap();
    site.falaj(&["up", "--listen", "127.0.0.1:0"]).fails(1, &["does not hold a key", "next:"]);
}

#[test]
fn a_taken_port_and_a_taken_directory_say_so() {
    let site = Site::new("up-taken");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let next = format!("--listen 127.0.0.1:{}", other.local_addr().unwrap().port() + 1);
    site.falaj(&["up", "--listen", &taken]).fails(1, &["already listens", &taken, &next]);
    site.falaj(&["up", "--listen", "8080"]).fails(2, &["server.listen", "--listen", "127.0.0.1:8080"]);
    site.falaj(&["up", "--listen", "192.0.2.1:80"]).fails(1, &["cannot listen on 192.0.2.1:80"]);

    let up = site.up(&[]);
    let process = format!("process {}", up.hello["pid"]);
    site.falaj(&["up", "--listen", "127.0.0.1:0"]).fails(1, &["another falaj", &process, "--data DIR"]);
    assert_eq!(up.stop("-TERM").0, Some(0));
}

#[test]
fn models_of_the_catalog_are_listed_and_loaded_when_asked_for() {
    let site = Site::new("up-catalog");
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/falaj-seed/falaj-seed-q8_0.gguf");
    site.falaj(&["model", "import", seed, "--name", "copy"]).ok();
    fs::write(site.path("mute.gguf"), tiny_gguf()).unwrap();
    site.falaj(&["model", "import", "mute.gguf"]).ok();

    let up = site.up(&["--model", seed]);
    let key = up.hello["key"].as_str().unwrap().to_owned();
    assert_eq!(up.hello["models"], json!(["copy", "falaj-seed", "falaj-seed-q8_0", "mute"]));
    let (status, _) = up.exchange("POST", "/v1/chat/completions", &key, &ask("falaj-seed-q8_0"));
    assert_eq!(status, 200, "a path given at start is served under its name");
    let (status, response) = up.exchange("POST", "/v1/chat/completions", &key, &ask("copy"));
    assert_eq!((status, body(&response)["model"].as_str()), (200, Some("copy")), "{response}");
    // It has no vocabulary: the error reaches its client, and nobody else.
    let (status, response) = up.exchange("POST", "/v1/chat/completions", &key, &ask("mute"));
    assert!(status >= 500 && response.contains("mute"), "{response}");
    let (status, _) = up.exchange("POST", "/v1/chat/completions", &key, &ask("falaj-seed"));
    assert_eq!(status, 200);
    assert_eq!(up.stop("-TERM").0, Some(0));
}

/// Starts a stream that runs to `max_tokens` and reads its first event.
fn start_stream(up: &Up, max_tokens: u32) -> BufReader<TcpStream> {
    let key = up.hello["key"].as_str().unwrap();
    let request = json!({ "model": "falaj-seed", "max_tokens": max_tokens, "temperature": 0, "stream": true,
        // The end token, forbidden: the length does not hang on what the model would say.
        "logit_bias": { "2": -100 }, "messages": [{ "role": "user", "content": "Count from one to twenty." }] });
    let request = request.to_string();
    let mut stream = TcpStream::connect(up.address()).unwrap();
    let head = format!(
        "POST /openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{request}",
        request.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data:") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended before its first event");
    }
    reader
}

#[test]
fn a_stream_under_way_is_finished_before_the_end() {
    let site = Site::new("up-drain");
    let up = site.up(&[]);
    let mut stream = start_stream(&up, 64);
    up.signal("-TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("[DONE]"), "{rest}");
    assert_eq!(up.ended().0, Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let site = Site::new("up-twice");
    let up = site.up(&[]);
    let _stream = start_stream(&up, 1900);
    up.signal("-TERM");
    // Another one: two of the same kind that wait together are one.
    assert_eq!(up.stop("-INT").0, Some(130));
}

#[test]
fn people_get_lines_to_paste_in_their_language() {
    let site = Site::new("up-words");
    let mut child = site.command(&["up", "--listen", "127.0.0.1:0", "--lang", "fr"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("Ctrl-C") {
        assert!(out.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    assert!(child.wait().unwrap().success());
    for words in ["Falaj est prêt", "admin.key", "curl http://127.0.0.1:", "python3 -c", "/openai/v1", "Bonjour"] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
}

#[test]
fn models_take_turns_in_little_memory() {
    let site = Site::new("up-memory");
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/falaj-seed/falaj-seed-q8_0.gguf");
    site.falaj(&["model", "import", seed, "--name", "one"]).ok();
    site.falaj(&["model", "import", seed, "--name", "two"]).ok();
    let cards = |up: &Up, key: &str| {
        let (status, response) = up.exchange("GET", "/v1/models", key, "");
        assert_eq!(status, 200, "{response}");
        body(&response)["data"].clone()
    };
    let up = site.up(&[]);
    let key = up.hello["key"].as_str().unwrap().to_owned();
    let bytes = cards(&up, &key)[1]["memory_bytes"].as_u64().unwrap();
    up.stop("-TERM");

    // Room for two of them, of which the built-in one is loaded at start.
    let up = site.up(&["--memory", &(bytes * 5 / 2).to_string()]);
    for model in ["one", "two", "one"] {
        let (status, response) = up.exchange("POST", "/v1/chat/completions", &key, &ask(model));
        assert_eq!(status, 200, "{response}");
    }
    let cards = cards(&up, &key);
    let states: Vec<&str> = (0..3).map(|i| cards[i]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["on_disk", "loaded", "loaded"]);
    let listed = site.falaj(&["model", "list", "--url", up.url()]).ok().out;
    assert!(listed.lines().any(|line| line.starts_with("falaj-seed") && line.contains("on disk")), "{listed}");
    let listed = site.falaj(&["model", "list", "--url", up.url(), "--json"]).ok().json();
    assert_eq!(listed["models"][1]["state"], "loaded");
    up.stop("-TERM");

    let up = site.up(&["--memory", "1m"]);
    let (status, response) = up.exchange("POST", "/v1/chat/completions", &key, &ask("one"));
    assert_eq!(status, 507, "{response}");
    assert!(response.contains("models may take 1 MB here"), "{response}");
    let (_, err) = up.stop("-TERM");
    assert!(err.contains("falaj-seed stays on disk"), "{err}");
}
