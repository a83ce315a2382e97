//! The one place that decides. A yes is a [`Permit`], which only this file can make; a no names its policy and what would help.

use crate::Error;
use crate::cache::{Cache, Entry};
use crate::compiled::Asked;
use crate::entities::{self, Types};
use crate::policies::{self, Language, Policies};
use crate::question::{Question, Target};
use crate::record::Record;
use crate::world::{Actor, Grant, World};
use cedar_policy::{Authorizer, Context, Entities, EntityUid, Request};
use falaj_artifact::Digest;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// Policies, a world, and the decisions made from them.
pub struct Gate {
    state: RwLock<Arc<State>>,
    cache: Cache,
    replaced: AtomicU64,
}

#[derive(Debug)]
pub enum Decision {
    Permit(Permit),
    Denial(Denial),
}

/// The gate's yes. Made by [`Gate::decide`] and nowhere else.
#[derive(Debug)]
pub struct Permit(Arc<Answer>);

/// The gate's no.
#[derive(Clone, Debug)]
pub struct Denial(Arc<Answer>);

/// Which policies and which world a decision was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub policies: Digest,
    /// Counts replacements since the start of the process.
    pub world: u64,
}

/// What was decided, with all that is needed to record it.
#[derive(Debug)]
pub struct Answer {
    question: Question,
    permitted: bool,
    /// Ids of policies; of a denial without one, a word for what was missing.
    deciding: Vec<String>,
    grant: Option<String>,
    /// Seconds since 1970.
    time: u64,
    state: Arc<State>,
    digest: OnceLock<Digest>,
}

impl Gate {
    /// # Errors
    /// A world that does not hold together, or does not fit the schema.
    pub fn new(policies: Policies, world: World) -> Result<Self, Error> {
        let state = State::new(policies, world, 0)?;
        Ok(Self { state: RwLock::new(Arc::new(state)), cache: Cache::new(), replaced: AtomicU64::new(0) })
    }

    /// From now on, decisions are made from these.
    ///
    /// # Errors
    /// As [`Gate::new`]; then nothing changed.
    pub fn replace(&self, policies: Policies, world: World) -> Result<Epoch, Error> {
        let serial = self.replaced.fetch_add(1, Ordering::Relaxed) + 1;
        let state = Arc::new(State::new(policies, world, serial)?);
        let mut held = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Of two that are made at once the later one stays.
        if state.epoch.world > held.epoch.world {
            *held = state;
            self.cache.clear();
        }
        Ok(held.epoch)
    }

    pub fn epoch(&self) -> Epoch {
        self.state().epoch
    }

    /// `now`: seconds since 1970. What cannot be decided is denied.
    pub fn decide(&self, question: &Question, now: u64) -> Decision {
        let state = self.state();
        let answer = self.cache.find(question, state.epoch.world, now).unwrap_or_else(|| {
            let (answer, until) = state.answer(question, now);
            let answer = Arc::new(answer);
            let entry = Entry { state: answer.state.epoch.world, since: now, until, answer: answer.clone() };
            self.cache.keep(question, entry);
            answer
        });
        if answer.permitted { Decision::Permit(Permit(answer)) } else { Decision::Denial(Denial(answer)) }
    }

    /// Whether the artifact is the actor's organisation's, or granted to it, whatever else policies say of it: who is denied then may
    /// hear why; to others it is not there.
    pub fn reaches(&self, actor: &str, artifact: &str, now: u64) -> bool {
        self.state().reaches(actor, artifact, now)
    }

    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Permit {
    /// The policies that permitted it.
    pub fn policies(&self) -> &[String] {
        &self.0.deciding
    }

    pub fn grant(&self) -> Option<&str> {
        self.0.grant.as_deref()
    }
}

impl Denial {
    /// The policy that forbade it; `no-grant`, `not-yours`, `unknown-actor` or `unreadable` where none permitted it.
    pub fn policy(&self) -> &str {
        self.0.deciding.first().map_or(NOT_YOURS, String::as_str)
    }

    /// What the caller can do about it.
    pub fn remedy(&self, language: Language) -> &str {
        let policy = self.policy();
        self.0.state.policies.remedy(policy, language).unwrap_or_else(|| missing(policy, language))
    }
}

impl Deref for Permit {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.0
    }
}

