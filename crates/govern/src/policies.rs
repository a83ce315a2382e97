//! The policies of a site: those that every site has, and its own, parsed and validated strictly against one schema.

use crate::Error;
use crate::compiled::Compiled;
use cedar_policy::{PolicyId, PolicySet, Schema, ValidationMode, Validator};
use falaj_artifact::Digest;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};

/// A validated set. What does not validate is never held.
#[derive(Clone, Debug)]
pub struct Policies {
    pub(crate) set: PolicySet,
    pub(crate) compiled: Arc<Compiled>,
    digest: Digest,
    warnings: Vec<String>,
}

/// A site's own policies as they are kept, so that a decision can be made again under them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTexts<T = String> {
    pub policies: Vec<T>,
}

/// Of remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    French,
    Arabic,
}

impl Policies {
    /// Those of every site, alone.
    ///
    /// # Errors
    /// None but by a fault of this crate; its tests read them.
    pub fn built_in() -> Result<Self, Error> {
        Self::with(&[])
    }

    /// Those of every site, and `own`: texts of Cedar policies, each with `@id("name")`.
    ///
    /// # Errors
    /// A text that is not Cedar, does not fit the schema, has no name, or one that is taken.
    pub fn with(own: &[&str]) -> Result<Self, Error> {
        let mut set = PolicySet::new();
        for text in std::iter::once(&BUILT_IN).chain(own) {
            add(&mut set, text)?;
        }
        let verdict = Validator::new(schema()?.clone()).validate(&set, ValidationMode::Strict);
        let errors: Vec<String> = verdict.validation_errors().map(ToString::to_string).collect();
        if !errors.is_empty() {
            return Err(Error::Invalid(errors.join("; ")));
        }
        let warnings = verdict.validation_warnings().map(ToString::to_string).collect();
        let digest = Digest::of(written(&set)?.as_bytes());
        let compiled = Arc::new(Compiled::new(&set)?);
        Ok(Self { set, compiled, digest, warnings })
    }

    /// Of what the policies say, whatever their order, comments and spacing in files.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What validation found strange and let pass, such as a policy that can never match.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Of all policies, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.set.policies().map(|policy| policy.id().to_string()).collect();
        names.sort_unstable();
        names
    }

    /// What somebody can do whom the policy `name` denied; English where it is not said in `language`.
    pub fn remedy(&self, name: &str, language: Language) -> Option<&str> {
        let id = PolicyId::new(name);
        let key = match language {
            Language::English => "remedy",
            Language::French => "remedy_fr",
            Language::Arabic => "remedy_ar",
        };
        self.set.annotation(&id, key).or_else(|| self.set.annotation(&id, "remedy"))
    }
}

/// What policies can read.
pub const SCHEMA: &str = include_str!("../policies/site.cedarschema");

const BUILT_IN: &str = include_str!("../policies/site.cedar");

pub(crate) fn schema() -> Result<&'static Schema, Error> {
    static READ: LazyLock<Result<Schema, String>> = LazyLock::new(|| {
        let read = Schema::from_cedarschema_str(SCHEMA);
        read.map(|(schema, _)| schema).map_err(|error| error.to_string())
    });
    READ.as_ref().map_err(|error| Error::Invalid(error.clone()))
}

fn add(set: &mut PolicySet, text: &str) -> Result<(), Error> {
    let read: PolicySet = text.parse().map_err(|error| Error::Syntax(format!("{error:#}")))?;
    if let Some(template) = read.templates().next() {
        return Err(Error::Template(template.to_string()));
    }
    for policy in read.policies() {
        let Some(name) = policy.annotation("id").filter(|name| !name.is_empty()) else {
            return Err(Error::Unnamed(policy.to_string().lines().next().unwrap_or_default().to_owned()));
        };
        let named = policy.new_id(PolicyId::new(name));
        set.add(named).map_err(|_| Error::Twice(name.to_owned()))?;
    }
    Ok(())
}

/// All policies in the order of their names, as Cedar's JSON: free of spacing and comments.
fn written(set: &PolicySet) -> Result<String, Error> {
    let mut texts = Vec::new();
    for policy in set.policies() {
        let text = policy.to_json().map_err(|error| Error::Syntax(error.to_string()))?;
        texts.push(format!("{}\n{text}\n", policy.id()));
    }
    texts.sort_unstable();
    Ok(texts.concat())
}
