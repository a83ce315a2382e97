//! What the server is made of: settings, the served models, metrics. [`App`] is cheap to clone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::auth::Key;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::routes;
use crate::site::Site;

/// Bounds and keys. Every wait and every size that a client controls is limited here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whoever holds none of these gets 401.
    pub keys: Vec<Key>,
    /// Largest request body; more is 413.
    pub body_limit_bytes: usize,
    /// All bodies that are being read or made into tokens, together; beyond it requests get 503.
    pub bodies_limit_bytes: usize,
    /// To send the whole request head; also how long an idle connection is kept.
    pub header_timeout_ms: u64,
    /// To send the whole body.
    pub body_timeout_ms: u64,
    /// From a request's start to its last byte; a stream that lasts longer ends with an error.
    pub request_timeout_ms: u64,
    /// A client that reads nothing for this long is dropped.
    pub write_timeout_ms: u64,
    /// Silence after which a stream sends a comment (or Anthropic's ping).
    pub keep_alive_ms: u64,
    /// Connections served at once; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// On shutdown, how long running requests may go on.
    pub drain_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            body_limit_bytes: 16 << 20,
            bodies_limit_bytes: 256 << 20,
            header_timeout_ms: 30_000,
            body_timeout_ms: 60_000,
            request_timeout_ms: 600_000,
            write_timeout_ms: 30_000,
            keep_alive_ms: 10_000,
            max_connections: 1024,
            drain_timeout_ms: 30_000,
        }
    }
}

/// The server's state. [`App::router`] is the whole HTTP API; [`crate::serve`] puts it on a socket.
#[derive(Clone)]
pub struct App {
    pub(crate) settings: Arc<Settings>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    /// Requests being turned into tokens: CPU work that must not flood the blocking pool.
    pub(crate) preparing: Arc<Semaphore>,
    /// KiB that bodies may still take.
    pub(crate) bodies: Arc<Semaphore>,
    site: Option<Arc<Site>>,
    stopping: Arc<AtomicBool>,
}

impl App {
    pub fn new(settings: Settings, registry: Registry) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // One body of the largest size always fits.
        let bodies_kib = settings.bodies_limit_bytes.max(settings.body_limit_bytes).div_ceil(1024);
        Self {
            settings: Arc::new(settings),
            registry: Arc::new(registry),
            metrics: Arc::default(),
            preparing: Arc::new(Semaphore::new(cores.max(2))),
            bodies: Arc::new(Semaphore::new(bodies_kib.min(Semaphore::MAX_PERMITS))),
            site: None,
            stopping: Arc::default(),
        }
    }

    /// With files and jobs.
    pub fn with_site(self, site: Site) -> Self {
        Self { site: Some(Arc::new(site)), ..self }
    }

    /// Runs the site's jobs until [`App::stop_jobs`], after which it returns when each has written a checkpoint and ended.
    /// [`crate::serve`] does this by itself.
    pub async fn run_jobs(&self) {
        if let Some(site) = &self.site {
            site.run(self).await;
        }
    }

    pub fn stop_jobs(&self) {
        if let Some(site) = &self.site {
            site.jobs.shutdown();
        }
    }

    /// # Errors
    /// Where this server keeps neither files nor jobs.
    pub(crate) fn site(&self) -> Result<&Arc<Site>, ApiError> {
        self.site.as_ref().ok_or(ApiError::NoSite)
    }

    pub fn router(&self) -> axum::Router {
        routes::router(self.clone())
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// When a request that came at `arrived` must have its answer.
    pub(crate) fn deadline(&self, arrived: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(arrived) + Duration::from_millis(self.settings.request_timeout_ms)
    }

    /// From now on `/ready` says no. Running requests go on.
    pub fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
