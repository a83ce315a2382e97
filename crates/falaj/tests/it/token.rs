//! A site whose key is in a PKCS#11 token: SoftHSM2, with tokens of the test's own.

use crate::site::{Site, Up};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PROGRAM: &str = "/usr/bin/softhsm2-util";
const PIN: &str = "4711-site";

/// A site, a folder of tokens, and settings that name one of them.
struct Tokens {
    site: Site,
    conf: String,
}

impl Tokens {
    fn new(name: &str) -> Option<Self> {
        if ![MODULE, PROGRAM].iter().all(|path| Path::new(path).is_file()) {
            eprintln!(
                "\n!!! NOT RUN: no SoftHSM2 here, so no key in a token was tested; install Debian's `softhsm2`\n"
            );
            return None;
        }
        let site = Site::new(name);
        let conf = site.path("softhsm2.conf").display().to_string();
        let tokens = Self { site, conf };
        tokens.make_folder();
        let folder = tokens.folder();
        fs::write(&tokens.conf, format!("directories.tokendir = {folder}\nobjectstore.backend = file\n")).unwrap();
        tokens.init("ministry", PIN);
        tokens.write_pin(PIN);
        tokens.write_settings("ministry", "site-key");
        Some(tokens)
    }

    fn folder(&self) -> String {
        self.site.path("tokens").display().to_string()
    }

    fn make_folder(&self) {
        fs::create_dir(self.folder()).unwrap();
    }

    fn util(&self, args: &[&str]) {
        let mut command = Command::new(PROGRAM);
        let status = command.args(args).env("SOFTHSM2_CONF", &self.conf).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "{command:?}");
    }

    fn init(&self, label: &str, pin: &str) {
        self.util(&["--init-token", "--free", "--label", label, "--so-pin", "0815-officer", "--pin", pin]);
    }

    fn write_pin(&self, pin: &str) {
        let path = self.site.path("pin");
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn write_settings(&self, token: &str, key: &str) {
        self.write_file(&format!("module = \"{MODULE}\"\ntoken = \"{token}\"\nkey = \"{key}\"\npin_file = \"pin\"\n"));
    }

    fn write_file(&self, pkcs11: &str) {
        let text = format!("[site]\nid = \"a.example\"\n[site.pkcs11]\n{pkcs11}");
        let path = self.site.path(".config/falaj/falaj.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn falaj(&self, args: &[&str]) -> crate::site::Ran {
        self.site.falaj_with(&[("SOFTHSM2_CONF", &self.conf)], args)
    }

    fn up(&self) -> Up {
        self.site.up_with(&[("SOFTHSM2_CONF", &self.conf)], &[])
    }

    /// Why the site does not start.
    #[track_caller]
    fn refuses(&self, words: &[&str]) {
        let ran = self.falaj(&["up", "--listen", "127.0.0.1:0"]).fails(1, words);
        assert!(!ran.err.contains(PIN), "{}", ran.err);
    }
}

/// Status and whole response.
fn ask(up: &Up) -> (u16, String) {
    let key = fs::read_to_string(up.hello["key_file"].as_str().unwrap()).unwrap();
    let ask = json!({ "model": "falaj-seed", "max_tokens": 1, "messages": [{ "role": "user", "content": "Hi" }] });
    up.exchange("POST", "/v1/chat/completions", key.trim(), &ask.to_string())
}

/// Asks until it is answered so.
fn ask_until(up: &Up, wanted: impl Fn(u16, &str) -> bool) -> String {
    let started = Instant::now();
    loop {
        let (status, response) = ask(up);
        if wanted(status, &response) {
            return response;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{response}");
    }
}

fn verify(tokens: &Tokens) {
    tokens.falaj(&["ledger", "keys", "--out", "keys"]).ok();
    tokens.falaj(&["ledger", "export", "pack"]).ok();
    let verified = tokens.falaj(&["verify", "pack", "--trust", "keys", "--json"]).ok().json();
    assert_eq!(verified["holds"], true);
    assert_eq!(verified["receipts"], verified["admissions"]);
}

#[test]
fn a_token_signs_for_a_site_and_the_key_stays_in_it() {
    let Some(tokens) = Tokens::new("token") else { return };
    tokens.refuses(&["no key `site-key`", "falaj ledger make-key"]);
    let made = tokens.falaj(&["ledger", "make-key", "--json"]).ok().json();
    tokens.falaj(&["ledger", "make-key"]).fails(1, &["holds a key `site-key` already"]);
    let up = tokens.up();
    assert_eq!(ask(&up).0, 200);
    // Public keys are public.
    fs::rename(tokens.site.path("pin"), tokens.site.path("pin.away")).unwrap();
    assert_eq!(tokens.falaj(&["ledger", "keys", "--json"]).ok().json()["site"], made["site"]);
    assert_eq!(up.stop("-TERM").0, Some(0));
    verify(&tokens);
    assert!(!tokens.site.data().join("site.key").exists());
}

/// A site that began with a file goes on with the same key in a token.
#[test]
fn a_key_moves_from_its_file_into_a_token() {
    let Some(tokens) = Tokens::new("token-move") else { return };
    let settings = tokens.site.path(".config/falaj/falaj.toml");
    let with_token = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, "[site]\nid = \"a.example\"\n").unwrap();
    let up = tokens.up();
    assert_eq!(ask(&up).0, 200);
    assert_eq!(up.stop("-TERM").0, Some(0));
    fs::write(&settings, with_token).unwrap();
    let file = tokens.site.data().join("site.key").display().to_string();
    let import = ["--import", &file, "--token", "ministry", "--label", "site-key", "--id", "01", "--pin", PIN];
    tokens.util(&import);
    fs::remove_file(file).unwrap();
    let up = tokens.up();
    assert_eq!(ask(&up).0, 200);
    assert_eq!(up.stop("-TERM").0, Some(0));
    verify(&tokens);
}

#[test]
fn whatever_is_wrong_with_a_token_is_named_with_what_helps() {
    let Some(tokens) = Tokens::new("token-wrong") else { return };
    tokens.falaj(&["ledger", "make-key"]).ok();
    let file = tokens.site.path("ec.pem").display().to_string();
    fs::write(&file, P256).unwrap();
    tokens.util(&["--import", &file, "--token", "ministry", "--label", "ec", "--id", "02", "--pin", PIN]);

    tokens.write_settings("chancellery", "site-key");
    tokens.refuses(&["no slot holds a token `chancellery`, but `ministry`", "site.pkcs11.token"]);
    tokens.write_settings("ministry", "ec");
    tokens.refuses(&["the key `ec`", "no Ed25519 key", "site.pkcs11.key"]);
    tokens.write_file(&format!("module = \"{}\"\ntoken = \"t\"\nkey = \"k\"\npin_file = \"p\"\n", "/nowhere.so"));
    tokens.refuses(&["`/nowhere.so`", "site.pkcs11.module"]);
    tokens.write_file("module = \"/nowhere.so\"\ntoken = \"t\"\npin_file = \"p\"\n");
    tokens.falaj(&["up"]).fails(2, &["`site.pkcs11.key` is not set", "go together"]);
    tokens.write_settings("ministry", "site-key");
    let text = fs::read_to_string(tokens.site.path(".config/falaj/falaj.toml")).unwrap();
    fs::write(tokens.site.path("both.toml"), text.replace("[site]", "[site]\nkey_file = \"site.key\"")).unwrap();
    tokens.falaj(&["--config", "both.toml", "up"]).fails(2, &["`site.key_file`", "`site.pkcs11`", "both set"]);

    tokens.write_pin("1234-wrong");
    tokens.refuses(&["refuses the PIN", "correct the file", "not tried a second time"]);
    fs::set_permissions(tokens.site.path("pin"), fs::Permissions::from_mode(0o644)).unwrap();
    tokens.refuses(&["mode 644", "chmod 600"]);
    fs::remove_file(tokens.site.path("pin")).unwrap();
    tokens.refuses(&["the PIN cannot be read", "site.pkcs11.pin_file"]);
    tokens.write_pin(PIN);
    tokens.init("ministry", PIN);
    tokens.refuses(&["2 tokens are called `ministry`"]);
}

#[test]
fn without_its_token_a_site_lets_nobody_in_and_goes_on_when_it_is_back() {
    let Some(tokens) = Tokens::new("token-away") else { return };
    tokens.falaj(&["ledger", "make-key"]).ok();
    let up = tokens.up();
    assert_eq!(ask(&up).0, 200);
    let away = tokens.site.path("away");
    fs::rename(tokens.folder(), &away).unwrap();
    tokens.make_folder();
    let refused = ask_until(&up, |status, _| status != 200);
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("no_ledger"), "{refused}");
    assert!(refused.contains("its key cannot sign") && !refused.contains("ministry"), "{refused}");
    fs::remove_dir(tokens.folder()).unwrap();
    fs::rename(&away, tokens.folder()).unwrap();
    ask_until(&up, |status, _| status == 200);
    let (code, err) = up.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(err.contains("no slot holds a token `ministry`") && !err.contains(PIN), "{err}");
    verify(&tokens);
}