impl Deref for Denial {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.0
    }
}

impl Answer {
    pub fn question(&self) -> &Question {
        &self.question
    }

    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    pub fn record(&self) -> Record {
        Record::new(
            &self.question,
            &self.state.world,
            &self.state.granted(&self.question),
            self.time,
            self.permitted,
            &self.deciding,
            self.state.epoch.policies,
        )
    }

    /// SHA-256 of [`Answer::record`], canonically written.
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| self.record().digest())
    }
}

/// Of a denial that nothing decided.
pub(crate) const NOT_YOURS: &str = "not-yours";

/// What helps where no policy permitted and none forbade.
fn missing(word: &str, language: Language) -> &'static str {
    match (word, language) {
        ("no-grant", Language::English) => "ask the artifact's owner for a grant to your organisation",
        ("no-grant", Language::French) => {
            "demandez au propriétaire de l'artefact une autorisation pour votre organisation"
        }
        ("no-grant", Language::Arabic) => "اطلب من مالك المورد تصريحًا لمؤسستك",
        ("unknown-actor", Language::English) => "use a key that exists and has not expired",
        ("unknown-actor", Language::French) => "utilisez une clé qui existe et n'a pas expiré",
        ("unknown-actor", Language::Arabic) => "استعمل مفتاحًا موجودًا لم تنته صلاحيته",
        ("unreadable", Language::English) => "the site's policies failed on this request: tell its operator",
        ("unreadable", Language::French) => {
            "les politiques du site ont échoué sur cette demande : prévenez son exploitant"
        }
        ("unreadable", Language::Arabic) => "تعذر تطبيق سياسات الموقع على هذا الطلب: أبلغ مشغله",
        (_, Language::English) => {
            "no policy permits it: use a key of the workspace or organisation that this belongs to"
        }
        (_, Language::French) => {
            "aucune politique ne le permet : utilisez une clé de l'espace ou de l'organisation concernés"
        }
        (_, Language::Arabic) => "لا توجد سياسة تسمح به: استعمل مفتاحًا من المساحة أو المؤسسة المعنية",
    }
}

