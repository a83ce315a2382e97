//! Every request passes here: the gate decides, the ledger takes note before an answer leaves, and a receipt says what was served.
//! Policies and decisions are `govern`'s, entries and receipts `ledger`'s; this is where a server's requests meet them. Which
//! action a route is stands in `governance/actions.rs`, one request's way in `governance/admitted.rs`.

mod account;
mod actions;
mod admitted;
mod book;
mod condition;
mod denials;
mod members;
mod tenants;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use falaj_govern::{Action, Class, Decision, Denial, Gate, Language, Permit, Policies, Question, Target};
use falaj_store::{Amounts, Budgets, Directory, Limit, OPERATOR, Pepper, Price, Remaining, Reservation, What};

pub(crate) use actions::{Kind, changes, of_route};
pub(crate) use admitted::{Admitted, Outcome, Passage, Running, Signed};
pub use book::{Book, origin};
pub(crate) use tenants::{Known, Person};

use crate::auth::{Caller, Key};
use crate::error::ApiError;
use crate::ids;
use crate::registry::Registry;
use denials::Denials;
use tenants::Tenants;
use world::Models;

/// What the gate of a server is made of.
pub struct Governance {
    gate: Gate,
    site: falaj_govern::Site,
    /// Whoever holds one of these is an owner of the operating organisation.
    keys: Vec<Key>,
    policies: Mutex<Own>,
    models: RwLock<Arc<Models>>,
    tenants: RwLock<Arc<Tenants>>,
    /// When keys were used last, since that was written down.
    used: Mutex<HashMap<Arc<str>, u64>>,
    open_models: bool,
    told: condition::Told,
    /// Whether the log was told that the clock is behind.
    behind: AtomicBool,
    /// Ends before the book does.
    denials: Option<Denials>,
    book: Option<Book>,
    budgets: Budgets,
}

/// Where the site stands and who runs it, and its own policies.
#[derive(Clone, Debug)]
pub struct SiteFacts {
    /// A name without spaces, such as the host's.
    pub id: String,
    /// ISO 3166, two capital letters; `ZZ` where nobody said.
    pub country: String,
    pub operator_country: String,
    /// 0 declared, 1 operator-signed, 2 TPM or mTLS, 3 CPU TEE, 4 CPU and GPU TEE.
    pub assurance: u8,
    /// How the energy of requests is known at best, A to E.
    pub energy_grade: char,
    /// CO2 of the site's electricity.
    pub grams_per_kwh: u32,
    /// The operator's models are granted to everybody on the site.
    pub open_models: bool,
    /// Folder of `*.cedar` files; read again whenever one changes.
    pub policies: Option<PathBuf>,
}

impl Default for SiteFacts {
    fn default() -> Self {
        Self {
            id: "localhost".to_owned(),
            country: NOWHERE.to_owned(),
            operator_country: NOWHERE.to_owned(),
            assurance: 0,
            energy_grade: 'E',
            grams_per_kwh: 0,
            open_models: true,
            policies: None,
        }
    }
}

/// ISO 3166 leaves it to users.
const NOWHERE: &str = "ZZ";

