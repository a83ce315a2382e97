//! Policies of a site's own: refused unless they fit, and bound by those of every site.

use crate::world::{NOW, ask, on, told, told_at, world};
use falaj_govern::{Action, Error, Gate, Language, Policies};

const NIGHT: &str = r#"
@id("no-training-by-day")
@remedy("train between 20:00 and 06:00 UTC")
forbid (principal, action == Action::"adapt", resource) when { context.hour >= 6 && context.hour < 20 };
"#;

#[test]
fn a_sites_own_policy_is_named_with_its_remedy() {
    let policies = Policies::with(&[NIGHT]).expect("fits");
    assert_ne!(policies.digest(), Policies::built_in().expect("fits").digest());
    assert_eq!(policies.remedy("no-training-by-day", Language::French), Some("train between 20:00 and 06:00 UTC"));
    let gate = Gate::new(policies, world()).expect("a gate");
    let asked = ask("lab-member", Action::Adapt, on("notes"));
    assert_eq!(told(&gate, &asked), "deny no-training-by-day");
    assert_eq!(told_at(&gate, &asked, NOW + 12 * 3_600), "permit own-artifact");
}

#[test]
fn a_permit_of_the_site_does_not_lift_what_every_site_forbids() {
    let all = r#"@id("all") permit (principal, action, resource);"#;
    let gate = Gate::new(Policies::with(&[all]).expect("fits"), world()).expect("a gate");
    assert_eq!(told(&gate, &ask("lab-auditor", Action::Infer, on("notes"))), "deny role");
    assert_eq!(told(&gate, &ask("lab-member", Action::Download, on("notes"))), "deny role");
    assert_eq!(told(&gate, &ask("lab-member", Action::Infer, on("notes"))), "permit all+own-artifact");
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    for (text, expected) in [
        ("permit (principal, action", "unexpected"),
        ("permit (principal, action, resource);", "@id"),
        (r#"@id("role") permit (principal, action, resource);"#, "`role`"),
        (r#"@id("x") permit (principal, action == Action::"fly", resource);"#, "fly"),
        (r#"@id("x") permit (principal, action, resource) when { context.mood == "good" };"#, "mood"),
        (r#"@id("x") permit (principal, action, resource) when { context.class == "secret" };"#, "Long and String"),
        (r#"@id("x") permit (principal == ?principal, action, resource);"#, "?principal"),
    ] {
        let error: Error = Policies::with(&[text]).expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_digest_is_of_what_policies_say() {
    let spaced = NIGHT.replace(" && ", "\n  && // both\n ");
    let other = NIGHT.replace("20", "21");
    let digest = |text: &str| Policies::with(&[text]).expect("fits").digest();
    assert_eq!(digest(NIGHT), digest(&spaced));
    assert_ne!(digest(NIGHT), digest(&other));
}
