//! A site of two organisations: the operator `raya` in Oman, and `santé` in France that uses its model.

use falaj_govern::{
    Action, Actor, ActorKind, Artifact, ById, Class, Decision, Destination, Gate, Grant, Label, Organisation, Policies,
    Question, ROLES, Site, Target, Workspace, World,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// 23 November 2026, 10:20 UTC, a Monday.
pub const NOW: u64 = 1_795_429_200;

pub fn world() -> World {
    let site = Site {
        id: "muscat".into(),
        operator: "raya".into(),
        country: "OM".into(),
        operator_country: "OM".into(),
        assurance: 1,
        energy_grade: "D".into(),
        grams_per_kwh: 480,
    };
    World {
        site,
        organisations: named([
            ("raya", Organisation { country: "OM".into() }),
            ("sante", Organisation { country: "FR".into() }),
        ]),
        workspaces: named([
            ("raya-ops", Workspace { organisation: "raya".into() }),
            ("sante-lab", Workspace { organisation: "sante".into() }),
            ("sante-clinic", Workspace { organisation: "sante".into() }),
        ]),
        actors: named([
            ("raya-owner", actor("raya-ops", "owner", Class::Public)),
            ("lab-member", actor("sante-lab", "member", Class::Public)),
            ("lab-admin", actor("sante-lab", "admin", Class::Public)),
            ("clinic-member", actor("sante-clinic", "member", Class::Confidential)),
            ("lab-auditor", actor("sante-lab", "auditor", Class::Public)),
        ]),
        artifacts: named([
            ("model", artifact("raya", "OM")),
            ("notes", artifact("sante", "OM")),
            ("cloud", artifact("sante", "US")),
        ]),
        destinations: named([
            ("mail.fr", Destination { country: "FR".into(), clearance: Class::Internal }),
            ("mail.us", Destination { country: "US".into(), clearance: Class::Internal }),
        ]),
        grants: named([("care", care())]),
    }
}

/// What `raya` gives `sante`: asking the model for care, until tomorrow.
pub fn care() -> Grant {
    Grant {
        everyone: false,
        organisations: set(["sante"]),
        workspaces: BTreeSet::new(),
        artifacts: set(["model"]),
        actions: [Action::Infer].into(),
        purposes: Some(set(["care"])),
        class: Class::Confidential,
        countries: Some(set(["OM", "FR"])),
        assurance: 1,
        from: None,
        until: Some(NOW + 86_400),
    }
}

pub fn actor(workspace: &str, role: &str, class: Class) -> Actor {
    let can = ROLES.iter().find(|(name, _)| *name == role).expect("a role of every site").1;
    Actor { kind: ActorKind::Key, workspace: workspace.into(), can: can.iter().copied().collect(), class }
}

fn artifact(owner: &str, country: &str) -> Artifact {
    Artifact {
        owner: owner.into(),
        kind: "model".into(),
        class: Class::Public,
        clearance: Class::Secret,
        country: country.into(),
    }
}

pub fn ask(actor: &str, action: Action, target: Target) -> Question {
    let purpose = "care".into();
    Question { actor: actor.into(), action, target, purpose, class: Class::Confidential, label: None }
}

pub fn on(id: &str) -> Target {
    Target::Artifact(id.into())
}

pub fn label(countries: &[&str]) -> Option<Arc<Label>> {
    let countries = Some(countries.iter().map(|it| (*it).to_owned()).collect());
    Some(Arc::new(Label { countries, purposes: None }))
}

/// `permit` with the policies, or `deny` with the policy.
pub fn told(gate: &Gate, question: &Question) -> String {
    told_at(gate, question, NOW)
}

pub fn told_at(gate: &Gate, question: &Question, now: u64) -> String {
    match gate.decide(question, now) {
        Decision::Permit(permit) => format!("permit {}", permit.policies().join("+")),
        Decision::Denial(denial) => format!("deny {}", denial.policy()),
    }
}

pub fn gate(world: World) -> Gate {
    Gate::new(Policies::built_in().expect("the built-in policies"), world).expect("a world")
}

pub fn set<const N: usize>(words: [&str; N]) -> BTreeSet<String> {
    words.map(str::to_owned).into()
}

fn named<T, const N: usize>(all: [(&str, T); N]) -> ById<T> {
    all.into_iter().map(|(name, it)| (name.to_owned(), it)).collect()
}
