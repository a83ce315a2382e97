//! `falaj model pull` against a stand-in for the hub: what is fetched, resumed, checked and refused.

use crate::site::{Ran, Site, TINY_CONFIG, tiny_gguf, tiny_safetensors};
use crate::stand_in::{Repo, RepoFile, StandIn};
use std::fs;

fn safetensors_repo() -> Repo {
    let files = vec![
        RepoFile::small("README.md", "---\nlicense: apache-2.0\n---\n# tiny\n"),
        RepoFile::small("config.json", TINY_CONFIG),
        RepoFile::large("model.safetensors", tiny_safetensors()),
        RepoFile::large("onnx/model.onnx", vec![0; 64]),
        RepoFile::large("pytorch_model.bin", vec![0; 64]),
        RepoFile::small("tokenizer_config.json", "{}"),
    ];
    Repo { files, ..Repo::default() }
}

fn gguf_repo() -> Repo {
    let files = vec![
        RepoFile::large("tiny-f32.gguf", tiny_gguf()),
        RepoFile::large("q/tiny-other.gguf", tiny_gguf()),
        RepoFile::small("README.md", "# tiny\n"),
    ];
    Repo { files, ..Repo::default() }
}

fn pull(site: &Site, hub: &StandIn, what: &str, more: &[&str]) -> Ran {
    let args = ["model", "pull", what, "--endpoint", &hub.url];
    site.falaj(&args.iter().chain(more).copied().collect::<Vec<_>>())
}

#[test]
fn what_a_model_needs_is_fetched_and_nothing_else() {
    let site = Site::new("pull");
    let hub = StandIn::start(safetensors_repo());
    let summary = pull(&site, &hub, "lab/tiny", &["--json"]).ok().json();
    assert_eq!(summary["name"], "tiny");
    assert_eq!(summary["license"], "apache-2.0");
    assert!(summary["source"].as_str().unwrap().starts_with("lab/tiny@0123"));
    let asked: Vec<String> = hub.seen().into_iter().map(|seen| seen.path).collect();
    assert!(asked.iter().any(|path| path.ends_with("/model.safetensors")));
    assert!(!asked.iter().any(|path| path.ends_with(".bin") || path.ends_with(".onnx")), "{asked:?}");

    site.falaj(&["model", "verify", "tiny"]).ok();
    let listed = site.falaj(&["model", "list", "--json"]).ok().json();
    assert_eq!(listed["models"][1]["architecture"], "LlamaForCausalLM");
    assert_eq!(leftovers(&site), 0);
    pull(&site, &hub, "lab/tiny", &[]).fails(1, &["already a model `tiny`"]);
    assert!(hub.seen().is_empty(), "refused before anything was asked");
    pull(&site, &hub, "lab/tiny", &["--name", "again"]).ok();
}

#[test]
fn a_cut_is_resumed_where_it_happened() {
    let site = Site::new("pull-cut");
    let hub = StandIn::start(Repo { cuts: vec![1000, 70_000], ..safetensors_repo() });
    pull(&site, &hub, "lab/tiny", &[]).ok();
    let ranges: Vec<_> =
        hub.seen().into_iter().filter(|seen| seen.path.starts_with("/blob/")).map(|s| s.range).collect();
    assert_eq!(ranges, [None, Some("bytes=1000-".to_owned()), Some("bytes=71000-".to_owned())]);
    site.falaj(&["model", "verify", "tiny"]).ok();
}

#[test]
fn the_same_command_resumes_an_earlier_one() {
    let site = Site::new("pull-again");
    fs::write(site.path("f.toml"), "[hub]\nretries = 0\n").unwrap();
    let hub = StandIn::start(Repo { cuts: vec![5000], ..gguf_repo() });
    let what = "lab/tiny:tiny-f32.gguf";
    pull(&site, &hub, what, &["--config", "f.toml"])
        .fails(1, &["tiny-f32.gguf", "4.9 KiB", "run the same command again"]);
    assert_eq!(site.falaj(&["model", "list", "--json"]).ok().json()["models"].as_array().unwrap().len(), 1);
    hub.seen();
    pull(&site, &hub, what, &["--config", "f.toml"]).ok();
    assert!(hub.seen().iter().any(|seen| seen.range.as_deref() == Some("bytes=5000-")));
    site.falaj(&["model", "verify", "tiny-f32"]).ok();
}

#[test]
fn storage_without_ranges_starts_over() {
    let site = Site::new("pull-no-ranges");
    let hub = StandIn::start(Repo { cuts: vec![5000], no_ranges: true, ..safetensors_repo() });
    pull(&site, &hub, "lab/tiny", &[]).ok();
    site.falaj(&["model", "verify", "tiny"]).ok();
}

#[test]
fn wrong_bytes_never_reach_the_catalog() {
    let site = Site::new("pull-lies");
    let hub = StandIn::start(safetensors_repo());
    hub.change(|repo| repo.files[2].lies = Some("0".repeat(64)));
    pull(&site, &hub, "lab/tiny", &[]).fails(1, &["model.safetensors", &"0".repeat(64), "the file was deleted"]);
    hub.change(|repo| {
        repo.files[2].lies = None;
        repo.files[1].lies = Some("0".repeat(40));
    });
    // The small files came in whole the first time and are kept.
    fs::remove_dir_all(site.data()).unwrap();
    pull(&site, &hub, "lab/tiny", &[]).fails(1, &["config.json", &"0".repeat(40)]);
    hub.change(|repo| repo.files[1].lies = None);
    pull(&site, &hub, "lab/tiny", &[]).ok();
}

