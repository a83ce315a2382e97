//! What the policies of every site say, one thing changed at a time.

use crate::world::{NOW, ask, care, gate, label, on, set, told, told_at, world};
use falaj_govern::{Action, Class, Decision, Grant, Language, Question, Target, World};

#[test]
fn a_grant_permits_what_it_names_and_no_more() {
    let gate = gate(world());
    let asked = ask("lab-member", Action::Infer, on("model"));
    assert_eq!(told(&gate, &asked), "permit granted-artifact");
    assert_eq!(told(&gate, &Question { purpose: "marketing".into(), ..asked.clone() }), "deny grant-purpose");
    assert_eq!(told(&gate, &Question { class: Class::Secret, ..asked.clone() }), "deny grant-class");
    assert_eq!(told(&gate, &ask("lab-member", Action::Adapt, on("model"))), "deny no-grant");
    assert_eq!(told(&gate, &ask("lab-member", Action::Change, on("model"))), "deny no-grant");
    assert_eq!(told(&gate, &ask("lab-auditor", Action::Infer, on("model"))), "deny role");
    assert_eq!(told_at(&gate, &asked, NOW + 86_400), "deny no-grant");
    assert_eq!(told_at(&gate, &asked, NOW + 86_399), "permit granted-artifact");
}

#[test]
fn a_grant_binds_the_site() {
    for (changed, expected) in [
        (Grant { countries: Some(set(["FR"])), ..care() }, "deny grant-country"),
        (Grant { assurance: 2, ..care() }, "deny grant-assurance"),
        (Grant { organisations: set(["raya"]), ..care() }, "deny no-grant"),
        (Grant { organisations: set([]), workspaces: set(["sante-lab"]), ..care() }, "permit granted-artifact"),
        (Grant { organisations: set([]), workspaces: set(["sante-clinic"]), ..care() }, "deny no-grant"),
        (Grant { organisations: set([]), everyone: true, ..care() }, "permit granted-artifact"),
        (Grant { purposes: None, countries: None, ..care() }, "permit granted-artifact"),
        (Grant { from: Some(NOW + 1), ..care() }, "deny no-grant"),
    ] {
        let gate = gate(World { grants: [("care".to_owned(), changed.clone())].into(), ..world() });
        assert_eq!(told(&gate, &ask("lab-member", Action::Infer, on("model"))), expected, "{changed:?}");
    }
}

#[test]
fn of_several_grants_one_that_fits_is_enough() {
    let mut world = world();
    world.grants.insert("a-narrow".into(), Grant { class: Class::Public, ..care() });
    let gate = gate(world);
    assert_eq!(told(&gate, &ask("lab-member", Action::Infer, on("model"))), "permit granted-artifact");
}

#[test]
fn what_does_not_exist_looks_like_what_was_not_granted() {
    let gate = gate(world());
    for target in ["model", "no such thing"] {
        assert_eq!(told(&gate, &ask("lab-member", Action::Run, on(target))), "deny no-grant");
    }
    assert_eq!(told(&gate, &ask("raya-owner", Action::Infer, on("notes"))), "deny no-grant");
    assert_eq!(told(&gate, &ask("nobody", Action::Infer, on("model"))), "deny unknown-actor");
    let there = Target::Workspace("nowhere".into());
    assert_eq!(told(&gate, &ask("lab-member", Action::Read, there)), "deny not-yours");
}

#[test]
fn workspaces_and_organisations_are_apart() {
    let gate = gate(world());
    let workspace = |id: &str| Target::Workspace(id.into());
    assert_eq!(told(&gate, &ask("lab-member", Action::Read, workspace("sante-lab"))), "permit own-workspace");
    assert_eq!(told(&gate, &ask("lab-member", Action::Read, workspace("sante-clinic"))), "deny not-yours");
    assert_eq!(told(&gate, &ask("raya-owner", Action::Read, workspace("sante-lab"))), "deny not-yours");
    assert_eq!(
        told(&gate, &ask("lab-admin", Action::Administer, workspace("sante-clinic"))),
        "permit own-organisation"
    );
    assert_eq!(told(&gate, &ask("lab-member", Action::Administer, workspace("sante-lab"))), "deny role");
    assert_eq!(told(&gate, &ask("lab-admin", Action::Operate, Target::Site)), "deny role");
    assert_eq!(told(&gate, &ask("raya-owner", Action::Operate, Target::Site)), "permit operator");
    assert_eq!(told(&gate, &ask("lab-admin", Action::Audit, Target::Site)), "deny not-yours");
}

