//! `falaj engine`: a server of another make behind this one.

use crate::site::Site;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

/// Lists one model and says one word, to whoever has its key.
fn other() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            // Requests of tests are small and come in one piece, or in two.
            while !text.contains("\r\n\r\n") || (text.starts_with("POST") && !text.ends_with('}')) {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
                }
            }
            let body = match text.starts_with("GET /v1/models ") {
                true => json!({"data": [{"id": "qwen"}]}),
                false => json!({"choices": [{"message": {"role": "assistant", "content": "salam"}}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
            };
            let body = body.to_string();
            let known = text.to_lowercase().contains("authorization: bearer gpu-secret\r\n");
            let status = if known { "200 OK" } else { "401 Unauthorized" };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    url
}

#[test]
fn a_running_server_notices_what_is_attached_and_detached() {
    let site = Site::new("engine");
    let (url, key_file) = (other(), site.path("gpu.key"));
    fs::write(&key_file, "gpu-secret\n").unwrap();
    let up = site.up(&[]);
    let key = up.hello["key"].as_str().unwrap().to_owned();
    let ask = json!({"model": "qwen", "messages": [{"role": "user", "content": "x"}]}).to_string();
    let until = |wanted: u16| loop {
        let (status, response) = up.exchange("POST", "/v1/chat/completions", &key, &ask);
        if status == wanted {
            break response;
        }
        assert!([200, 400].contains(&status), "{response}");
    };
    until(400);
    let attached = site.falaj(&["engine", "attach", &url, "--name", "gpu", "--key-file", "gpu.key", "--json"]).ok();
    let entry: Value = serde_json::from_str(&attached.out).unwrap();
    assert_eq!((&entry["models"], &entry["url"]), (&json!(["qwen"]), &json!(url)));
    assert!(until(200).contains("salam"));
    let listed = site.falaj(&["engine", "list"]).ok();
    assert!(listed.out.contains("gpu") && listed.out.contains("qwen"), "{}", listed.out);
    let written = fs::read_to_string(site.data().join("engines.toml")).unwrap();
    assert!(written.contains("gpu.key") && !written.contains("gpu-secret"), "{written}");
    site.falaj(&["engine", "detach", "gpu"]).ok();
    until(400);
    assert_eq!(up.stop("-TERM").0, Some(0));
}

#[test]
fn what_is_attached_is_there_from_the_start_and_mistakes_are_told() {
    let site = Site::new("engine-start");
    site.falaj(&["engine", "attach", "http://127.0.0.1:9", "--models", "a,b", "--country", "MA"]).ok();
    let up = site.up(&[]);
    assert_eq!(up.hello["models"], json!(["a", "b", "falaj-seed"]));
    up.stop("-TERM");
    site.falaj(&["engine", "attach", "https://gpu", "--models", "a"]).fails(1, &["TLS"]);
    site.falaj(&["engine", "attach", "http://127.0.0.1:9", "--models", "a", "--country", "Maroc"]).fails(2, &["MA"]);
    site.falaj(&["engine", "attach", "http://127.0.0.1:9"]).fails(1, &["127.0.0.1:9"]);
    site.falaj(&["engine", "detach", "nobody"]).fails(1, &["nobody"]);
    site.falaj(&["engine", "list", "--json"]).ok();
}
