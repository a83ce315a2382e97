//! What is kept of a decision suffices to make it again, and holds nothing of other tenants.

use crate::world::{NOW, ask, care, gate, label, on, world};
use falaj_govern::{Action, Class, Decision, Gate, Grant, Policies, Question, Record, Target, World};

fn questions() -> Vec<Question> {
    let targets = [
        on("model"),
        on("notes"),
        on("cloud"),
        on("nothing"),
        Target::Workspace("sante-lab".into()),
        Target::Organisation("sante".into()),
        Target::Destination("mail.us".into()),
        Target::Site,
    ];
    let actors = ["raya-owner", "lab-member", "lab-admin", "clinic-member", "lab-auditor", "nobody"];
    let mut all = Vec::new();
    for actor in actors {
        for target in &targets {
            for action in Action::ALL {
                let plain = ask(actor, *action, target.clone());
                all.push(Question { label: label(&["OM"]), class: Class::Public, ..plain.clone() });
                all.push(plain);
            }
        }
    }
    all
}

fn record(gate: &Gate, question: &Question) -> Record {
    match gate.decide(question, NOW) {
        Decision::Permit(permit) => permit.record(),
        Decision::Denial(denial) => denial.record(),
    }
}

#[test]
fn every_decision_can_be_made_again_from_its_record() {
    let mut world = world();
    world.grants.insert(
        "site".into(),
        Grant { everyone: true, actions: [Action::Read].into(), from: Some(NOW - 60), ..care() },
    );
    let gate = gate(world);
    let policies = Policies::built_in().expect("the built-in policies");
    let (mut permitted, mut denied) = (0, 0);
    for question in questions() {
        let made = record(&gate, &question);
        let read: Record = serde_json::from_str(&serde_json::to_string(&made).expect("JSON")).expect("a record");
        assert_eq!(read.digest(), made.digest());
        assert!(read.verify(&policies).expect("the same policies"), "{made:?}");
        let again = read.again(&policies).expect("a world");
        if again.0 {
            permitted += 1
        } else {
            denied += 1
        }
        let lie = Record { permitted: !made.permitted, ..made };
        assert!(!lie.verify(&policies).expect("the same policies"));
    }
    assert!(permitted > 30 && denied > 30, "{permitted} permitted, {denied} denied");
}

/// One of each construct that policies are compiled from, and one that is left to Cedar.
const CONSTRUCTS: [&str; 8] = [
    r#"@id("t") forbid (principal is Agent, action, resource);"#,
    r#"@id("t") forbid (principal, action, resource == Artifact::"notes");"#,
    r#"@id("t") forbid (principal in Organisation::"sante", action in [Action::"read", Action::"audit"], resource);"#,
    r#"@id("t") forbid (principal in Workspace::"sante-lab", action, resource) when { context.class != 2 };"#,
    r#"@id("t") forbid (principal, action, resource) when { if context has label then context.hour > 9 else context.weekday <= 1 };"#,
    r#"@id("t") permit (principal, action, resource) unless { resource is Site || resource in principal.organisation };"#,
    r#"@id("t") permit (principal, action, resource is Workspace) when { resource in Site::"muscat" && context.site.assurance >= 1 };"#,
    r#"@id("t") forbid (principal, action, resource) when { context.purpose like "c*" };"#,
];

#[test]
fn compiled_policies_decide_as_cedar_does() {
    for text in CONSTRUCTS {
        let policies = Policies::with(&[text]).expect(text);
        let gate = Gate::new(policies.clone(), world()).expect("a gate");
        let (mut deciding, mut all) = (0, 0);
        for question in questions() {
            let made = record(&gate, &question);
            let again = made.again(&policies).expect("a world");
            assert_eq!(again, (made.permitted, made.deciding.clone()), "{text} {question:?}");
            deciding += usize::from(made.deciding.iter().any(|name| name == "t"));
            all += 1;
        }
        let agents_are_none = text.contains("Agent");
        assert!((deciding > 0) != agents_are_none && deciding < all, "{text} decides {deciding} of {all}");
    }
}

#[test]
fn a_record_names_nobody_else() {
    let mut world = world();
    world.grants.insert("care".into(), Grant { workspaces: ["raya-ops".to_owned()].into(), ..care() });
    let kept =
        serde_json::to_string(&record(&gate(world), &ask("lab-member", Action::Infer, on("model")))).expect("JSON");
    for other in ["clinic", "raya-ops", "raya-owner", "notes", "mail", "lab-admin"] {
        assert!(!kept.contains(other), "{other} in {kept}");
    }
}

#[test]
fn other_policies_are_told_apart() {
    let made = record(&gate(world()), &ask("lab-member", Action::Infer, on("model")));
    let stricter = r#"@id("none") forbid (principal, action == Action::"infer", resource);"#;
    let stricter = Policies::with(&[stricter]).expect("fits");
    assert!(made.verify(&stricter).is_err());
    assert_eq!(made.again(&stricter).expect("a world"), (false, vec!["none".to_owned()]));
    let _: World = made.world;
}