/// One world under one set of policies, indexed.
pub struct State {
    policies: Policies,
    world: World,
    epoch: Epoch,
    types: Types,
    entities: Entities,
    site: EntityUid,
    grants: HashMap<String, Granted>,
    authorizer: Authorizer,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl State {
    pub fn new(policies: Policies, world: World, serial: u64) -> Result<Self, Error> {
        world.check()?;
        let types = Types::new()?;
        let entities = types.entities(&world)?;
        let mut grants: HashMap<String, Granted> = HashMap::new();
        for (id, grant) in &world.grants {
            for artifact in &grant.artifacts {
                grants.entry(artifact.clone()).or_default().add(id, grant);
            }
        }
        let epoch = Epoch { policies: policies.digest(), world: serial };
        let site = types.site(&world.site.id);
        Ok(Self { policies, world, epoch, types, entities, site, grants, authorizer: Authorizer::new() })
    }

    /// The answer, and until when it is one.
    fn answer(self: &Arc<Self>, question: &Question, now: u64) -> (Answer, u64) {
        let (verdict, until) = self.verdict(question, now, By::Compiled);
        let answer = Answer {
            question: question.clone(),
            permitted: verdict.permitted,
            deciding: verdict.deciding,
            grant: verdict.grant,
            time: now,
            state: self.clone(),
            digest: OnceLock::new(),
        };
        // Policies may read the hour.
        (answer, until.min((now / 3_600 + 1) * 3_600))
    }

    pub(crate) fn verdict(&self, question: &Question, now: u64, by: By) -> (Verdict, u64) {
        let Some(actor) = self.world.actors.get(&*question.actor) else {
            return (Verdict::missing("unknown-actor"), u64::MAX);
        };
        let Some(artifact) = self.foreign(question, actor) else {
            return (self.evaluate(question, actor, None, now, "not-yours", by), u64::MAX);
        };
        let mut until = u64::MAX;
        let mut denied = None;
        for id in self.granted_to(artifact, actor) {
            let Some(grant) = self.world.grants.get(id) else { continue };
            for edge in [grant.from, grant.until].into_iter().flatten().filter(|edge| *edge > now) {
                until = until.min(edge);
            }
            if !grant.holds(now) || !grant.actions.contains(&question.action) {
                continue;
            }
            let verdict = self.evaluate(question, actor, Some((id, grant)), now, "no-grant", by);
            if verdict.permitted {
                return (verdict, until);
            }
            denied.get_or_insert(verdict);
        }
        // Without a grant the forbidding policies still have a say, and a name.
        (denied.unwrap_or_else(|| self.evaluate(question, actor, None, now, "no-grant", by)), until)
    }

    /// Ids of the grants on the artifact that is asked for which are for whoever asks, whatever else they say.
    fn granted(&self, question: &Question) -> Vec<&str> {
        match (&question.target, self.world.actors.get(&*question.actor)) {
            (Target::Artifact(artifact), Some(actor)) => self.granted_to(artifact, actor),
            _ => Vec::new(),
        }
    }

    fn reaches(&self, actor: &str, artifact: &str, now: u64) -> bool {
        let Some(actor) = self.world.actors.get(actor) else { return false };
        let own = self.world.artifacts.get(artifact).is_some_and(|it| it.owner == self.organisation(actor));
        let holds = |id: &&str| self.world.grants.get(*id).is_some_and(|grant| grant.holds(now));
        own || self.granted_to(artifact, actor).iter().any(holds)
    }

    fn granted_to(&self, artifact: &str, actor: &Actor) -> Vec<&str> {
        let granted = self.grants.get(artifact);
        granted.map(|granted| granted.to(self.organisation(actor), &actor.workspace)).unwrap_or_default()
    }

    /// The artifact asked for, unless it is the actor's own. One that does not exist is like one that was not granted, so that
    /// nobody learns which exist.
    fn foreign<'q>(&self, question: &'q Question, actor: &Actor) -> Option<&'q str> {
        let Target::Artifact(id) = &question.target else { return None };
        let own = self.world.artifacts.get(&**id).is_some_and(|artifact| artifact.owner == self.organisation(actor));
        (!own).then_some(&**id)
    }

    fn organisation(&self, actor: &Actor) -> &str {
        // INVARIANT: `World::check` found it.
        self.world.workspaces.get(&actor.workspace).map_or("", |workspace| workspace.organisation.as_str())
    }

    fn evaluate(
        &self,
        question: &Question,
        actor: &Actor,
        grant: Option<(&str, &Grant)>,
        now: u64,
        missing: &'static str,
        by: By,
    ) -> Verdict {
        let (hour, weekday) = ((now / 3_600 % 24) as i64, ((now / 86_400 + 4) % 7) as i64);
        if by == By::Compiled {
            let asked = Asked { world: &self.world, question, actor, grant, hour, weekday };
            if let Some((permitted, deciding)) = self.policies.compiled.verdict(&asked) {
                return Verdict::new(permitted, deciding, grant, missing);
            }
        }
        let grant_id = grant.map(|(id, _)| id);
        let response = match self.request(question, actor, grant_id, hour, weekday) {
            Ok(request) => self.authorizer.is_authorized(&request, &self.policies.set, &self.entities),
            Err(_) => return Verdict::missing("unreadable"),
        };
        // A policy that failed was skipped by the evaluator: if it forbids, skipping it would permit.
        if response.diagnostics().errors().next().is_some() {
            let known = match &question.target {
                Target::Artifact(id) => self.world.artifacts.contains_key(&**id),
                Target::Workspace(id) => self.world.workspaces.contains_key(&**id),
                Target::Organisation(id) => self.world.organisations.contains_key(&**id),
                Target::Destination(id) => self.world.destinations.contains_key(&**id),
                Target::Site => true,
            };
            return Verdict::missing(if known { "unreadable" } else { missing });
        }
        let mut deciding: Vec<String> =
            response.diagnostics().reason().map(|id| AsRef::<str>::as_ref(id).to_owned()).collect();
        deciding.sort_unstable();
        let permitted = response.decision() == cedar_policy::Decision::Allow;
        Verdict::new(permitted, deciding, grant, missing)
    }

    fn request(
        &self,
        question: &Question,
        actor: &Actor,
        grant: Option<&str>,
        hour: i64,
        weekday: i64,
    ) -> Result<Request, Error> {
        let mut pairs = Vec::with_capacity(8);
        let mut pair = |name: &str, value| pairs.push((name.to_owned(), value));
        pair("site", entities::entity(self.site.clone()));
        pair("action", entities::text(question.action.word()));
        pair("purpose", entities::text(&question.purpose));
        pair("class", entities::class(question.class));
        pair("hour", cedar_policy::RestrictedExpression::new_long(hour));
        pair("weekday", cedar_policy::RestrictedExpression::new_long(weekday));
        if let Some(id) = grant {
            pair("grant", entities::entity(self.types.grant(id)));
        }
        if let Some(label) = &question.label {
            pair("label", entities::label(label)?);
        }
        let context = Context::from_pairs(pairs).map_err(|error| Error::Evaluation(error.to_string()))?;
        let principal = self.types.actor(actor.kind, &question.actor);
        let action = self.types.action(question.action.word());
        let resource = self.types.target(&question.target, &self.world.site.id);
        // The schema is checked here too: an action that does not go with the target is refused, not evaluated.
        Request::new(principal, action, resource, context, Some(policies::schema()?))
            .map_err(|error| Error::Evaluation(error.to_string()))
    }
}

