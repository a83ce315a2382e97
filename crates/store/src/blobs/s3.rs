//! Blobs in a bucket of S3, or of what speaks like it: `PREFIX/ab/abcd…`. Large ones go in parts, of which S3 shows nothing until the
//! last has come. How requests travel is in `blobs/transport.rs`.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use falaj_artifact::Digest;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt,
    RetryConfig,
};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::transport::Transport;
use super::{Pieces, gone};
use crate::StoreError;

/// S3 takes no smaller parts than 5 MiB (but the last), and no more than 10,000 of them: 80 GB.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at once, all of them in memory.
const PARTS_AT_ONCE: usize = 3;
/// For a piece of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the blobs are, and what opens it.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// `s3://BUCKET/PREFIX`; the prefix may be absent.
    pub url: String,
    /// `https://HOST`; `None`: Amazon's of the region.
    pub endpoint: Option<String>,
    pub region: String,
    pub credentials: S3Credentials,
    /// Authorities to trust instead of the public ones.
    pub ca_pem: Option<Vec<u8>>,
}

/// What signs requests. Never shown.
#[derive(Clone)]
pub struct S3Credentials {
    pub key_id: String,
    pub secret: Zeroizing<String>,
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("S3Credentials")
    }
}

impl S3Credentials {
    /// Reads a file of the form that Amazon's tools use: `aws_access_key_id = …` and `aws_secret_access_key = …`, and
    /// `aws_session_token` where there is one. Of several profiles the first counts. `None`: something is missing.
    pub fn parse(text: &str) -> Option<Self> {
        let (mut key_id, mut secret, mut session_token) = (None, None, None);
        for line in text.lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            let place = match name.trim() {
                "aws_access_key_id" => &mut key_id,
                "aws_secret_access_key" => &mut secret,
                "aws_session_token" => &mut session_token,
                _ => continue,
            };
            place.get_or_insert_with(|| value.trim().to_owned());
        }
        Some(Self { key_id: key_id?, secret: secret?.into(), session_token: session_token.map(Zeroizing::new) })
    }
}

/// A bucket, and where in it.
#[derive(Clone)]
pub(super) struct S3 {
    store: Arc<AmazonS3>,
    prefix: Key,
    address: Arc<str>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)
    }
}

impl S3 {
    pub(super) fn new(settings: &S3Settings) -> Result<Self, StoreError> {
        let wrong = |reason: &str| StoreError::Refused { what: "address of blobs", reason: reason.to_owned() };
        let rest = settings.url.strip_prefix("s3://").ok_or_else(|| wrong("it is `s3://BUCKET/PREFIX`"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("it names no bucket; it is `s3://BUCKET/PREFIX`"));
        }
        let prefix = Key::parse(prefix).map_err(|error| wrong(&error.to_string()))?;
        let clear = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&settings.region)
            .with_access_key_id(&settings.credentials.key_id)
            .with_secret_access_key(settings.credentials.secret.as_str())
            .with_allow_http(clear)
            .with_client_options(ClientOptions::new().with_allow_http(clear))
            .with_http_connector(Transport::new(settings.ca_pem.as_deref())?)
            .with_retry(RetryConfig {
                backoff: BackoffConfig { max_backoff: Duration::from_secs(1), ..BackoffConfig::default() },
                max_retries: 3,
                retry_timeout: Duration::from_secs(10),
            });
        if let Some(token) = &settings.credentials.session_token {
            builder = builder.with_token(token.as_str());
        }
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.build().map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { store: Arc::new(store), prefix, address: settings.url.trim_end_matches('/').into() })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn key(&self, digest: &Digest) -> Key {
        let name = digest.to_string();
        self.prefix.clone().join(name.get(..2).unwrap_or_default()).join(name)
    }

    pub(super) async fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        match self.store.head(&self.key(digest)).await {
            Ok(about) => Ok(Some(about.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.away(error)),
        }
    }

    pub(super) async fn read(&self, digest: &Digest, range: Option<Range<u64>>) -> Result<Pieces, StoreError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let got = match self.store.get_opts(&self.key(digest), options).await {
            Ok(got) => got,
            Err(Error::NotFound { .. }) => return Err(gone(digest)),
            Err(error) => return Err(self.away(error)),
        };
        let place = self.clone();
        let pieces = futures_util::stream::try_unfold((got.into_stream(), place), async |(mut pieces, place)| {
            match timeout(PATIENCE, pieces.try_next()).await {
                Ok(Ok(piece)) => Ok(piece.map(|piece| (piece, (pieces, place)))),
                Ok(Err(error)) => Err(place.away(error)),
                Err(_) => Err(place.silent()),
            }
        });
        Ok(pieces.boxed())
    }

    pub(super) async fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        match self.store.delete(&self.key(digest)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.away(error)),
        }
    }

    /// Sends the file `part`, unless its bytes are there already.
    pub(super) async fn keep(&self, part: &Path, digest: &Digest, bytes: u64) -> Result<(), StoreError> {
        if self.size(digest).await? == Some(bytes) {
            return Ok(());
        }
        let mut file = File::open(part).await.map_err(StoreError::io("open", part))?;
        let first = piece(&mut file, part).await?;
        let key = self.key(digest);
        if first.len() as u64 == bytes {
            return self.store.put(&key, first.into()).await.map(drop).map_err(|error| self.away(error));
        }
        let upload = self.store.put_multipart(&key).await.map_err(|error| self.away(error))?;
        let mut upload = Unfinished(Some(upload));
        match self.send(&mut upload, first, &mut file, part).await {
            Ok(()) => {
                upload.0 = None;
                Ok(())
            }
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    async fn send(
        &self,
        upload: &mut Unfinished,
        first: Vec<u8>,
        file: &mut File,
        part: &Path,
    ) -> Result<(), StoreError> {
        let Some(upload) = &mut upload.0 else { return Ok(()) };
        let mut flying = FuturesUnordered::new();
        let mut next = first;
        while !next.is_empty() {
            if flying.len() == PARTS_AT_ONCE {
                flying.try_next().await.map_err(|error| self.away(error))?;
            }
            flying.push(upload.put_part(next.into()));
            next = piece(file, part).await?;
        }
        while flying.try_next().await.map_err(|error| self.away(error))?.is_some() {}
        upload.complete().await.map(drop).map_err(|error| self.away(error))
    }

    fn silent(&self) -> StoreError {
        let reason = format!("it said nothing for {} s", PATIENCE.as_secs());
        StoreError::BlobsAway { place: self.address.to_string(), reason }
    }

    /// What S3 says of credentials holds parts of them: then we say it ourselves.
    fn away(&self, error: Error) -> StoreError {
        let reason = match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                "it refuses our credentials, or they may not do this; see `blobs.credentials_file`".to_owned()
            }
            error => error.to_string(),
        };
        StoreError::BlobsAway { place: self.address.to_string(), reason }
    }
}

