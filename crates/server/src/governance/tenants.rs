//! Who may call: the store's directory, indexed by what requests bring. Replaced as a whole when it changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use falaj_artifact::Digest;
use falaj_engine::Tenant;
use falaj_govern::Class;
use falaj_store::{ApiKey, Directory, Pepper, User, Workspace};

use super::class_named;
use super::members::{Members, organisation_of};

/// The directory of one revision.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    pub(super) directory: Directory,
    /// Workspaces of fine-tuned models, by the model's id.
    pub(super) tuned: BTreeMap<String, String>,
    pub(super) members: Members,
    keys: HashMap<String, Vec<Known>>,
    pepper: Option<Pepper>,
}

/// A key as requests are checked against it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: Arc<str>,
    pub(crate) workspace: Arc<str>,
    pub(crate) organisation: Arc<str>,
    pub(crate) class: Class,
    /// Of requests that name none.
    pub(crate) purpose: Option<Arc<str>>,
    pub(crate) hash: [u8; 32],
    /// The workspace, as engines know it.
    pub(crate) tenant: Tenant,
    key: ApiKey,
}

/// Somebody who has signed in.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) user: User,
    pub(crate) actor: Arc<str>,
    /// Where they are at work now, of all those where they may be.
    pub(crate) workspace: Arc<str>,
    pub(crate) workspaces: Vec<Place>,
    pub(crate) class: Class,
    /// Of requests that name none.
    pub(crate) purpose: Option<Arc<str>>,
    /// The workspace, as engines know it.
    pub(crate) tenant: Tenant,
}

/// A workspace, and what somebody is there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) roles: Vec<String>,
}

impl Tenants {
    pub(super) fn new(directory: Directory, tuned: BTreeMap<String, String>, pepper: Pepper) -> Self {
        let members = Members::new(&directory);
        let mut keys: HashMap<String, Vec<Known>> = HashMap::new();
        for key in &directory.keys {
            let Some(known) = known(&directory, &members, key) else { continue };
            keys.entry(key.prefix.clone()).or_default().push(known);
        }
        Self { directory, tuned, members, keys, pepper: Some(pepper) }
    }

    /// The key with this secret, if it opens now (seconds since 1970). Compares in constant time.
    pub(super) fn find(&self, secret: &str, now: u64) -> Option<&Known> {
        let candidates = self.keys.get(Pepper::prefix(secret)?)?;
        let hash = self.pepper.as_ref()?.hash(secret);
        let same = |known: &&Known| known.hash.iter().zip(&hash).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
        candidates.iter().filter(same).find(|known| known.key.opens(now))
    }

    /// Somebody who has signed in, at work in the workspace of this id or name, or in their first one. `None` for who is disabled or a
    /// member of nothing (any more), or not of this workspace.
    pub(super) fn user(&self, id: &str, wanted: Option<&str>) -> Option<Person> {
        let user = self.directory.user(id)?;
        let workspaces: Vec<Place> = self
            .members
            .workspaces(id)
            .into_iter()
            .map(|workspace| {
                let name = self.directory.workspace(&workspace).map_or(&workspace, |it| &it.name).clone();
                let roles = self.members.roles(id, &user.organisation, &workspace).into_iter().map(str::to_owned);
                Place { roles: roles.collect(), name, id: workspace }
            })
            .collect();
        let here = match wanted {
            Some(wanted) => workspaces.iter().find(|it| it.id == wanted || it.name == wanted)?,
            None => workspaces.first()?,
        };
        let workspace = self.directory.workspace(&here.id);
        Some(Person {
            actor: actor_of_user(id, &here.id).into(),
            workspace: here.id.as_str().into(),
            class: class_of(workspace),
            purpose: workspace.and_then(|it| it.purpose.as_deref()).map(Into::into),
            tenant: workspace.map_or_else(Tenant::default, tenant),
            user: user.clone(),
            workspaces,
        })
    }

    /// The organisation of a workspace; `None` where there is no such workspace.
    pub(super) fn organisation_of<'a>(&'a self, workspace: &str) -> Option<&'a str> {
        organisation_of(&self.directory, workspace)
    }
}

/// `None` for a key whose organisation is disabled or gone, or whose holder is nothing there any more.
fn known(directory: &Directory, members: &Members, key: &ApiKey) -> Option<Known> {
    let workspace = directory.workspace(&key.workspace);
    let organisation = organisation_of(directory, &key.workspace)?;
    let disabled = directory.organisation(organisation).is_some_and(|it| it.disabled_s.is_some());
    let held = key.holder.as_ref().is_none_or(|it| !members.roles(it, organisation, &key.workspace).is_empty());
    let hash = key.hash.parse::<Digest>().ok()?;
    (!disabled && held).then(|| Known {
        id: key.id.as_str().into(),
        workspace: key.workspace.as_str().into(),
        organisation: organisation.into(),
        class: class_or_public(key.class.as_ref()).max(class_of(workspace)),
        purpose: workspace.and_then(|it| it.purpose.as_deref()).map(Into::into),
        hash: *hash.as_bytes(),
        tenant: workspace.map_or_else(Tenant::default, tenant),
        key: key.clone(),
    })
}

/// The built-in workspace is the default tenant.
fn tenant(workspace: &Workspace) -> Tenant {
    let digest = Digest::of(workspace.id.as_bytes());
    let id = digest.as_bytes().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte));
    Tenant { id, weight: workspace.weight, band: workspace.band }
}

/// Of a workspace's data, at least.
pub(super) fn class_of(workspace: Option<&Workspace>) -> Class {
    class_or_public(workspace.and_then(|it| it.class.as_ref()))
}

pub(super) fn class_or_public(word: Option<&String>) -> Class {
    word.and_then(|word| class_named(word)).unwrap_or(Class::Public)
}

/// A user at work in one of their workspaces: to the gate, somebody else in each.
pub(super) fn actor_of_user(user: &str, workspace: &str) -> String {
    format!("{user}@{workspace}")
}
