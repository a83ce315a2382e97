//! Where the site's state is: in the data folder, or its rows in PostgreSQL and its blobs in S3. What opens those is a secret, and read
//! from files, or from the variables that Amazon's own tools read.

use crate::config::{Blobs, Config};
use crate::failure::{Failure, OrFail, Outcome};
use crate::words::Word;
use falaj_store::{Places, S3Credentials, S3Settings, Store};
use std::path::Path;
use std::{env, fs};

pub async fn open(config: &Config) -> Outcome<Store> {
    Ok(Store::open_at(&config.data, &places(config)?).await?)
}

pub fn places(config: &Config) -> Outcome<Places> {
    let database = config.database_url_file.as_deref().map(secret).transpose()?;
    let blobs = config.blobs.as_ref().map(blobs).transpose()?;
    Ok(Places { database: database.map(|url| url.trim().to_owned().into()), blobs })
}

pub fn blobs(blobs: &Blobs) -> Outcome<S3Settings> {
    let (credentials, source) = match &blobs.credentials_file {
        Some(path) => (S3Credentials::parse(&secret(path)?), format!("`{}`", path.display())),
        None => (credentials(|name| env::var(name).ok()), format!("`{KEY_ID}`, `{SECRET}`")),
    };
    let credentials = credentials.ok_or_else(|| {
        Failure::usage(Word::BlobsNoCredentials.with(&[&source])).next(Word::BlobsNoCredentialsNext.text())
    })?;
    let read = |path: &Path| fs::read(path).or_fail(|| format!("`{}`", path.display()));
    Ok(S3Settings {
        url: blobs.url.clone(),
        endpoint: blobs.endpoint.clone(),
        region: blobs.region.clone(),
        credentials,
        ca_pem: blobs.ca_file.as_deref().map(read).transpose()?,
    })
}

const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";

fn credentials(var: impl Fn(&str) -> Option<String>) -> Option<S3Credentials> {
    let session_token = var("AWS_SESSION_TOKEN").map(Into::into);
    Some(S3Credentials { key_id: var(KEY_ID)?, secret: var(SECRET)?.into(), session_token })
}

fn secret(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).or_fail(|| format!("`{}`", path.display()))
}
