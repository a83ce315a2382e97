//! Request bodies: bounded in size and time before a byte is parsed, and all of them together in memory, from the first
//! byte until the request has become tokens.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use falaj_artifact::Digest;
use falaj_protocol::Problem;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::App;
use crate::error::ApiError;

/// The whole body, and its share of [`crate::Settings::bodies_limit_bytes`].
pub(crate) struct Raw {
    bytes: Bytes,
    share: Share,
    arrived: Instant,
}

/// A request read from a body whose share it still holds.
pub(crate) struct Parsed<T> {
    pub request: T,
    pub share: Share,
    /// When its head had been read.
    pub arrived: Instant,
    /// SHA-256 of the body.
    pub digest: [u8; 32],
}

/// Memory taken from the budget of all bodies; given back when dropped.
pub(crate) struct Share {
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    held_kib: usize,
}

impl Raw {
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// When its head had been read.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    pub(crate) fn parse<T>(self, parse: impl FnOnce(&[u8]) -> Result<T, Vec<Problem>>) -> Result<Parsed<T>, ApiError> {
        let request = parse(&self.bytes)?;
        let digest = *Digest::of(&self.bytes).as_bytes();
        Ok(Parsed { request, share: self.share, arrived: self.arrived, digest })
    }
}

impl<T> Deref for Parsed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.request
    }
}

impl Share {
    fn new(budget: &Arc<Semaphore>) -> Self {
        Self { budget: Arc::clone(budget), held: None, held_kib: 0 }
    }

    /// Grows to hold `bytes`. Never waits: bodies that wait for each other would wait for ever.
    fn hold(&mut self, bytes: usize) -> Result<(), ApiError> {
        let kib = bytes.div_ceil(1024);
        let Some(missing) = kib.checked_sub(self.held_kib).filter(|missing| *missing > 0) else { return Ok(()) };
        let permits = u32::try_from(missing).unwrap_or(u32::MAX);
        let permits = Arc::clone(&self.budget).try_acquire_many_owned(permits).map_err(|_| ApiError::Busy)?;
        self.held_kib = kib;
        match &mut self.held {
            Some(held) => held.merge(permits),
            None => self.held = Some(permits),
        }
        Ok(())
    }
}

impl FromRequest<App> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let arrived = Instant::now();
        let timeout_ms = app.settings.body_timeout_ms;
        let mut share = Share::new(&app.bodies);
        let read = read(request.into_body(), app.settings.body_limit_bytes, &mut share);
        let bytes = tokio::time::timeout(Duration::from_millis(timeout_ms), read)
            .await
            .unwrap_or(Err(ApiError::BodyTooSlow { timeout_ms }))?;
        Ok(Self { bytes, share, arrived })
    }
}

async fn read(mut body: axum::body::Body, limit_bytes: usize, share: &mut Share) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().lower();
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).min(limit_bytes).min(64 << 10));
    let mut seen_bytes = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyBroken { reason: error.to_string() })?;
        let Ok(data) = frame.into_data() else { continue };
        seen_bytes = seen_bytes.saturating_add(data.len());
        if seen_bytes <= limit_bytes {
            share.hold(seen_bytes)?;
            bytes.extend_from_slice(&data);
        } else if seen_bytes > limit_bytes.saturating_mul(4) {
            break;
        }
        // Between the limit and four times it the rest is read and thrown away: a client that is still sending when
        // the connection closes sees a reset instead of the 413.
    }
    if seen_bytes > limit_bytes { Err(ApiError::BodyTooLarge { limit_bytes }) } else { Ok(bytes.into()) }
}
