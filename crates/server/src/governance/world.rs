//! The world that the gate's policies read, out of what this server knows: its keys, its tenants, what it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use falaj_govern::{
    Action, Actor, ActorKind, Artifact, ById, Class, Grant, Organisation, ROLES, Site, Workspace, World,
};
use falaj_store::{ApiKey, DEFAULT_WORKSPACE, Directory, OPERATOR};

use super::tenants::{Tenants, actor_of_user, class_of, class_or_public};
use super::{Names, class_named};
use crate::auth::Key;
use crate::registry::Listed;

/// What is served, by every name that requests use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Models {
    names: Names,
    by_id: BTreeMap<Arc<str>, Model>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    kind: &'static str,
    /// Where it runs, where that is another country than the site's.
    country: Option<String>,
}

impl Models {
    pub(super) fn of(listed: &[Listed]) -> Self {
        let mut models = Self::default();
        for Listed { facts, country, .. } in listed {
            let id: Arc<str> = facts.id.as_str().into();
            for alias in &facts.aliases {
                models.names.entry(alias.clone()).or_insert_with(|| Arc::clone(&id));
            }
            models.names.insert(facts.id.clone(), Arc::clone(&id));
            let kind = if facts.base.is_some() { "adapter" } else { "model" };
            models.by_id.insert(id, Model { kind, country: country.clone() });
        }
        models
    }

    pub(super) fn id(&self, name: &str) -> Option<Arc<str>> {
        self.names.get(name).cloned()
    }
}

/// Everything that policies may ask about. `open`: the operator's models are granted to everybody on the site.
pub(super) fn world(site: &Site, keys: &[Key], tenants: &Tenants, models: &Models, open: bool) -> World {
    let directory = &tenants.directory;
    let mut world = World {
        site: site.clone(),
        organisations: [(OPERATOR.to_owned(), Organisation { country: site.operator_country.clone() })].into(),
        workspaces: [(DEFAULT_WORKSPACE.to_owned(), Workspace { organisation: OPERATOR.to_owned() })].into(),
        actors: ById::default(),
        artifacts: ById::default(),
        destinations: ById::default(),
        grants: ById::default(),
    };
    for it in &directory.organisations {
        world.organisations.insert(it.id.clone(), Organisation { country: it.country.clone() });
    }
    for it in &directory.workspaces {
        world.workspaces.insert(it.id.clone(), Workspace { organisation: it.organisation.clone() });
    }
    for key in keys {
        let (workspace, can) = (DEFAULT_WORKSPACE.to_owned(), actions_of(directory, OPERATOR, "owner"));
        world.actors.insert(key.name.clone(), Actor { kind: ActorKind::Key, workspace, can, class: Class::Public });
    }
    for key in &directory.keys {
        if let Some(actor) = actor(tenants, key) {
            world.actors.insert(key.id.clone(), actor);
        }
    }
    for user in tenants.members.users() {
        for workspace in tenants.members.workspaces(user) {
            if let Some(actor) = user_actor(tenants, user, &workspace) {
                world.actors.insert(actor_of_user(user, &workspace), actor);
            }
        }
    }
    for (id, model) in &models.by_id {
        world.artifacts.insert(id.to_string(), artifact(site, tenants, id, model));
    }
    if open {
        world.grants.insert("open-models".to_owned(), open_models(&world.artifacts));
    }
    for it in directory.grants.iter().filter(|it| it.revoked_s.is_none()) {
        match serde_json::from_value::<Grant>(it.terms.clone()) {
            Ok(grant) => drop(world.grants.insert(it.id.clone(), only_own(grant, &it.owner, &world.artifacts))),
            Err(error) => tracing::error!(grant = it.id, %error, "a grant cannot be read, so it grants nothing"),
        }
    }
    world
}

