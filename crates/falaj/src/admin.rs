//! `falaj admin …`: who may use this site, with which keys, for how much. Writes the data folder's database; a running site takes a
//! change in within a second.

mod people;

use crate::args::{AdminCommand, Kind};
use crate::context::Context;
use crate::data_dir;
use crate::failure::{Failure, OrFail, Outcome};
use crate::migrate::migrate;
use crate::output;
use crate::state;
use crate::words::Word;
use falaj_store::{
    ApiKey, ArtifactFacts, Control, DEFAULT_WORKSPACE, Directory, GrantTerms, LimitOf, Member, NewKey, OPERATOR,
    Organisation, Price, Role, Secret, ServiceAccount, Store, User, Workspace, new_id,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

pub fn admin(context: &Context, command: &AdminCommand) -> Outcome {
    data_dir::create(&context.config.data)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let AdminCommand::Migrate { to, to_file, blobs } = command {
            return migrate(context, to.as_deref(), to_file.as_deref(), *blobs).await;
        }
        let store = state::open(&context.config).await?;
        run(context, &store, command).await
    })
}

async fn run(context: &Context, store: &Store, command: &AdminCommand) -> Outcome {
    let all = store.directory().await?;
    match command.clone() {
        AdminCommand::Organisation { name, country } => {
            let it = Organisation { id: new_id()?, name, country, created_s: now_s(), disabled_s: None };
            put(context, store, &it).await
        }
        AdminCommand::Workspace { name, organisation, class, purpose, weight, band } => {
            let organisation = organisation_id(&all, &organisation)?;
            let (id, created_s) = (new_id()?, now_s());
            put(context, store, &Workspace { id, organisation, name, class, purpose, weight, band, created_s }).await
        }
        AdminCommand::Role { name, organisation, actions } => {
            check_actions(&actions)?;
            let organisation = organisation_id(&all, &organisation)?;
            put(context, store, &Role { id: new_id()?, organisation, name, actions }).await
        }
        AdminCommand::User { email, organisation, name, role, workspace } => {
            people::invite(context, store, &all, email, &organisation, name, role, workspace).await
        }
        AdminCommand::ServiceAccount { name, workspace, role } => {
            people::service_account(context, store, &all, name, &workspace, role).await
        }
        AdminCommand::Member { holder, role, workspace } => {
            let member = people::member(&all, &people::holder(&all, &holder)?, role, workspace)?;
            put(context, store, &member).await
        }
        AdminCommand::Disable { kind, id } => people::rest(context, store, &all, kind, &id, Some(now_s())).await,
        AdminCommand::Enable { kind, id } => people::rest(context, store, &all, kind, &id, None).await,
        AdminCommand::SignOut { user } => people::sign_out(context, store, &all, &user).await,
        AdminCommand::Key { name, workspace, holder, role, scopes, class, days } => {
            check_actions(&scopes)?;
            let workspace = workspace_id(&all, &workspace)?;
            let organisation = people::organisation_of(&all, &workspace);
            people::check_role(&all, organisation, &role)?;
            let holder = match holder {
                Some(holder) => Some(people::holder_in(&all, &holder, organisation)?),
                None => None,
            };
            let scopes = Some(scopes).filter(|scopes| !scopes.is_empty());
            let expires_s = days.map(|days| now_s() + u64::from(days) * 86_400);
            let new = NewKey { workspace, holder, name, role, scopes, class, expires_s };
            let (key, secret) = store.add_key(new).await?;
            show_secret(context, &key, &secret)
        }
        AdminCommand::Rotate { key, overlap_hours } => {
            let (key, secret) = store.rotate_key(&key_id(&all, &key)?, u64::from(overlap_hours) * 3600).await?;
            show_secret(context, &key, &secret)
        }
        AdminCommand::Revoke { key } => {
            let key = store.revoke_key(&key_id(&all, &key)?).await?;
            done(context, &key);
            Ok(())
        }
        AdminCommand::Limit { organisation, workspace, key, what, per, amount } => {
            let (scope, scope_id) = match (organisation, workspace, key) {
                (Some(organisation), ..) => ("organisation", organisation_id(&all, &organisation)?),
                (_, Some(workspace), _) => ("workspace", workspace_id(&all, &workspace)?),
                (.., Some(key)) => ("key", key_id(&all, &key)?),
                (None, None, None) => return Err(Failure::usage(Word::AdminWhose.text())),
            };
            // One of a kind: the same again is a change.
            let id = format!("{scope}-{scope_id}-{what}-{per}");
            put(context, store, &LimitOf { id, scope: scope.to_owned(), scope_id, what, per, amount }).await
        }
        AdminCommand::Grant { terms, owner } => {
            let text = std::fs::read_to_string(&terms).or_fail(|| format!("`{}`", terms.display()))?;
            let terms: Value = serde_json::from_str(&text).or_fail(|| format!("`{}`", terms.display()))?;
            // What the gate cannot read would grant nothing, silently.
            serde_json::from_value::<falaj_govern::Grant>(terms.clone())
                .or_fail(|| Word::AdminGrant.text().to_owned())?;
            let owner = organisation_id(&all, &owner)?;
            put(context, store, &GrantTerms { id: new_id()?, owner, terms, revoked_s: None }).await
        }
        AdminCommand::Artifact { name, owner, kind, class, clearance, country } => {
            let owner = organisation_id(&all, &owner)?;
            put(context, store, &ArtifactFacts { id: name, owner, kind, class, clearance, country }).await
        }
        AdminCommand::Price { model, prompt, completion, currency } => {
            put(context, store, &Price { id: model, prompt, completion, currency }).await
        }
        // It opens the store by itself.
        AdminCommand::Migrate { .. } => Ok(()),
        AdminCommand::List { kind } => {
            list(context, &all, kind);
            Ok(())
        }
        AdminCommand::Remove { kind, id } => {
            match kind {
                Kind::Organisation => store.take_away::<Organisation>(&organisation_id(&all, &id)?).await?,
                Kind::Workspace => store.take_away::<Workspace>(&workspace_id(&all, &id)?).await?,
                Kind::User => store.take_away::<User>(&people::user_id(&all, &id)?).await?,
                Kind::ServiceAccount => {
                    store.take_away::<ServiceAccount>(&people::service_account_id(&all, &id)?).await?;
                }
                Kind::Member => store.take_away::<Member>(&people::member_id(&all, &id)?).await?,
                Kind::Role => store.take_away::<Role>(&id).await?,
                Kind::Key => store.take_away::<ApiKey>(&key_id(&all, &id)?).await?,
                Kind::Limit => store.take_away::<LimitOf>(&id).await?,
                Kind::Grant => store.take_away::<GrantTerms>(&id).await?,
                Kind::Artifact => store.take_away::<ArtifactFacts>(&id).await?,
                Kind::Price => store.take_away::<Price>(&id).await?,
            }
            if !context.json {
                output::line(&Word::AdminRemoved.with(&[&id]));
            }
            Ok(())
        }
    }
}