/// Parts that S3 keeps, and charges for, until somebody says what becomes of them.
struct Unfinished(Option<Box<dyn MultipartUpload>>);

impl Unfinished {
    async fn abort(&mut self) {
        if let Some(mut upload) = self.0.take()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, "parts of a broken upload stay in S3 until its lifecycle rule removes them");
        }
    }
}

impl Drop for Unfinished {
    /// Whoever uploads may be gone.
    fn drop(&mut self) {
        if let Some(upload) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let mut left = Self(Some(upload));
            runtime.spawn(async move { left.abort().await });
        }
    }
}

/// The next bytes of the file, fewer at its end.
async fn piece(file: &mut File, path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut piece = Vec::with_capacity(PART_BYTES);
    let read = file.take(PART_BYTES as u64).read_to_end(&mut piece).await;
    read.map_err(StoreError::io("read", path))?;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_and_never_shown() {
        let text =
            "[default]\naws_access_key_id = AKIA\naws_secret_access_key=hunter2=\n[other]\naws_access_key_id = X\n";
        let read = S3Credentials::parse(text).unwrap();
        assert_eq!((read.key_id.as_str(), read.secret.as_str()), ("AKIA", "hunter2="));
        assert!(!format!("{read:?}").contains("hunter2") && !format!("{read:?}").contains("AKIA"));
        assert!(S3Credentials::parse("aws_access_key_id = AKIA").is_none());
    }

    #[test]
    fn addresses_that_are_none_are_named() {
        let settings = |url: &str| S3Settings {
            url: url.to_owned(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            credentials: S3Credentials { key_id: "k".into(), secret: String::from("s").into(), session_token: None },
            ca_pem: None,
        };
        for wrong in ["bucket", "https://bucket", "s3://", "s3:///x", "s3://b/a//b"] {
            assert!(S3::new(&settings(wrong)).is_err(), "{wrong}");
        }
        let place = S3::new(&settings("s3://b/a/b/")).unwrap();
        let digest = Digest::of(b"");
        assert_eq!(place.key(&digest).to_string(), format!("a/b/e3/{digest}"));
        let bare = S3::new(&settings("s3://b")).unwrap();
        assert_eq!(bare.key(&digest).to_string(), format!("e3/{digest}"));
    }
}