#[test]
fn a_part_that_was_changed_meanwhile_is_found() {
    let site = Site::new("pull-tampered");
    fs::write(site.path("f.toml"), "[hub]\nretries = 0\n").unwrap();
    let hub = StandIn::start(Repo { cuts: vec![5000], ..gguf_repo() });
    let what = "lab/tiny:tiny-f32.gguf";
    pull(&site, &hub, what, &["--config", "f.toml"]).fails(1, &[]);
    let part = site.data().join("pulls/lab+tiny").join(crate::stand_in::COMMIT).join("tiny-f32.gguf.part");
    let mut bytes = fs::read(&part).unwrap();
    bytes[4000] ^= 1;
    fs::write(&part, bytes).unwrap();
    pull(&site, &hub, what, &[]).fails(1, &["the hub lists"]);
    assert!(!part.exists());
    pull(&site, &hub, what, &[]).ok();
}

#[test]
fn tokens_go_to_the_hub_and_not_to_its_storage() {
    let site = Site::new("pull-token");
    let hub = StandIn::start(Repo { token: Some("hf_secret".to_owned()), ..safetensors_repo() });
    pull(&site, &hub, "lab/tiny", &[]).fails(1, &["asks for a token", "--token-file"]);
    fs::write(site.path("token"), "hf_secret\n").unwrap();
    hub.seen();
    pull(&site, &hub, "lab/tiny", &["--token-file", "token"]).ok();
    for seen in hub.seen() {
        let expected = if seen.path.starts_with("/blob/") { None } else { Some("hf_secret") };
        assert_eq!(seen.token.as_deref(), expected, "{seen:?}");
    }
    pull(&site, &hub, "lab/tiny", &["--name", "x", "--token-file", "nowhere"]).fails(1, &["nowhere"]);
}

#[test]
fn a_mirror_with_a_plain_listing_is_asked_file_by_file() {
    let site = Site::new("pull-mirror");
    let hub = StandIn::start(Repo { plain_listing: true, ..safetensors_repo() });
    pull(&site, &hub, "lab/tiny", &[]).ok();
    let heads = hub.seen().into_iter().filter(|seen| seen.method == "HEAD").count();
    assert_eq!(heads, 4, "README, config, weights, tokenizer configuration");
    hub.change(|repo| repo.files[2].lies = Some("1".repeat(64)));
    pull(&site, &hub, "lab/tiny", &["--name", "other"]).fails(1, &[&"1".repeat(64)]);
}

#[test]
fn a_gguf_is_named_when_there_are_several() {
    let site = Site::new("pull-gguf");
    let hub = StandIn::start(gguf_repo());
    pull(&site, &hub, "lab/tiny", &[]).fails(1, &["several GGUF", "lab/tiny:q/tiny-other.gguf"]);
    pull(&site, &hub, "lab/tiny:missing.gguf", &[]).fails(1, &["no file `missing.gguf`", "tiny-f32.gguf"]);
    pull(&site, &hub, "lab/tiny:q/tiny-other.gguf", &[]).ok();
    let shown = site.falaj(&["model", "inspect", "tiny-other", "--json"]).ok().json();
    assert_eq!(shown["files"].as_array().unwrap().len(), 1);
}

#[test]
fn what_cannot_be_pulled_says_why() {
    let site = Site::new("pull-wrong");
    let hub = StandIn::start(Repo { files: vec![RepoFile::large("pytorch_model.bin", vec![0; 9])], ..Repo::default() });
    pull(&site, &hub, "lab/tiny", &[]).fails(1, &["no weights", "pickle"]);
    pull(&site, &hub, "lab/other", &[]).fails(1, &["`lab/other` is not at"]);
    pull(&site, &hub, "tiny", &[]).fails(2, &["OWNER/REPO"]);
    pull(&site, &hub, "lab/tiny", &["--revision", "nowhere"]).fails(1, &["--revision"]);
    site.falaj(&["model", "pull", "lab/tiny", "--endpoint", "hub.example"]).fails(2, &["hub.endpoint", "https://"]);
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{gone}");
    site.falaj(&["model", "pull", "lab/tiny", "--endpoint", &gone]).fails(1, &["cannot reach", "--endpoint URL"]);
}

fn leftovers(site: &Site) -> usize {
    let repositories = fs::read_dir(site.data().join("pulls")).unwrap();
    repositories.map(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn a_file_from_a_folder_is_compared_with_the_hub_when_it_is_imported() {
    let site = Site::new("pull-folder");
    let hub = StandIn::start(gguf_repo());
    let stage = site.path("data/pulls/lab+tiny").join("0123456789abcdef0123456789abcdef01234567");
    fs::create_dir_all(&stage).unwrap();
    let mut changed = tiny_gguf();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(stage.join("tiny-other.gguf"), changed).unwrap();
    pull(&site, &hub, "lab/tiny:q/tiny-other.gguf", &[]).fails(1, &["`tiny-other.gguf`", "vouched"]);
}
