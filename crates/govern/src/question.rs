//! What the gate is asked: who wants to do what, with which thing, for which purpose, with which data.

use crate::world::Class;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// May this principal do this?
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// Id of the key, user or agent that acts.
    pub actor: Arc<str>,
    pub action: Action,
    pub target: Target,
    /// A word that grants and labels name, such as `care` or `research`.
    pub purpose: Arc<str>,
    /// Of the data that the action sees.
    pub class: Class,
    /// Of the data, where it carries one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Arc<Label>>,
}

/// What an action is done with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A model, adapter, dataset, library, agent or app.
    Artifact(Arc<str>),
    /// The files, jobs and runs of a workspace.
    Workspace(Arc<str>),
    Organisation(Arc<str>),
    Destination(Arc<str>),
    Site,
}

/// As a kind and an id, such as `artifact:falaj-seed`; the site is one.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Artifact(id) => write!(f, "artifact:{id}"),
            Self::Workspace(id) => write!(f, "workspace:{id}"),
            Self::Organisation(id) => write!(f, "organisation:{id}"),
            Self::Destination(id) => write!(f, "destination:{id}"),
            Self::Site => f.write_str("site"),
        }
    }
}

/// What data carries from upload to retrieval to prompt to tool call. `None` means any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Label {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub countries: Option<BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purposes: Option<BTreeSet<String>>,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $word:literal;)*) => {
        /// What can be asked for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Action { $($(#[$doc])* $name,)* }

        impl Action {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As policies and roles write it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

actions! {
    /// Ask a model.
    Infer "infer";
    /// Search a library.
    Search "search";
    /// Train on a dataset, or from a model.
    Adapt "adapt";
    /// Take the artifact's bytes away.
    Download "download";
    /// Run an agent or an app.
    Run "run";
    /// See that it is there, and what is said of it.
    Read "read";
    Create "create";
    Change "change";
    Delete "delete";
    /// Keys, members, roles and budgets.
    Administer "administer";
    /// Read the ledger and what was used.
    Audit "audit";
    /// Load models, attach engines, change policies.
    Operate "operate";
    /// Let data leave the site.
    Send "send";
}
