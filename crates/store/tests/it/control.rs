//! Tenants and their keys.

use falaj_store::{
    ApiKey, Control, DEFAULT_WORKSPACE, LimitOf, Member, NewKey, OPERATOR, Organisation, Pepper, Role, StoreError,
    User, Workspace,
};

use crate::Folder;

fn organisation(name: &str) -> Organisation {
    Organisation { id: format!("o-{name}"), name: name.into(), country: "MA".into(), created_s: 1, disabled_s: None }
}

fn workspace(organisation: &str, name: &str) -> Workspace {
    Workspace {
        id: format!("{organisation}-{name}"),
        organisation: organisation.into(),
        name: name.into(),
        class: None,
        purpose: None,
        weight: 100,
        band: 0,
        created_s: 1,
    }
}

fn key(workspace: &str) -> NewKey {
    NewKey { workspace: workspace.into(), name: "desk".into(), role: "member".into(), ..NewKey::default() }
}

fn refused(outcome: Result<(), StoreError>) -> String {
    match outcome {
        Err(StoreError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
pub(crate) async fn what_one_process_changes_another_sees() {
    let folder = Folder::new();
    let (one, other) = (folder.open().await, folder.open().await);
    assert_eq!(other.directory().await.unwrap().revision, 0);
    one.put(&organisation("health")).await.unwrap();
    one.put(&workspace("o-health", "care")).await.unwrap();
    let (made, secret) = one.add_key(key("o-health-care")).await.unwrap();
    let seen = other.directory().await.unwrap();
    assert_eq!((seen.revision, other.revision().await.unwrap()), (3, 3));
    assert_eq!((seen.organisations.len(), seen.workspaces.len(), seen.keys.as_slice()), (1, 1, &[made.clone()][..]));
    // Both share the pepper; the secret itself is nowhere.
    assert_eq!(falaj_artifact::Digest::from_bytes(other.pepper().hash(secret.expose())).to_string(), made.hash);
    assert_eq!(Pepper::prefix(secret.expose()), Some(made.prefix.as_str()));
    assert!(!format!("{secret:?} {made:?}").contains(secret.expose()));
    drop((one, other));
    for file in std::fs::read_dir(&folder.0).unwrap().map(|item| item.unwrap().path()).filter(|path| path.is_file()) {
        let bytes = std::fs::read(&file).unwrap();
        let secret = secret.expose().as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", file.display());
    }
}

#[tokio::test]
pub(crate) async fn names_owners_and_words_are_checked() {
    let folder = Folder::new();
    let store = folder.open().await;
    store.put(&organisation("health")).await.unwrap();
    let twin = Organisation { id: "other".into(), ..organisation("health") };
    assert!(refused(store.put(&twin).await).contains("already"));
    let nowhere = Organisation { country: "Maroc".into(), ..organisation("x") };
    assert!(refused(store.put(&nowhere).await).contains("ISO 3166"));
    assert!(matches!(
        store.put(&workspace("nobody", "care")).await,
        Err(StoreError::Unknown { what: "organisation", .. })
    ));
    assert!(refused(store.put(&organisation(&"x".repeat(300))).await).contains("200 bytes"));
    let odd = Workspace { class: Some("hidden".into()), ..workspace("o-health", "care") };
    assert!(refused(store.put(&odd).await).contains("not one of"));
    // The operator's own are there without documents.
    store.put(&workspace(OPERATOR, "care")).await.unwrap();
    store.add_key(key(DEFAULT_WORKSPACE)).await.unwrap();
    let limit = LimitOf {
        id: "l".into(),
        scope: "workspace".into(),
        scope_id: "operator-care".into(),
        what: "tokens".into(),
        per: "fortnight".into(),
        amount: 1,
    };
    assert!(refused(store.put(&limit).await).contains("minute, day, month"));
    // The same again is a change, not another.
    store.put(&Organisation { country: "TN".into(), ..organisation("health") }).await.unwrap();
    let all = store.directory().await.unwrap();
    assert_eq!(all.organisations, [Organisation { country: "TN".into(), ..organisation("health") }]);
}

#[tokio::test]
pub(crate) async fn what_belongs_to_something_goes_with_it() {
    let folder = Folder::new();
    let store = folder.open().await;
    for name in ["health", "schools"] {
        store.put(&organisation(name)).await.unwrap();
        store.put(&workspace(&format!("o-{name}"), "w")).await.unwrap();
        let (made, _) = store.add_key(key(&format!("o-{name}-w"))).await.unwrap();
        let limit = LimitOf {
            id: format!("l-{name}"),
            scope: "key".into(),
            scope_id: made.id,
            what: "tokens".into(),
            per: "day".into(),
            amount: 1,
        };
        store.put(&limit).await.unwrap();
        let role = Role { id: name.into(), organisation: format!("o-{name}"), name: "r".into(), actions: vec![] };
        store.put(&role).await.unwrap();
    }
    store.take_away::<Organisation>("o-health").await.unwrap();
    let all = store.directory().await.unwrap();
    let left = [all.organisations.len(), all.workspaces.len(), all.keys.len(), all.limits.len(), all.roles.len()];
    assert_eq!(left, [1; 5]);
    assert_eq!(all.limits[0].id, "l-schools");
    assert!(matches!(store.take_away::<Organisation>("o-health").await, Err(StoreError::Unknown { .. })));
    assert_eq!(Organisation::KIND, "organisation");
}

#[tokio::test]
pub(crate) async fn a_rotated_key_overlaps_and_a_revoked_one_opens_nothing() {
    let folder = Folder::new();
    let store = folder.open().await;
    let (old, first) = store.add_key(key(DEFAULT_WORKSPACE)).await.unwrap();
    let (new, second) = store.rotate_key(&old.id, 60).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(new.replaces.as_deref(), Some(old.id.as_str()));
    let old: ApiKey = store.get(&old.id).await.unwrap();
    let ends = old.expires_s.unwrap();
    assert!(old.opens(ends - 1) && !old.opens(ends) && new.opens(ends));
    let revoked = store.revoke_key(&new.id).await.unwrap();
    assert!(!revoked.opens(revoked.revoked_s.unwrap()));
    assert!(matches!(store.rotate_key(&new.id, 0).await, Err(StoreError::Refused { .. })));
    let revision = store.revision().await.unwrap();
    store.touch_keys(&[(new.id.clone(), 70), (new.id.clone(), 50)]).await.unwrap();
    assert_eq!(store.key_used_s(&new.id).await.unwrap(), Some(70));
    assert_eq!(store.revision().await.unwrap(), revision, "use changes nothing");
}

#[tokio::test]
pub(crate) async fn who_is_removed_leaves_nothing_that_opens() {
    let folder = Folder::new();
    let (one, other) = (folder.open().await, folder.open().await);
    one.put(&organisation("health")).await.unwrap();
    one.put(&workspace("o-health", "care")).await.unwrap();
    let amal = User {
        id: "amal".into(),
        organisation: "o-health".into(),
        issuer: String::new(),
        subject: String::new(),
        email: "amal@health.example".into(),
        name: "Amal".into(),
        created_s: 1,
        disabled_s: None,
    };
    one.put(&amal).await.unwrap();
    let twin = User { id: "twin".into(), ..amal.clone() };
    assert!(refused(one.put(&twin).await).contains("amal@health.example"));
    assert!(refused(one.put(&User { subject: "1".into(), ..amal.clone() }).await).contains("issuer"));
    let member = Member {
        id: "amal-o-health".into(),
        organisation: "o-health".into(),
        workspace: None,
        holder: amal.id.clone(),
        role: "admin".into(),
    };
    one.put(&member).await.unwrap();
    one.put(&Member { id: "samir".into(), holder: "samir".into(), ..member }).await.unwrap();
    one.add_key(NewKey { holder: Some(amal.id.clone()), ..key("o-health-care") }).await.unwrap();
    one.add_key(key("o-health-care")).await.unwrap();
    let (session, secret) = one.begin_session(&amal.id, 60).await.unwrap();
    assert_eq!(other.session(secret.expose()).await.unwrap(), Some(session));
    assert_eq!(other.session("fj-0").await.unwrap(), None);
    // The secret of a session is no key, and that of a key no session.
    let (_, late) = one.begin_session(&amal.id, 0).await.unwrap();
    assert_eq!(one.session(late.expose()).await.unwrap(), None, "it has ended");
    other.end_session(secret.expose()).await.unwrap();
    assert_eq!(one.session(secret.expose()).await.unwrap(), None);
    let (_, secret) = one.begin_session(&amal.id, 60).await.unwrap();
    assert_eq!((one.end_sessions(&amal.id).await.unwrap(), one.end_sessions(&amal.id).await.unwrap()), (1, 0));
    assert_eq!(other.session(secret.expose()).await.unwrap(), None);
    let (_, secret) = one.begin_session(&amal.id, 60).await.unwrap();
    one.take_away::<User>(&amal.id).await.unwrap();
    assert_eq!(other.session(secret.expose()).await.unwrap(), None);
    let left = other.directory().await.unwrap();
    let members: Vec<&str> = left.members.iter().map(|it| it.id.as_str()).collect();
    assert_eq!((left.users.len(), left.keys.len(), members), (0, 1, vec!["samir"]));
}
