//! A file's bytes, from wherever the site keeps its blobs, piece by piece: all of them, or the one range that was asked for (RFC 9110,
//! section 14), so that a download that broke off can go on.

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use falaj_artifact::plain_name;
use falaj_store::{StoreError, StoredFile};

use crate::error::ApiError;
use crate::site::Site;

pub(super) async fn send(site: &Site, file: &StoredFile, asked: &HeaderMap) -> Result<Response, ApiError> {
    // Bytes under a digest never change.
    let tag = format!("\"{}\"", file.digest);
    let range = range(asked, &tag, file.bytes);
    let pieces = site.store.blobs().read(&file.digest, range.clone()).await.map_err(|error| match error {
        // The file is there, and what it consists of is not: nothing that the caller could do anything about.
        StoreError::Unknown { .. } => {
            tracing::error!(file = file.id, %error, "a blob is missing");
            ApiError::Internal
        }
        error => error.into(),
    })?;
    let mut response = Response::new(Body::from_stream(pieces));
    let length = range.as_ref().map_or(file.bytes, |range| range.end - range.start);
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Names are other people's: only plain characters go into a header.
    let name = plain_name(&file.name, '_');
    let texts = [
        (header::ETAG, Some(tag)),
        (header::CONTENT_DISPOSITION, Some(format!("attachment; filename=\"{name}\""))),
        (header::CONTENT_RANGE, range.map(|range| format!("bytes {}-{}/{}", range.start, range.end - 1, file.bytes))),
    ];
    for (header, text) in texts {
        if let Some(Ok(value)) = text.map(|text| HeaderValue::from_str(&text)) {
            headers.insert(header, value);
        }
    }
    Ok(response)
}

/// Which bytes of `length` are asked for; `None`: all, also where several ranges are asked for, or none that exists.
fn range(asked: &HeaderMap, tag: &str, length: u64) -> Option<Range<u64>> {
    let text = |name| asked.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|wanted| wanted != tag) {
        return None;
    }
    let (first, last) = text(header::RANGE)?.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.trim(), last.trim()) {
        ("", last) => length.saturating_sub(last.parse().ok()?)..length,
        (first, "") => first.parse().ok()?..length,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(length),
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_that_exists_is_taken() {
        let range = |text: &'static str, tag: Option<&'static str>| {
            let mut asked = HeaderMap::new();
            asked.insert(header::RANGE, HeaderValue::from_static(text));
            if let Some(tag) = tag {
                asked.insert(header::IF_RANGE, HeaderValue::from_static(tag));
            }
            range(&asked, "\"t\"", 10)
        };
        for (text, wanted) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=3-", Some(3..10)),
            ("bytes=3-99", Some(3..10)),
            ("bytes=-4", Some(6..10)),
            ("bytes=-99", Some(0..10)),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("bytes=-0", None),
            ("bytes=0-1,3-4", None),
            ("bytes=-", None),
            ("lines=0-1", None),
            ("bytes=18446744073709551615-18446744073709551615", None),
        ] {
            assert_eq!(range(text, None), wanted, "{text}");
        }
        assert_eq!(range("bytes=0-0", Some("\"t\"")), Some(0..1));
        assert_eq!(range("bytes=0-0", Some("\"other\"")), None);
    }
}
