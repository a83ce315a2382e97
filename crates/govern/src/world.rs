//! What policies may read of a site: itself, its tenants, its artifacts and the grants on them. A value, made from the store by
//! whoever holds it, and read whole; small pieces of one are kept with recorded decisions.

use crate::Error;
use crate::by_id::ById;
use crate::question::Action;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Everything by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    pub site: Site,
    pub organisations: ById<Organisation>,
    pub workspaces: ById<Workspace>,
    pub actors: ById<Actor>,
    #[serde(default)]
    pub artifacts: ById<Artifact>,
    #[serde(default)]
    pub destinations: ById<Destination>,
    #[serde(default)]
    pub grants: ById<Grant>,
}

/// How secret data is. A caller may raise it, never lower it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Public,
    #[default]
    Internal,
    Confidential,
    Secret,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    pub id: String,
    /// Id of the organisation that runs it.
    pub operator: String,
    /// ISO 3166, two capital letters: where it says that it stands.
    pub country: String,
    pub operator_country: String,
    /// 0 declared, 1 operator-signed, 2 TPM or mTLS, 3 CPU TEE, 4 CPU and GPU TEE.
    #[serde(default)]
    pub assurance: u8,
    /// A meter to E estimate: how the site knows its energy.
    #[serde(default = "estimate")]
    pub energy_grade: String,
    /// Of CO₂ in its electricity.
    #[serde(default)]
    pub grams_per_kwh: u32,
}

fn estimate() -> String {
    "E".to_owned()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organisation {
    pub country: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    pub organisation: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    Key,
    User,
    Agent,
}

/// A key, a user or an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub kind: ActorKind,
    pub workspace: String,
    /// What its roles and scopes leave it.
    pub can: BTreeSet<Action>,
    /// Of its data, at least.
    #[serde(default)]
    pub class: Class,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Organisation.
    pub owner: String,
    /// `model`, `adapter`, `dataset`, `library`, `agent` or `app`.
    pub kind: String,
    #[serde(default = "public")]
    pub class: Class,
    /// The highest class of data that it may see.
    #[serde(default = "secret")]
    pub clearance: Class,
    /// Where it runs.
    pub country: String,
}

fn public() -> Class {
    Class::Public
}

fn secret() -> Class {
    Class::Secret
}

/// Where data may leave to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    pub country: String,
    #[serde(default = "public")]
    pub clearance: Class,
}

/// One permission. `None` means any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// All organisations of the site.
    #[serde(default)]
    pub everyone: bool,
    #[serde(default)]
    pub organisations: BTreeSet<String>,
    #[serde(default)]
    pub workspaces: BTreeSet<String>,
    pub artifacts: BTreeSet<String>,
    pub actions: BTreeSet<Action>,
    #[serde(default)]
    pub purposes: Option<BTreeSet<String>>,
    /// Of data, at most.
    #[serde(default = "secret")]
    pub class: Class,
    /// Where the site and its operator are.
    #[serde(default)]
    pub countries: Option<BTreeSet<String>>,
    #[serde(default)]
    pub assurance: u8,
    /// Seconds since 1970. Not for policies: the gate offers a grant to them only while it holds.
    #[serde(default)]
    pub from: Option<u64>,
    #[serde(default)]
    pub until: Option<u64>,
}

impl Grant {
    pub fn holds(&self, now: u64) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

/// What the roles that every site has may do. Custom ones are sets like these.
pub const ROLES: [(&str, &[Action]); 4] = {
    use Action::{Adapt, Administer, Audit, Change, Create, Delete, Download, Infer, Operate, Read, Run, Search, Send};
    [
        (
            "owner",
            &[Infer, Search, Adapt, Download, Run, Read, Create, Change, Delete, Administer, Audit, Operate, Send],
        ),
        ("admin", &[Infer, Search, Adapt, Download, Run, Read, Create, Change, Delete, Administer, Audit, Send]),
        ("member", &[Infer, Search, Adapt, Run, Read, Create, Change, Delete, Send]),
        ("auditor", &[Read, Audit]),
    ]
};

impl World {
    /// # Errors
    /// An id that something names and that does not exist.
    pub fn check(&self) -> Result<(), Error> {
        let organisation =
            |what, id: &str, missing: &str| known(what, id, "organisation", missing, &self.organisations);
        let workspace = |what, id: &str, missing: &str| known(what, id, "workspace", missing, &self.workspaces);
        organisation("site", &self.site.id, &self.site.operator)?;
        for (id, it) in &self.workspaces {
            organisation("workspace", id, &it.organisation)?;
        }
        for (id, it) in &self.actors {
            workspace("actor", id, &it.workspace)?;
        }
        for (id, it) in &self.artifacts {
            organisation("artifact", id, &it.owner)?;
        }
        // A grant may outlive what it was given for: what it names and is gone matches nothing.
        Ok(())
    }
}

fn known<T>(what: &'static str, id: &str, other: &'static str, missing: &str, all: &ById<T>) -> Result<(), Error> {
    if all.contains_key(missing) {
        return Ok(());
    }
    Err(Error::Dangling { what, id: id.to_owned(), other, missing: missing.to_owned() })
}