#[test]
fn a_class_is_raised_and_never_lowered() {
    let mut world = world();
    world.artifacts.get_mut("notes").expect("an artifact").class = Class::Internal;
    let gate = gate(world);
    let as_class =
        |actor: &str, target: &str, class| told(&gate, &Question { class, ..ask(actor, Action::Infer, on(target)) });
    assert_eq!(as_class("clinic-member", "model", Class::Internal), "deny class-lowered");
    assert_eq!(as_class("clinic-member", "model", Class::Confidential), "permit granted-artifact");
    assert_eq!(as_class("lab-member", "notes", Class::Public), "deny class-lowered");
    assert_eq!(as_class("lab-member", "notes", Class::Secret), "permit own-artifact");
}

#[test]
fn a_label_keeps_data_in_its_countries() {
    let gate = gate(world());
    let labelled = |action, target| Question {
        label: label(&["FR", "OM"]),
        class: Class::Public,
        ..ask("lab-member", action, target)
    };
    let to = |id: &str| Target::Destination(id.into());
    assert_eq!(told(&gate, &labelled(Action::Infer, on("notes"))), "permit own-artifact");
    assert_eq!(told(&gate, &labelled(Action::Infer, on("cloud"))), "deny residency");
    assert_eq!(told(&gate, &labelled(Action::Send, to("mail.fr"))), "permit send");
    assert_eq!(told(&gate, &labelled(Action::Send, to("mail.us"))), "deny residency");
    let secret = Question { class: Class::Secret, ..labelled(Action::Send, to("mail.fr")) };
    assert_eq!(told(&gate, &secret), "deny clearance");
}

#[test]
fn an_action_that_does_not_go_with_its_target_is_denied() {
    let gate = gate(world());
    assert_eq!(told(&gate, &ask("raya-owner", Action::Operate, on("model"))), "deny unreadable");
}

#[test]
fn a_denial_says_what_helps_in_three_languages() {
    let gate = gate(world());
    for question in [
        ask("lab-auditor", Action::Infer, on("model")),
        ask("lab-member", Action::Adapt, on("model")),
        ask("lab-member", Action::Read, Target::Workspace("raya-ops".into())),
    ] {
        let Decision::Denial(denial) = gate.decide(&question, NOW) else { panic!("{question:?} was permitted") };
        let told =
            [Language::English, Language::French, Language::Arabic].map(|language| denial.remedy(language).to_owned());
        assert!(told[0].is_ascii() && !told[0].is_empty(), "{told:?}");
        assert_ne!(told[0], told[1]);
        assert!(told[2].chars().any(|letter| ('\u{600}'..'\u{700}').contains(&letter)), "{told:?}");
    }
}

#[test]
fn a_new_world_counts_at_once_and_a_bad_one_changes_nothing() {
    let gate = gate(world());
    let asked = ask("lab-member", Action::Infer, on("model"));
    assert_eq!(told(&gate, &asked), "permit granted-artifact");
    let policies = || falaj_govern::Policies::built_in().expect("the built-in policies");
    let mut broken = world();
    broken.workspaces.get_mut("sante-lab").expect("a workspace").organisation = "gone".into();
    assert!(gate.replace(policies(), broken).is_err());
    assert_eq!(told(&gate, &asked), "permit granted-artifact");
    gate.replace(policies(), World { grants: [].into(), ..world() }).expect("a world");
    assert_eq!(told(&gate, &asked), "deny no-grant");
}

#[test]
fn a_cached_answer_ends_with_its_grant_and_with_the_hour() {
    let until = NOW + 600;
    let gate = gate(World { grants: [("care".to_owned(), Grant { until: Some(until), ..care() })].into(), ..world() });
    let asked = ask("lab-member", Action::Infer, on("model"));
    assert_eq!(told_at(&gate, &asked, until - 1), "permit granted-artifact");
    assert_eq!(told_at(&gate, &asked, until), "deny no-grant");
    assert_eq!(told_at(&gate, &asked, until - 1), "permit granted-artifact", "a clock set back is asked again");
}