fn actor(tenants: &Tenants, key: &ApiKey) -> Option<Actor> {
    let directory = &tenants.directory;
    let organisation = tenants.organisation_of(&key.workspace)?;
    let mut can = actions_of(directory, organisation, &key.role);
    if let Some(holder) = &key.holder {
        let theirs = actions_of_member(tenants, holder, organisation, &key.workspace);
        can.retain(|action| theirs.contains(action));
    }
    if let Some(scopes) = &key.scopes {
        can.retain(|action| scopes.iter().any(|scope| scope == action.word()));
    }
    let workspace = directory.workspace(&key.workspace);
    let class = class_or_public(key.class.as_ref()).max(class_of(workspace));
    Some(Actor { kind: ActorKind::Key, workspace: key.workspace.clone(), can, class })
}

fn user_actor(tenants: &Tenants, user: &str, workspace: &str) -> Option<Actor> {
    let organisation = tenants.organisation_of(workspace)?;
    let can = actions_of_member(tenants, user, organisation, workspace);
    let class = class_of(tenants.directory.workspace(workspace));
    Some(Actor { kind: ActorKind::User, workspace: workspace.to_owned(), can, class })
}

/// All that any of their roles may do there.
fn actions_of_member(tenants: &Tenants, holder: &str, organisation: &str, workspace: &str) -> BTreeSet<Action> {
    let roles = tenants.members.roles(holder, organisation, workspace);
    roles.into_iter().flat_map(|role| actions_of(&tenants.directory, organisation, role)).collect()
}

/// A fine-tuned model is its workspace's organisation's; everything else the operator's, unless the directory says otherwise.
fn artifact(site: &Site, tenants: &Tenants, id: &str, model: &Model) -> Artifact {
    let said = tenants.directory.artifact(id);
    let tuned = tenants.tuned.get(id).and_then(|workspace| tenants.organisation_of(workspace));
    let class = |word: Option<&String>| word.and_then(|word| class_named(word));
    Artifact {
        owner: said.map(|it| it.owner.as_str()).or(tuned).unwrap_or(OPERATOR).to_owned(),
        kind: model.kind.to_owned(),
        class: class(said.and_then(|it| it.class.as_ref())).unwrap_or(Class::Public),
        clearance: class(said.and_then(|it| it.clearance.as_ref())).unwrap_or(Class::Secret),
        country: said
            .and_then(|it| it.country.clone())
            .or_else(|| model.country.clone())
            .unwrap_or_else(|| site.country.clone()),
    }
}

fn open_models(artifacts: &ById<Artifact>) -> Grant {
    let own = artifacts.iter().filter(|(_, artifact)| artifact.owner == OPERATOR);
    Grant {
        everyone: true,
        organisations: BTreeSet::new(),
        workspaces: BTreeSet::new(),
        artifacts: own.map(|(id, _)| id.clone()).collect(),
        actions: [Action::Infer, Action::Read, Action::Adapt].into(),
        purposes: None,
        class: Class::Secret,
        countries: None,
        assurance: 0,
        from: None,
        until: None,
    }
}

/// Nobody grants what is another's.
fn only_own(mut grant: Grant, owner: &str, artifacts: &ById<Artifact>) -> Grant {
    grant.artifacts.retain(|id| artifacts.get(id).is_some_and(|artifact| artifact.owner == owner));
    grant
}

fn actions_of(directory: &Directory, organisation: &str, role: &str) -> BTreeSet<Action> {
    if let Some((_, actions)) = ROLES.iter().find(|(name, _)| *name == role) {
        let all = actions.iter().copied();
        // Whose site it is runs it; an owner elsewhere owns their organisation.
        return all.filter(|action| *action != Action::Operate || organisation == OPERATOR).collect();
    }
    let own = directory.roles.iter().find(|it| it.organisation == organisation && it.name == role);
    let words = own.map(|it| it.actions.as_slice()).unwrap_or_default();
    Action::ALL.iter().copied().filter(|action| words.iter().any(|word| word == action.word())).collect()
}
