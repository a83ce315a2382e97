//! What the server is made of: settings, the served models, metrics. [`App`] is cheap to clone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use falaj_govern::Action;
use falaj_store::StoreError;
use tokio::sync::Semaphore;

use crate::attached::AttachedEngine;
use crate::auth::{Caller, Key};
use crate::body::Parsed;
use crate::energy::Power;
use crate::error::ApiError;
use crate::governance::{Governance, GovernanceError, Passage, SiteFacts};
use crate::metrics::Metrics;
use crate::registry::{Loan, Registry};
use crate::routes;
use crate::sign_in::{SignIn, SignInError, SignInSettings};
use crate::site::Site;

/// Bounds and keys. Every wait and every size that a client controls is limited here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the operator; others are in the store. Whoever holds none gets 401.
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
    pub(crate) governance: Arc<Governance>,
    pub(crate) power: Arc<Power>,
    /// Requests being turned into tokens: CPU work that must not flood the blocking pool.
    pub(crate) preparing: Arc<Semaphore>,
    /// KiB that bodies may still take.
    pub(crate) bodies: Arc<Semaphore>,
    site: Option<Arc<Site>>,
    sign_in: Option<Arc<SignIn>>,
    stopping: Arc<AtomicBool>,
}

impl App {
    /// One that keeps no ledger, with the policies that every site has.
    ///
    /// # Errors
    /// None but by a fault of these policies.
    pub fn new(settings: Settings, registry: Registry) -> Result<Self, GovernanceError> {
        let governance = Governance::new(SiteFacts::default(), settings.keys.clone(), None)?;
        Ok(Self::governed(settings, registry, governance))
    }

    pub fn governed(settings: Settings, registry: Registry, governance: Governance) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // One body of the largest size always fits.
        let bodies_kib = settings.bodies_limit_bytes.max(settings.body_limit_bytes).div_ceil(1024);
        Self {
            settings: Arc::new(settings),
            registry: Arc::new(registry),
            metrics: Arc::default(),
            governance: Arc::new(governance),
            power: Arc::default(),
            preparing: Arc::new(Semaphore::new(cores.max(2))),
            bodies: Arc::new(Semaphore::new(bodies_kib.min(Semaphore::MAX_PERMITS))),
            site: None,
            sign_in: None,
            stopping: Arc::default(),
        }
    }

    /// With files and jobs.
    pub fn with_site(self, site: Site) -> Self {
        Self { site: Some(Arc::new(site)), ..self }
    }

    /// With a provider that says who people are. Users, memberships and sessions are in the site's store.
    ///
    /// # Errors
    /// [`SignInError::Address`].
    pub fn with_sign_in(self, settings: SignInSettings) -> Result<Self, SignInError> {
        Ok(Self { sign_in: Some(Arc::new(SignIn::new(settings)?)), ..self })
    }

    /// With what says how much energy CPU time takes here, and what a kilowatt-hour stands for.
    pub fn with_energy(self, site: Arc<falaj_energy::Site>, carbon: falaj_energy::Carbon) -> Self {
        Self { power: Arc::new(Power::new(site, carbon)), ..self }
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

    /// # Errors
    /// Where people cannot sign in.
    pub(crate) fn sign_in(&self) -> Result<&Arc<SignIn>, ApiError> {
        self.sign_in.as_ref().ok_or_else(|| SignInError::Off.into())
    }

    /// The model of this name for a caller whom the gate lets ask it, loaded if it has to be.
    ///
    /// # Errors
    /// As [`Governance::model`] and [`Registry::find`].
    pub(crate) async fn enter<R>(
        &self,
        caller: &Caller,
        name: &str,
        request: &Parsed<R>,
    ) -> Result<(Arc<Loan>, Passage), ApiError> {
        let permit = self.governance.model(&self.registry, caller, Action::Infer, name)?;
        let served = self.registry.find(name, self.deadline(request.arrived)).await?;
        Ok((served, Passage { caller: caller.clone(), permit, input: request.digest }))
    }

    pub fn router(&self) -> axum::Router {
        routes::router(self.clone())
    }

    pub fn governance(&self) -> &Governance {
        &self.governance
    }

    /// Serves the models of these engines, instead of those attached before.
    pub fn attach(&self, engines: Vec<AttachedEngine>) {
        self.registry.attach(engines);
        self.look();
    }

    /// Takes in tenants, policies and models that have changed, and notes which keys were used. [`crate::serve`] does this by
    /// itself, every second.
    ///
    /// # Errors
    /// A failing database: what was in force stays.
    pub async fn reload(&self) -> Result<(), StoreError> {
        if let Some(site) = &self.site {
            let used = self.governance.used();
            if !used.is_empty() {
                site.store.touch_keys(&used).await?;
            }
            let tuned = site.store.model_workspaces().await?;
            if site.store.revision().await? != self.governance.revision() || tuned != self.governance.tuned() {
                let directory = site.store.directory().await?;
                self.governance.take_in(directory, tuned, site.store.pepper().clone());
                let app = self.clone();
                // The world of thousands of tenants takes its time.
                let made = tokio::task::spawn_blocking(move || app.governance.refresh(&app.registry)).await;
                if let Err(error) = made {
                    tracing::error!(%error, "the gate goes on with what it had");
                }
            }
        }
        let app = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || app.look()).await {
            tracing::error!(%error, "looking for changes failed");
        }
        Ok(())
    }

    /// Takes in policies and models that have changed.
    fn look(&self) {
        self.registry.sort_out();
        self.governance.look(&self.registry);
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
