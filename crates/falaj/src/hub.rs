//! A client of the Hugging Face hub protocol: lists a repository at one commit, chooses the files a model needs, fetches
//! them. Resumable and checked: see `hub/download.rs`. Which files: `hub/selection.rs`. Knows no catalog.

mod download;
mod selection;

pub use selection::{Repository, select};

use crate::config;
use crate::failure::{Failure, OrFail, Outcome};
use crate::words::Word;
use serde::Deserialize;
use std::time::Duration;
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body, http};

pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    retries: u32,
}

/// A repository's files at one commit.
#[derive(Debug)]
pub struct Listing {
    /// Full commit id: everything is fetched at it, whatever happens to the branch meanwhile.
    pub commit: String,
    pub files: Vec<RemoteFile>,
    pub license: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    pub path: String,
    pub size_bytes: u64,
    pub check: Check,
}

/// What the hub vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Large files: SHA-256 of the bytes, hexadecimal.
    Sha256(String),
    /// Small files: SHA-1 of `blob LENGTH\0` and the bytes, as git names its objects.
    GitBlob(String),
    /// A mirror that lists no digests.
    Nothing,
}

impl Hub {
    pub fn new(config: &config::Hub) -> Outcome<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).or_fail(|| format!("`hub.ca_file`: `{}`", path.display()))?;
            let items = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let certificates: Vec<_> = items.collect();
            if certificates.is_empty() {
                return Err(Failure::usage(format!("`hub.ca_file`: `{}` holds no PEM certificate", path.display())));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .user_agent(concat!("falaj/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // `follow` does it: the client would compare hosts only, and the token must not reach another port either.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build()
            .new_agent();
        let token = config.token_file.as_ref().map(|path| {
            let text = std::fs::read_to_string(path).or_fail(|| format!("`hub.token_file`: `{}`", path.display()))?;
            let token = text.trim().to_owned();
            if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
                return Err(Failure::usage(format!("`hub.token_file`: `{}` holds no token", path.display())));
            }
            Ok(token)
        });
        Ok(Self { agent, endpoint: config.endpoint.clone(), token: token.transpose()?, retries: config.retries })
    }

    /// The files of `repository` at `revision` (branch, tag or commit).
    pub fn list(&self, repository: &Repository, revision: &str) -> Outcome<Listing> {
        let url =
            format!("{}/api/models/{}/revision/{}?blobs=true", self.endpoint, repository.name, escape(revision, true));
        let mut response = self.get(&url)?;
        self.expect_success(&response, &repository.name)?;
        let body = response.body_mut().with_config().limit(LISTING_LIMIT_BYTES).read_to_vec();
        let body = body.map_err(|error| self.unreachable(&error))?;
        let info: Info = serde_json::from_slice(&body).map_err(|error| self.bad_answer(&error.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(self.bad_answer(&format!("`{}` is no commit", info.sha.escape_debug())));
        }
        let license = info.card.and_then(|card| card.license.as_str().map(str::to_owned));
        let files = info.siblings.into_iter().filter(|file| is_safe(&file.path));
        let files: Outcome<Vec<_>> = files.map(|file| self.remote_file(repository, &info.sha, file)).collect();
        Ok(Listing { commit: info.sha, files: files?, license })
    }

    fn remote_file(&self, repository: &Repository, commit: &str, file: Sibling) -> Outcome<RemoteFile> {
        let check = match (file.lfs, file.blob) {
            (Some(Lfs { sha256 }), _) if is_hex(&sha256, 64) => Check::Sha256(sha256),
            (None, Some(blob)) if is_hex(&blob, 40) => Check::GitBlob(blob),
            _ => Check::Nothing,
        };
        match (file.size, &check) {
            (Some(size_bytes), Check::Sha256(_) | Check::GitBlob(_)) => {
                Ok(RemoteFile { path: file.path, size_bytes, check })
            }
            _ if !selection::is_interesting(&file.path) => Ok(RemoteFile { path: file.path, size_bytes: 0, check }),
            // A mirror with a plain listing: the headers of the file say the rest.
            _ => self.probe(repository, commit, file.path),
        }
    }

    /// Size and digest from the headers, without following the redirect to storage, which knows neither.
    fn probe(&self, repository: &Repository, commit: &str, path: String) -> Outcome<RemoteFile> {
        let url = self.file_url(repository, commit, &path);
        let response = self.authorised(self.agent.head(&url), &url).call().map_err(|error| self.unreachable(&error))?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let size = header("x-linked-size").or_else(|| header("content-length")).and_then(|size| size.parse().ok());
        let size_bytes = size.ok_or_else(|| self.bad_answer(&format!("no size for `{path}`")))?;
        let etag = header("x-linked-etag").or_else(|| header("etag")).unwrap_or("");
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let check = match etag {
            etag if is_hex(etag, 64) => Check::Sha256(etag.to_owned()),
            etag if is_hex(etag, 40) => Check::GitBlob(etag.to_owned()),
            _ => Check::Nothing,
        };
        Ok(RemoteFile { path, size_bytes, check })
    }

    fn file_url(&self, repository: &Repository, commit: &str, path: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, repository.name, escape(path, false))
    }

    fn get(&self, url: &str) -> Outcome<http::Response<Body>> {
        self.follow(url, 0).map_err(|error| self.unreachable(&error))
    }

    /// GET from `from_byte` on, through redirects. The token goes to the hub's own origin only: addresses of its storage
    /// carry their own signature.
    fn follow(&self, url: &str, from_byte: u64) -> Result<http::Response<Body>, ureq::Error> {
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.authorised(self.agent.get(&url), &url);
            if from_byte > 0 {
                request = request.header("range", format!("bytes={from_byte}-"));
            }
            let response = request.call()?;
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            match location.filter(|_| response.status().is_redirection()) {
                Some(location) => url = redirected(&url, location).ok_or(ureq::Error::RedirectFailed)?,
                None => return Ok(response),
            }
        }
        Err(ureq::Error::TooManyRedirects)
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>, url: &str) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) if origin(url) == origin(&self.endpoint) => {
                request.header("authorization", format!("Bearer {token}"))
            }
            _ => request,
        }
    }

    fn expect_success(&self, response: &http::Response<Body>, what: &str) -> Outcome {
        let status = response.status();
        match status.as_u16() {
            _ if status.is_success() => Ok(()),
            // The hub says 401 for what does not exist, so that names of private repositories do not leak.
            401 | 404 => {
                Err(Failure::new(Word::PullNotFound.with(&[what, &self.endpoint])).next(Word::PullNotFoundNext.text()))
            }
            403 => {
                let cause = Word::PullGated.with(&[what, &self.endpoint, status.as_str()]);
                Err(Failure::new(cause).next(Word::PullGatedNext.text()))
            }
            _ => {
                let cause = Word::PullStatus.with(&[&self.endpoint, status.as_str(), what]);
                Err(Failure::new(cause).next(Word::PullUnreachableNext.text()))
            }
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let cause = Word::PullUnreachable.with(&[&self.endpoint, &error.to_string()]);
        Failure::new(cause).next(Word::PullUnreachableNext.text())
    }

    fn bad_answer(&self, detail: &str) -> Failure {
        Failure::new(Word::PullBadAnswer.with(&[&self.endpoint, detail])).next(Word::PullBadAnswerNext.text())
    }
}