/// The grants on one artifact: ids by whom they are for.
#[derive(Default)]
struct Granted {
    everyone: Vec<String>,
    organisations: HashMap<String, Vec<String>>,
    workspaces: HashMap<String, Vec<String>>,
}

impl Granted {
    fn add(&mut self, id: &str, grant: &Grant) {
        if grant.everyone {
            self.everyone.push(id.to_owned());
        }
        for (all, by) in [(&grant.organisations, &mut self.organisations), (&grant.workspaces, &mut self.workspaces)] {
            for grantee in all {
                by.entry(grantee.clone()).or_default().push(id.to_owned());
            }
        }
    }

    /// In the order of their ids, each once, so that a denial always names the same one.
    fn to(&self, organisation: &str, workspace: &str) -> Vec<&str> {
        let (organisation, workspace) = (self.organisations.get(organisation), self.workspaces.get(workspace));
        let all = self.everyone.iter().chain(organisation.into_iter().flatten()).chain(workspace.into_iter().flatten());
        let mut ids: Vec<&str> = all.map(String::as_str).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// What the policies said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub permitted: bool,
    pub deciding: Vec<String>,
    pub grant: Option<String>,
}

/// Who evaluates the policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The compiled ones, and Cedar where they do not know.
    Compiled,
    Cedar,
}

impl Verdict {
    fn new(permitted: bool, deciding: Vec<String>, grant: Option<(&str, &Grant)>, missing: &'static str) -> Self {
        if deciding.is_empty() {
            return Self::missing(missing);
        }
        Self { permitted, deciding, grant: grant.map(|(id, _)| id.to_owned()) }
    }

    fn missing(word: &str) -> Self {
        Self { permitted: false, deciding: vec![word.to_owned()], grant: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::Action;

    #[test]
    fn a_world_that_was_replaced_is_let_go() {
        let site = r#"{"site": {"id": "s", "operator": "o", "country": "MA", "operator_country": "MA"},
            "organisations": {"o": {"country": "MA"}}, "workspaces": {}, "actors": {}}"#;
        let world: World = serde_json::from_str(site).unwrap();
        let gate = Gate::new(Policies::built_in().unwrap(), world.clone()).unwrap();
        let (target, purpose) = (Target::Site, "test".into());
        let (action, class, label) = (Action::Audit, crate::Class::Public, None);
        gate.decide(&Question { actor: "nobody".into(), action, target, purpose, class, label }, 0);
        let old = Arc::downgrade(&gate.state());
        gate.replace(Policies::built_in().unwrap(), world).unwrap();
        assert!(old.upgrade().is_none(), "a remembered answer holds it");
    }
}