/// The site's own policies as they were last read.
#[derive(Default)]
struct Own {
    folder: Option<PathBuf>,
    /// Names and texts.
    texts: Vec<(PathBuf, String)>,
    policies: Option<Policies>,
    /// Texts of the site's own ones among them.
    in_force: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum GovernanceError {
    #[error(transparent)]
    Gate(#[from] falaj_govern::Error),
    #[error(transparent)]
    Ledger(#[from] falaj_ledger::LedgerError),
    #[error(transparent)]
    Store(#[from] falaj_store::StoreError),
    #[error("`{}`: {source}", path.display())]
    Policies { path: PathBuf, source: std::io::Error },
}

impl Governance {
    /// # Errors
    /// Policies that cannot be read, or do not fit the schema.
    pub fn new(facts: SiteFacts, keys: Vec<Key>, book: Option<Book>) -> Result<Self, GovernanceError> {
        let site = falaj_govern::Site {
            id: facts.id,
            operator: OPERATOR.to_owned(),
            country: facts.country,
            operator_country: facts.operator_country,
            assurance: facts.assurance,
            energy_grade: facts.energy_grade.to_string(),
            grams_per_kwh: facts.grams_per_kwh,
        };
        let mut own = Own { folder: facts.policies, ..Own::default() };
        own.read()?;
        let (models, tenants) = (Models::default(), Tenants::default());
        let policies = own.policies()?;
        if let Some(book) = &book {
            book.keep_policies(&own.all())?;
        }
        let denials = book.as_ref().map(|book| Denials::start(Arc::clone(book.log())));
        let gate = Gate::new(policies, world::world(&site, &keys, &tenants, &models, facts.open_models))?;
        Ok(Self {
            gate,
            site,
            keys,
            policies: Mutex::new(own),
            models: RwLock::new(Arc::new(models)),
            tenants: RwLock::new(Arc::new(tenants)),
            used: Mutex::default(),
            open_models: facts.open_models,
            budgets: Budgets::new(Vec::new(), &[], ids::now_ms()),
            told: condition::Told::default(),
            behind: AtomicBool::new(false),
            denials,
            book,
        })
    }

    pub(crate) fn site(&self) -> &falaj_govern::Site {
        &self.site
    }

    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub fn book(&self) -> Option<&Book> {
        self.book.as_ref()
    }

    /// # Errors
    /// [`ApiError::Denied`], which names the policy and the remedy. It is written down.
    pub(crate) fn decide(&self, caller: &Caller, action: Action, target: Target) -> Result<Permit, ApiError> {
        self.ask(caller, action, target).map_err(|denial| self.refuse(caller, &denial))
    }

    fn refuse(&self, caller: &Caller, denial: &Denial) -> ApiError {
        if let Some(denials) = &self.denials {
            denials.note(caller.request, denial, ids::now_ms());
        }
        denied(denial, caller.language)
    }

    /// What the gate says, which nobody needs to hear of.
    fn ask(&self, caller: &Caller, action: Action, target: Target) -> Result<Permit, Denial> {
        let question = Question {
            actor: Arc::clone(&caller.id),
            action,
            target,
            purpose: Arc::clone(&caller.purpose),
            class: caller.class,
            label: None,
        };
        match self.gate.decide(&question, ids::now_s()) {
            Decision::Permit(permit) => Ok(permit),
            Decision::Denial(denial) => Err(denial),
        }
    }

    /// May the caller do this with the model of this name? Whoever may not even read it is told that there is none.
    ///
    /// # Errors
    /// [`ApiError::UnknownModel`], [`ApiError::Denied`].
    pub(crate) fn model(
        &self,
        registry: &Registry,
        caller: &Caller,
        action: Action,
        name: &str,
    ) -> Result<Permit, ApiError> {
        let unknown = || ApiError::UnknownModel { model: name.chars().take(200).collect(), in_path: false };
        let id = self.artifact(registry, name).ok_or_else(unknown)?;
        self.ask(caller, action, Target::Artifact(Arc::clone(&id))).map_err(|denial| {
            let visible = self.gate.reaches(&caller.id, &id, ids::now_s())
                || self.ask(caller, Action::Read, Target::Artifact(id)).is_ok();
            let denied = self.refuse(caller, &denial);
            // What somebody must not know of has the same answer as what is not there.
            if visible { denied } else { unknown() }
        })
    }

    /// Whether the model is there for the caller.
    pub(crate) fn sees(&self, registry: &Registry, caller: &Caller, id: &str) -> bool {
        let id = self.artifact(registry, id);
        id.is_some_and(|id| self.ask(caller, Action::Read, Target::Artifact(id)).is_ok())
    }

    /// The id of the model of this name, if it is served.
    fn artifact(&self, registry: &Registry, name: &str) -> Option<Arc<str>> {
        self.models().id(name).or_else(|| {
            let listed = registry.describe(name)?;
            self.refresh(registry);
            self.models().id(&listed.facts.id)
        })
    }

    /// The key with this secret, if it opens now; and notes that it was used.
    pub(crate) fn key(&self, secret: &str) -> Option<Known> {
        let now = ids::now_s();
        let known = self.tenants().find(secret, now)?.clone();
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&known.id), now);
        Some(known)
    }

    /// The user of this id at work in one of their workspaces, as long as they are a member of one.
    pub(crate) fn person(&self, user: &str, workspace: Option<&str>) -> Option<Person> {
        self.tenants().user(user, workspace)
    }

    /// When keys were used since this was asked last.
    pub(crate) fn used(&self) -> Vec<(String, u64)> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        used.into_iter().map(|(id, used_s)| (id.to_string(), used_s)).collect()
    }

    /// Of the directory that is in force.
    pub(crate) fn revision(&self) -> u64 {
        self.tenants().directory.revision
    }

    /// Takes in who may call. In force once [`Governance::refresh`] has made a world of it. `tuned`: workspaces of fine-tuned models.
    pub(crate) fn take_in(&self, directory: Directory, tuned: BTreeMap<String, String>, pepper: Pepper) {
        self.budgets.replace(directory.limits.iter().filter_map(Limit::read).collect(), ids::now_ms());
        let tenants = Arc::new(Tenants::new(directory, tuned, pepper));
        *self.tenants.write().unwrap_or_else(PoisonError::into_inner) = tenants;
    }

    /// Workspaces of fine-tuned models, as the gate knows them.
    pub(crate) fn tuned(&self) -> BTreeMap<String, String> {
        self.tenants().tuned.clone()
    }

    /// Settles what the last run left open, at these prices, and goes on from what the running minute, day and month have used already.
    /// To be called once, before requests come.
    ///
    /// # Errors
    /// A failing database; a ledger that cannot be read.
    pub async fn count_on(&mut self, prices: &[Price]) -> Result<(), GovernanceError> {
        let now_ms = ids::now_ms();
        if let Some(book) = &self.book {
            book.settle_what_was_left(prices).await?;
            self.budgets = Budgets::new(Vec::new(), &book.meter.used(now_ms).await?, now_ms);
        }
        Ok(())
    }

    fn money(&self, model: &str, tokens: (u64, u64)) -> u64 {
        book::money(self.tenants().directory.price(model), tokens)
    }

    /// # Errors
    /// [`ApiError::OverBudget`].
    fn reserve(&self, caller: &Caller, wanted: Amounts) -> Result<Reservation, ApiError> {
        let scopes = [&*caller.organisation, &*caller.workspace, &*caller.id];
        self.budgets.reserve(scopes, wanted, ids::now_ms()).map_err(|exceeded| {
            let Limit { what, per, scope, amount, .. } = exceeded.limit;
            let shown = |amount: u64| match what {
                What::Requests | What::Tokens => amount as f64,
                What::Money | What::Joules => amount as f64 / 1e6,
            };
            let (amount, what, per, scope) = (shown(amount), what.name(), per.name(), scope.name());
            ApiError::OverBudget {
                limit: format!("{amount} {what} per {per} of this {scope}"),
                remaining: shown(exceeded.remaining),
                retry_after_s: exceeded.retry_after_s,
            }
        })
    }

    /// Of every limit that the caller is under.
    pub(crate) fn remaining(&self, caller: &Caller) -> Vec<Remaining> {
        self.budgets.remaining([&*caller.organisation, &*caller.workspace, &*caller.id], ids::now_ms())
    }

    fn tenants(&self) -> Arc<Tenants> {
        Arc::clone(&self.tenants.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn models(&self) -> Arc<Models> {
        Arc::clone(&self.models.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the gate's world anew from what is served now and from the policies as they are.
    pub(crate) fn refresh(&self, registry: &Registry) {
        let models = Models::of(&registry.list());
        let mut own = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let world = world::world(&self.site, &self.keys, &self.tenants(), &models, self.open_models);
        // Before a decision names them.
        if let Some(Err(error)) = self.book.as_ref().map(|book| book.keep_policies(&own.all())) {
            tracing::error!(%error, "the site's policies cannot be written down, so they do not change");
            return;
        }
        let replaced = own.policies().and_then(|policies| self.gate.replace(policies, world));
        match replaced {
            Ok(_) => *self.models.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(models),
            Err(error) => tracing::error!(%error, "the gate goes on with what it had"),
        }
    }

    /// Looks whether models or policies have changed, and takes them in. Policies that do not fit are refused with a word in the log:
    /// those that were in force stay.
    pub(crate) fn look(&self, registry: &Registry) {
        self.tell_condition();
        let changed = match self.policies.lock().unwrap_or_else(PoisonError::into_inner).read() {
            Ok(changed) => changed,
            Err(error) => {
                tracing::error!(%error, "the site's policies were changed, and what is there now cannot be used");
                false
            }
        };
        if changed || *self.models() != Models::of(&registry.list()) {
            self.refresh(registry);
        }
    }
}

impl Own {
    fn policies(&mut self) -> Result<Policies, falaj_govern::Error> {
        match &self.policies {
            Some(policies) => Ok(policies.clone()),
            None => Ok(self.policies.insert(Policies::built_in()?).clone()),
        }
    }

    /// Reads the folder. True where something else is in force now.
    fn read(&mut self) -> Result<bool, GovernanceError> {
        let Some(folder) = self.folder.as_ref().filter(|folder| folder.is_dir()) else { return Ok(false) };
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| GovernanceError::Policies { path, source }
        };
        let mut texts = Vec::new();
        for item in std::fs::read_dir(folder).map_err(failed(folder))? {
            let path = item.map_err(failed(folder))?.path();
            if path.extension().is_some_and(|kind| kind == "cedar") {
                let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
                texts.push((path, text));
            }
        }
        texts.sort_unstable();
        if texts == self.texts {
            return Ok(false);
        }
        // Whatever comes of them, they are not tried again before they change.
        self.texts = texts;
        let all: Vec<&str> = self.texts.iter().map(|(_, text)| text.as_str()).collect();
        let policies = Policies::with(&all)?;
        self.in_force = all.into_iter().map(str::to_owned).collect();
        self.policies = Some(policies);
        Ok(true)
    }

    fn all(&self) -> Vec<&str> {
        self.in_force.iter().map(String::as_str).collect()
    }
}

fn denied(denial: &Denial, language: Language) -> ApiError {
    ApiError::Denied { policy: denial.policy().to_owned(), remedy: denial.remedy(language).to_owned() }
}

/// What a header says, or the least.
pub(crate) fn class_named(word: &str) -> Option<Class> {
    match word {
        "public" => Some(Class::Public),
        "internal" => Some(Class::Internal),
        "confidential" => Some(Class::Confidential),
        "secret" => Some(Class::Secret),
        _ => None,
    }
}

pub(crate) fn class_word(class: Class) -> &'static str {
    match class {
        Class::Public => "public",
        Class::Internal => "internal",
        Class::Confidential => "confidential",
        Class::Secret => "secret",
    }
}

/// Ids of models, by every name that requests use.
type Names = HashMap<String, Arc<str>>;