/// Another token of the same name: its first refusal of the PIN is the last that this process hears of it.
#[test]
fn a_pin_that_was_refused_is_not_tried_again() {
    let Some(tokens) = Tokens::new("token-pin") else { return };
    tokens.falaj(&["ledger", "make-key"]).ok();
    let up = tokens.up();
    assert_eq!(ask(&up).0, 200);
    let away = tokens.site.path("away");
    fs::rename(tokens.folder(), &away).unwrap();
    tokens.make_folder();
    tokens.init("ministry", "0000-other");
    ask_until(&up, |status, _| status == 503);
    fs::remove_dir_all(tokens.folder()).unwrap();
    fs::rename(&away, tokens.folder()).unwrap();
    // Longer than a token that was only gone is left alone.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        assert_eq!(ask(&up).0, 503);
    }
    let (_, err) = up.stop("-TERM");
    assert!(err.contains("refuses the PIN"), "{err}");
    let up = tokens.up();
    assert_eq!(ask(&up).0, 200);
    assert_eq!(up.stop("-TERM").0, Some(0));
    verify(&tokens);
}

/// A key of another kind, made for this test.
const P256: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDaQhg56dSbFQcRIt
+A+doSXYCxsV/SSLkuMlnr2X4tChRANCAARPMjrZegCtxJ0AV3zJPwW4SPcpS/7u
5UiiZwpxuyKVTWlJu4ZIXK8QFlm7aDxftyn2aTktnVF8hNSEikdgyyBW
-----END PRIVATE KEY-----
";
