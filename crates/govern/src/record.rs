//! A decision with everything that it was made from, small enough to keep: who audits can make it again, under the same policies or
//! others.

use crate::Error;
use crate::by_id::ById;
use crate::gate::{By, NOT_YOURS, State, Verdict};
use crate::policies::Policies;
use crate::question::{Question, Target};
use crate::world::{Grant, World};
use falaj_artifact::Digest;
use serde::{Deserialize, Serialize};

/// Written as JSON with its fields in this order, which is what its digest is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub question: Question,
    /// Seconds since 1970; policies know the hour and the day of the week.
    pub time: u64,
    /// The part of the site's world that the decision read; its grants are those that held.
    pub world: World,
    pub permitted: bool,
    /// Policies by name.
    pub deciding: Vec<String>,
    /// SHA-256 of the policies.
    pub policies: String,
}

impl Record {
    pub(crate) fn new(
        question: &Question,
        world: &World,
        granted: &[&str],
        time: u64,
        permitted: bool,
        deciding: &[String],
        policies: Digest,
    ) -> Self {
        Self {
            question: question.clone(),
            time,
            world: part(world, question, granted, time),
            permitted,
            deciding: deciding.to_vec(),
            policies: policies.to_string(),
        }
    }

    /// The bytes that [`Record::digest`] is of.
    pub fn to_json(&self) -> Vec<u8> {
        // INVARIANT: strings, numbers, sets and maps with string keys always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_json())
    }

    /// The first policy that decided, or the word for what was missing.
    pub fn policy(&self) -> &str {
        self.deciding.first().map_or(NOT_YOURS, String::as_str)
    }

    /// Decides the question again, from the recorded world, by Cedar's own evaluator.
    ///
    /// # Errors
    /// A recorded world that does not hold together.
    pub fn again(&self, policies: &Policies) -> Result<(bool, Vec<String>), Error> {
        let state = State::new(policies.clone(), self.world.clone(), 0)?;
        let (Verdict { permitted, deciding, .. }, _) = state.verdict(&self.question, self.time, By::Cedar);
        Ok((permitted, deciding))
    }

    /// Whether this is what its world and `policies` say.
    ///
    /// # Errors
    /// As [`Record::again`]; other policies than those that it was made under.
    pub fn verify(&self, policies: &Policies) -> Result<bool, Error> {
        if policies.digest().to_string() != self.policies {
            return Err(Error::OtherPolicies { recorded: self.policies.clone() });
        }
        Ok(self.again(policies)? == (self.permitted, self.deciding.clone()))
    }
}

/// What a decision on `question` reads, and nothing of anybody else. `granted`: ids of the grants that could have counted.
fn part(world: &World, question: &Question, granted: &[&str], now: u64) -> World {
    let mut part = World {
        site: world.site.clone(),
        organisations: ById::default(),
        workspaces: ById::default(),
        actors: ById::default(),
        artifacts: ById::default(),
        destinations: ById::default(),
        grants: ById::default(),
    };
    keep(&mut part.organisations, &world.organisations, &world.site.operator);
    let actor = world.actors.get(&*question.actor);
    if let Some(actor) = actor {
        keep(&mut part.actors, &world.actors, &question.actor);
        keep(&mut part.workspaces, &world.workspaces, &actor.workspace);
    }
    match &question.target {
        Target::Artifact(id) => {
            keep(&mut part.artifacts, &world.artifacts, id);
            if let Some(artifact) = world.artifacts.get(&**id) {
                keep(&mut part.organisations, &world.organisations, &artifact.owner);
            }
        }
        Target::Workspace(id) => keep(&mut part.workspaces, &world.workspaces, id),
        Target::Organisation(id) => keep(&mut part.organisations, &world.organisations, id),
        Target::Destination(id) => keep(&mut part.destinations, &world.destinations, id),
        Target::Site => {}
    }
    let organisations: Vec<String> = part.workspaces.values().map(|it| it.organisation.clone()).collect();
    for id in &organisations {
        keep(&mut part.organisations, &world.organisations, id);
    }
    if let (Target::Artifact(artifact), Some(actor)) = (&question.target, actor) {
        let organisation = world.workspaces.get(&actor.workspace).map_or("", |it| it.organisation.as_str());
        for id in granted {
            if let Some(grant) = world.grants.get(*id).filter(|grant| grant.holds(now)) {
                part.grants.insert((*id).to_owned(), narrowed(grant, artifact, organisation, &actor.workspace));
            }
        }
    }
    part
}

/// Without the other tenants and artifacts that it was given for, and without its dates.
fn narrowed(grant: &Grant, artifact: &str, organisation: &str, workspace: &str) -> Grant {
    let only =
        |all: &std::collections::BTreeSet<String>, one: &str| all.iter().filter(|it| *it == one).cloned().collect();
    Grant {
        artifacts: only(&grant.artifacts, artifact),
        organisations: only(&grant.organisations, organisation),
        workspaces: only(&grant.workspaces, workspace),
        from: None,
        until: None,
        ..grant.clone()
    }
}

fn keep<T: Clone>(into: &mut ById<T>, from: &ById<T>, id: &str) {
    if let Some(it) = from.get(id) {
        into.insert(id.to_owned(), it.clone());
    }
}
