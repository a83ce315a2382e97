//! Request bodies: bounded in size and time before a byte is parsed.

use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use http_body_util::BodyExt;

use crate::app::App;
use crate::error::ApiError;

/// The whole body.
pub(crate) struct Raw(pub Bytes);

impl FromRequest<App> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let timeout_ms = app.settings.body_timeout_ms;
        let read = read(request.into_body(), app.settings.body_limit_bytes);
        tokio::time::timeout(Duration::from_millis(timeout_ms), read)
            .await
            .unwrap_or(Err(ApiError::BodyTooSlow { timeout_ms }))
            .map(Self)
    }
}

async fn read(mut body: axum::body::Body, limit_bytes: usize) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().lower();
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).min(limit_bytes).min(1 << 20));
    let mut seen_bytes = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyBroken { reason: error.to_string() })?;
        let Ok(data) = frame.into_data() else { continue };
        seen_bytes = seen_bytes.saturating_add(data.len());
        if seen_bytes <= limit_bytes {
            bytes.extend_from_slice(&data);
        } else if seen_bytes > limit_bytes.saturating_mul(4) {
            break;
        }
        // Between the limit and four times it the rest is read and thrown away: a client that is still sending when
        // the connection closes sees a reset instead of the 413.
    }
    if seen_bytes > limit_bytes { Err(ApiError::BodyTooLarge { limit_bytes }) } else { Ok(bytes.into()) }
}