/// `GET /api/models/{repository}/revision/{revision}?blobs=true`, the parts read here.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Option<Card>,
}

#[derive(Deserialize)]
struct Sibling {
    #[serde(rename = "rfilename")]
    path: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

#[derive(Deserialize)]
struct Card {
    /// A name, in some repositories a list.
    #[serde(default)]
    license: serde_json::Value,
}

/// The commit enters URLs and paths.
fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A relative path without tricks. Others are not listed at all: no model needs them.
fn is_safe(path: &str) -> bool {
    !path.contains('\\')
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Percent-encodes all but unreserved characters (RFC 3986 §2.3), and `/` too where it is no separator.
fn escape(text: &str, slash: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (byte == b'/' && !slash);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Scheme, host and port, as written.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Where a `Location` leads from `url`; nowhere when it leaves TLS or is neither an address nor a path.
fn redirected(url: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") || (location.starts_with("http://") && url.starts_with("http://")) {
        Some(location.to_owned())
    } else if location.starts_with('/') && !location.starts_with("//") {
        Some(format!("{}{location}", origin(url)))
    } else {
        None
    }
}

const MOST_REDIRECTS: usize = 5;
const LISTING_LIMIT_BYTES: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_not_listed() {
        for path in ["../x", "/etc/passwd", "a//b", "a/../b", "a\\b", "a\nb", ""] {
            assert!(!is_safe(path), "{path:?}");
        }
        assert!(is_safe("Q4/model.gguf"));
    }

    #[test]
    fn redirects_stay_with_tls_and_tokens_with_their_origin() {
        let hub = "https://hub.example/a/resolve/x";
        assert_eq!(redirected(hub, "https://cdn.example/b?s=1").as_deref(), Some("https://cdn.example/b?s=1"));
        assert_eq!(redirected(hub, "/api/cache/x").as_deref(), Some("https://hub.example/api/cache/x"));
        for bad in ["http://cdn.example/b", "//cdn.example/b", "file:///etc/passwd", "x"] {
            assert_eq!(redirected(hub, bad), None, "{bad}");
        }
        assert_ne!(origin("http://127.0.0.1:1/a"), origin("http://127.0.0.1:2/a"));
        assert_ne!(origin("https://hub.example.evil/a"), origin("https://hub.example"));
        assert_eq!(origin("https://hub.example?x"), "https://hub.example");
    }

    #[test]
    fn urls_are_escaped() {
        assert_eq!(escape("refs/pr/1", true), "refs%2Fpr%2F1");
        assert_eq!(escape("Q4/نموذج ?.gguf", false), "Q4/%D9%86%D9%85%D9%88%D8%B0%D8%AC%20%3F.gguf");
    }
}
