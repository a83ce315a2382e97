//! A model hub on the loopback: the listing, `resolve` with redirects to a storage of its own port, ranges, tokens, and
//! on demand the faults of real networks. Speaks as much HTTP as the client needs.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Clone, Default)]
pub struct Repo {
    pub files: Vec<RepoFile>,
    /// Only requests with this token are answered.
    pub token: Option<String>,
    /// The first answers from storage break off after so many bytes each.
    pub cuts: Vec<usize>,
    /// Without sizes and digests, as simple mirrors do: they are in the headers of the files then.
    pub plain_listing: bool,
    pub no_ranges: bool,
}

#[derive(Clone)]
pub struct RepoFile {
    pub path: String,
    pub bytes: Vec<u8>,
    /// Large files are listed with SHA-256 and redirected to storage; small ones with git's id, served in place.
    pub large: bool,
    /// What the listing says instead of the truth.
    pub lies: Option<String>,
}

impl RepoFile {
    pub fn small(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), bytes: text.as_bytes().to_vec(), large: false, lies: None }
    }

    pub fn large(path: &str, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), bytes, large: true, lies: None }
    }

    fn digest(&self) -> String {
        match (&self.lies, self.large) {
            (Some(lie), _) => lie.clone(),
            (None, true) => hex(&Sha256::digest(&self.bytes)),
            (None, false) => {
                let mut hasher = Sha1::new_with_prefix(format!("blob {}\0", self.bytes.len()));
                hasher.update(&self.bytes);
                hex(&hasher.finalize())
            }
        }
    }
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

pub struct StandIn {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    repo: Mutex<Repo>,
    seen: Mutex<Vec<Seen>>,
    storage_url: String,
}

impl StandIn {
    pub fn start(repo: Repo) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let storage = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            repo: Mutex::new(repo),
            seen: Mutex::default(),
            storage_url: format!("http://{}", storage.local_addr().unwrap()),
        });
        let url = format!("http://{}", hub.local_addr().unwrap());
        // The threads end with the test process: they hold nothing but memory.
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || shared.serve(stream.unwrap(), is_storage));
                }
            });
        }
        Self { url, shared }
    }

    pub fn change(&self, change: impl FnOnce(&mut Repo)) {
        change(&mut self.shared.repo.lock().unwrap());
    }

    /// What was asked since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }
}

impl Shared {
    /// One connection; it may carry several requests.
    fn serve(&self, stream: TcpStream, is_storage: bool) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(seen) = read_request(&mut reader) {
            self.seen.lock().unwrap().push(seen.clone());
            if !self.answer(&mut stream, &seen, is_storage) {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    /// Whether the connection goes on.
    fn answer(&self, stream: &mut TcpStream, seen: &Seen, is_storage: bool) -> bool {
        let mut repo = self.repo.lock().unwrap();
        if !is_storage && repo.token.is_some() && seen.token != repo.token {
            return reply(stream, seen, "401 Unauthorized", &[], b"{\"error\":\"Repository not found\"}");
        }
        if seen.path.starts_with("/api/models/lab/tiny/revision/main") {
            let listing = listing(&repo).to_string();
            return reply(stream, seen, "200 OK", &[("Content-Type", "application/json")], listing.as_bytes());
        }
        let prefix = if is_storage { "/blob/".to_owned() } else { format!("/lab/tiny/resolve/{COMMIT}/") };
        let found = seen.path.strip_prefix(&prefix).and_then(|path| repo.files.iter().find(|file| file.path == path));
        let Some(file) = found.cloned() else { return reply(stream, seen, "404 Not Found", &[], b"Entry not found") };
        let etag = format!("\"{}\"", file.digest());
        if file.large && !is_storage {
            let (to, size) = (format!("{}/blob/{}", self.storage_url, file.path), file.bytes.len().to_string());
            let headers = [("Location", &*to), ("X-Linked-Etag", &etag), ("X-Linked-Size", &size)];
            return reply(stream, seen, "302 Found", &headers, b"");
        }
        let start = seen.range.as_deref().filter(|_| !repo.no_ranges).map(|range| {
            range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().expect("`bytes=N-`")
        });
        let content_range = format!("bytes {}-{}/{}", start.unwrap_or(0), file.bytes.len() - 1, file.bytes.len());
        let body = &file.bytes[start.unwrap_or(0)..];
        let status = if start.is_some() { "206 Partial Content" } else { "200 OK" };
        let headers = [("ETag", &*etag), ("Content-Range", &content_range)];
        let headers = if start.is_some() { &headers[..] } else { &headers[..1] };
        if is_storage && !repo.cuts.is_empty() {
            let cut = repo.cuts.remove(0);
            write_head(stream, status, headers, body.len());
            let _ = stream.write_all(&body[..cut.min(body.len())]);
            return false;
        }
        reply(stream, seen, status, headers, body)
    }
}

fn listing(repo: &Repo) -> serde_json::Value {
    let siblings = repo.files.iter().map(|file| {
        let mut entry = serde_json::json!({ "rfilename": file.path });
        if !repo.plain_listing {
            entry["size"] = file.bytes.len().into();
            if file.large {
                entry["blobId"] = "f".repeat(40).into();
                entry["lfs"] =
                    serde_json::json!({ "sha256": file.digest(), "size": file.bytes.len(), "pointerSize": 130 });
            } else {
                entry["blobId"] = file.digest().into();
            }
        }
        entry
    });
    serde_json::json!({
        "id": "lab/tiny",
        "sha": COMMIT,
        "private": false,
        "cardData": { "license": "apache-2.0" },
        "siblings": siblings.collect::<Vec<_>>(),
    })
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut range, mut token) = (None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.trim().to_owned()),
            "authorization" => token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Some(Seen { method, path, range, token })
}

fn reply(stream: &mut TcpStream, seen: &Seen, status: &str, headers: &[(&str, &str)], body: &[u8]) -> bool {
    write_head(stream, status, headers, body.len());
    seen.method == "HEAD" || stream.write_all(body).is_ok()
}

fn write_head(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], length: usize) {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