async fn put<T: Control>(context: &Context, store: &Store, document: &T) -> Outcome {
    store.put(document).await?;
    done(context, document);
    Ok(())
}

fn done<T: Control>(context: &Context, document: &T) {
    if context.json {
        output::json(&shown(document));
    } else {
        output::line(&Word::AdminKept.with(&[T::KIND, document.id()]));
    }
}

fn show_secret(context: &Context, key: &ApiKey, secret: &Secret) -> Outcome {
    if context.json {
        let mut told = shown(key);
        told["secret"] = secret.expose().into();
        output::json(&told);
    } else {
        output::line(&Word::AdminKept.with(&[ApiKey::KIND, &key.id]));
        output::line(&format!("  {}", secret.expose()));
        output::note(Word::AdminSecret.text());
    }
    Ok(())
}

fn list(context: &Context, all: &Directory, kind: Option<Kind>) {
    let mut rows: Vec<(&str, Value)> = Vec::new();
    let mut add = |of: Kind, name: &'static str, documents: Vec<Value>| {
        if kind.is_none_or(|kind| kind == of) {
            rows.extend(documents.into_iter().map(|document| (name, document)));
        }
    };
    add(Kind::Organisation, Organisation::KIND, all.organisations.iter().map(shown).collect());
    add(Kind::Workspace, Workspace::KIND, all.workspaces.iter().map(shown).collect());
    add(Kind::User, User::KIND, all.users.iter().map(shown).collect());
    add(Kind::ServiceAccount, ServiceAccount::KIND, all.service_accounts.iter().map(shown).collect());
    add(Kind::Member, Member::KIND, all.members.iter().map(shown).collect());
    add(Kind::Role, Role::KIND, all.roles.iter().map(shown).collect());
    add(Kind::Key, ApiKey::KIND, all.keys.iter().map(shown).collect());
    add(Kind::Limit, LimitOf::KIND, all.limits.iter().map(shown).collect());
    add(Kind::Grant, GrantTerms::KIND, all.grants.iter().map(shown).collect());
    add(Kind::Artifact, ArtifactFacts::KIND, all.artifacts.iter().map(shown).collect());
    add(Kind::Price, Price::KIND, all.prices.iter().map(shown).collect());
    if context.json {
        let lines: Vec<Value> = rows.into_iter().map(|(kind, it)| json!({ "kind": kind, "document": it })).collect();
        output::json(&Value::Array(lines));
        return;
    }
    let cells = |(kind, document): (&str, Value)| {
        let document = document.as_object().cloned().unwrap_or_default();
        let rest = document.iter().filter(|(name, value)| *name != "id" && !value.is_null());
        let rest: Vec<String> = rest
            .map(|(name, value)| format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect();
        vec![
            kind.to_owned(),
            document["id"].as_str().unwrap_or_default().to_owned(),
            output::printable(&rest.join(" ")),
        ]
    };
    output::table(&rows.into_iter().map(cells).collect::<Vec<_>>());
}

