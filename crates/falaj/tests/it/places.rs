//! A site whose files are in S3: what it does while S3 is away, and how it gets there.

use crate::faults::{Answer, upload};
use crate::s3::{BUCKET, KEY_ID, S3, SECRET};
use crate::site::{Site, Up};
use std::fs;

#[test]
fn files_move_to_s3_and_the_site_says_when_they_are_away() {
    let (site, mut s3) = (Site::new("places-s3"), S3::start("places"));
    let up = site.up(&[]);
    let key = up.hello["key"].as_str().unwrap().to_owned();
    let first = uploaded(&up, &key, 60_000);
    drop(up);

    let secrets = site.path("s3.credentials");
    let config = format!(
        "[blobs]\nurl = \"s3://{BUCKET}/files\"\nendpoint = \"{}\"\ncredentials_file = \"{}\"\n",
        s3.endpoint(),
        secrets.display()
    );
    let path = site.path("falaj.toml");
    fs::write(&path, config).unwrap();
    let with = ["--config", path.to_str().unwrap()];
    site.falaj(&[&["admin", "migrate", "--blobs"], &with[..]].concat()).fails(1, &["s3.credentials"]);
    fs::write(&secrets, "aws_access_key_id = x\n").unwrap();
    site.falaj(&[&["admin", "migrate", "--blobs"], &with[..]].concat()).fails(2, &["aws_secret_access_key"]);
    let text = format!("[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n");
    fs::write(&secrets, text).unwrap();
    // Not moved yet: it does not begin another place beside the first.
    site.falaj(&[&["up", "--listen", "127.0.0.1:0"], &with[..]].concat()).fails(1, &["falaj admin migrate"]);
    let moved = site.falaj(&[&["admin", "migrate", "--blobs", "--json"], &with[..]].concat()).ok().json();
    assert_eq!((&moved["tables"][0]["rows"], &moved["tables"][0]["copied"]), (&1.into(), &1.into()));
    site.falaj(&["up", "--listen", "127.0.0.1:0"]).fails(1, &["s3://site/files"]);

    let up = site.up(&with);
    let content = |id: &str| {
        let (status, text) = up.exchange("GET", &format!("/v1/files/{id}/content"), &key, "");
        Answer { status, text }
    };
    let whole = content(&first);
    assert_eq!(whole.status, 200, "{}", whole.text);
    assert_eq!(whole.number("content-length"), 60_000 / 58 * 58);
    let second = uploaded(&up, &key, 20_000_000);
    assert_eq!(s3.objects("files").len(), 2);

    s3.down();
    let (status, text) = upload(&up, &key, 6_000);
    let away = Answer { status, text };
    for answer in [away, content(&first)] {
        assert_eq!((answer.status, answer.number("retry-after")), (503, 1), "{}", answer.text);
        assert!(answer.text.contains("no_blobs") && answer.text.contains("files cannot be reached"), "{}", answer.text);
    }
    // Everything else goes on, and so does a site that starts now.
    assert_eq!(up.exchange("GET", &format!("/v1/files/{second}"), &key, "").0, 200);
    let (code, err) = up.stop("-TERM");
    assert!(code == Some(0) && err.contains("s3://site/files") && !err.contains(SECRET), "{err}");
    let up = site.up(&with);
    s3.up();
    let (status, text) = up.exchange("GET", &format!("/v1/files/{second}/content"), &key, "");
    assert_eq!((status, text.split_once("\r\n\r\n").unwrap().1.lines().count()), (200, 20_000_000 / 58));
    assert_eq!(up.exchange("DELETE", &format!("/v1/files/{second}"), &key, "").0, 200);
    assert_eq!(s3.objects("files").len(), 1);
    let (_, err) = up.stop("-TERM");
    assert!(!err.contains(SECRET), "{err}");
}

fn uploaded(up: &Up, key: &str, bytes: usize) -> String {
    let (status, text) = upload(up, key, bytes);
    assert_eq!(status, 200, "{text}");
    let body: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["id"].as_str().unwrap().to_owned()
}
