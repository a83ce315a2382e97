//! How long a decision takes, made and remembered: `cargo run --release -p falaj-govern --example decide_rate -- [TENANTS]`.
//! One line for each, in nanoseconds: median, 99th percentile, worst.

use falaj_govern::{
    Action, Actor, ActorKind, Artifact, Class, Decision, Gate, Grant, Organisation, Policies, Question, ROLES, Site,
    Target, Workspace, World,
};
use std::time::Instant;

const NOW: u64 = 1_795_429_200;

fn main() {
    let tenants: usize = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(5_000);
    let began = Instant::now();
    let gate = Gate::new(Policies::built_in().expect("policies"), world(tenants)).expect("a world");
    println!("world of {tenants} tenants: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    let asked = |tenant: usize, purpose: usize| Question {
        actor: format!("key-{tenant}").into(),
        action: Action::Infer,
        target: Target::Artifact(format!("model-{}", tenant % 100).into()),
        purpose: format!("purpose-{purpose}").into(),
        class: Class::Internal,
        label: None,
    };
    // Every question is new to the cache: another purpose or another tenant.
    let fresh: Vec<Question> = (0..20 * tenants).map(|n| asked(n % tenants, n / tenants)).collect();
    let made = times(&gate, &fresh);
    let known: Vec<Question> = (0..2_000).map(|n| asked(n % tenants, 0)).collect();
    times(&gate, &known);
    let many: Vec<Question> = (0..100).flat_map(|_| known.iter().cloned()).collect();
    let hit = times(&gate, &many);
    for (name, mut all) in [("decision", made), ("cache hit", hit)] {
        all.sort_unstable();
        let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
        println!("{name}: median {} ns, p99 {} ns, worst {} ns, of {}", at(0.5), at(0.99), at(1.0), all.len());
    }
}

/// Each decision's nanoseconds, the clock's own cost (some 20 to 40) included.
fn times(gate: &Gate, questions: &[Question]) -> Vec<u64> {
    let one = |question| {
        let began = Instant::now();
        let decision = gate.decide(question, NOW);
        let took = began.elapsed().as_nanos() as u64;
        assert!(matches!(decision, Decision::Permit(_)), "{decision:?}");
        took
    };
    questions.iter().map(one).collect()
}

/// Each tenant: an organisation with a workspace and a key, and a grant on one of a hundred models.
fn world(tenants: usize) -> World {
    let site = Site {
        id: "site".into(),
        operator: "organisation-0".into(),
        country: "OM".into(),
        operator_country: "OM".into(),
        assurance: 1,
        energy_grade: "E".into(),
        grams_per_kwh: 480,
    };
    let member = ROLES[2].1;
    let all = |make: &dyn Fn(usize) -> String| -> Vec<String> { (0..tenants).map(make).collect() };
    let organisations = all(&|n| format!("organisation-{n}"))
        .into_iter()
        .map(|id| (id, Organisation { country: "OM".into() }))
        .collect();
    let workspaces = (0..tenants)
        .map(|n| (format!("workspace-{n}"), Workspace { organisation: format!("organisation-{n}") }))
        .collect();
    let key = |n| Actor {
        kind: ActorKind::Key,
        workspace: format!("workspace-{n}"),
        can: member.iter().copied().collect(),
        class: Class::Public,
    };
    let actors = (0..tenants).map(|n| (format!("key-{n}"), key(n))).collect();
    let model = |_| Artifact {
        owner: "organisation-0".into(),
        kind: "model".into(),
        class: Class::Public,
        clearance: Class::Secret,
        country: "OM".into(),
    };
    let artifacts = (0..100).map(|n| (format!("model-{n}"), model(n))).collect();
    let grant = |n: usize| Grant {
        everyone: false,
        organisations: [format!("organisation-{n}")].into(),
        workspaces: [].into(),
        artifacts: [format!("model-{}", n % 100)].into(),
        actions: [Action::Infer].into(),
        purposes: None,
        class: Class::Confidential,
        countries: Some(["OM".to_owned()].into()),
        assurance: 0,
        from: None,
        until: None,
    };
    let grants = (0..tenants).map(|n| (format!("grant-{n}"), grant(n))).collect();
    World { site, organisations, workspaces, actors, artifacts, destinations: Default::default(), grants }
}