/// A document for people and programs: all but what only the server compares.
fn shown(document: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(document).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("hash");
    }
    value
}

fn organisation_id(all: &Directory, text: &str) -> Outcome<String> {
    let known = all.organisations.iter().map(|it| (it.id.as_str(), it.name.as_str()));
    one(Organisation::KIND, text, known.chain([(OPERATOR, OPERATOR)]))
}

fn workspace_id(all: &Directory, text: &str) -> Outcome<String> {
    let known = all.workspaces.iter().map(|it| (it.id.as_str(), it.name.as_str()));
    one(Workspace::KIND, text, known.chain([(DEFAULT_WORKSPACE, DEFAULT_WORKSPACE)]))
}

fn key_id(all: &Directory, text: &str) -> Outcome<String> {
    one(ApiKey::KIND, text, all.keys.iter().map(|it| (it.id.as_str(), it.name.as_str())))
}

/// The id that this is, or that this name alone has.
fn one<'a>(what: &str, text: &str, known: impl Iterator<Item = (&'a str, &'a str)>) -> Outcome<String> {
    let mut found: Vec<&str> = Vec::new();
    for (id, name) in known {
        if id == text {
            return Ok(id.to_owned());
        }
        if name == text {
            found.push(id);
        }
    }
    match found.as_slice() {
        [id] => Ok((*id).to_owned()),
        [] => Err(Failure::usage(Word::AdminUnknown.with(&[what, text])).next("`falaj admin list`")),
        _ => Err(Failure::usage(Word::AdminSeveral.with(&[what, text, &found.join(", ")])).next("`falaj admin list`")),
    }
}

fn check_actions(words: &[String]) -> Outcome {
    let known: Vec<&str> = falaj_govern::Action::ALL.iter().map(|action| action.word()).collect();
    match words.iter().find(|word| !known.contains(&word.as_str())) {
        Some(word) => Err(Failure::usage(Word::AdminAction.with(&[word, &known.join(", ")]))),
        None => Ok(()),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
