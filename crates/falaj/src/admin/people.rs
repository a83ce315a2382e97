//! `falaj admin` for people and programs: users, service accounts, and what role they have where.

use crate::args::Holder;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::words::Word;
use falaj_store::{
    DEFAULT_WORKSPACE, Directory, Member, OPERATOR, Organisation, ServiceAccount, Store, User, Workspace, new_id,
};
use serde_json::json;

use super::{now_s, one, organisation_id, put, workspace_id};

/// Somebody with a role; who they are to the provider is known when they sign in.
pub(super) async fn invite(
    context: &Context,
    store: &Store,
    all: &Directory,
    email: String,
    organisation: &str,
    name: Option<String>,
    role: String,
    workspace: Option<String>,
) -> Outcome {
    let user = User {
        id: new_id()?,
        organisation: organisation_id(all, organisation)?,
        issuer: String::new(),
        subject: String::new(),
        name: name.unwrap_or_else(|| email.clone()),
        email,
        created_s: now_s(),
        disabled_s: None,
    };
    let member = member(all, &Who { id: user.id.clone(), organisation: user.organisation.clone() }, role, workspace)?;
    put(context, store, &user).await?;
    store.put(&member).await?;
    Ok(())
}

pub(super) async fn service_account(
    context: &Context,
    store: &Store,
    all: &Directory,
    name: String,
    workspace: &str,
    role: String,
) -> Outcome {
    let workspace = workspace_id(all, workspace)?;
    let organisation = organisation_of(all, &workspace).to_owned();
    let account =
        ServiceAccount { id: new_id()?, workspace: workspace.clone(), name, created_s: now_s(), disabled_s: None };
    let member = member(all, &Who { id: account.id.clone(), organisation }, role, Some(workspace))?;
    put(context, store, &account).await?;
    store.put(&member).await?;
    Ok(())
}

/// A user or a service account.
pub(super) struct Who {
    id: String,
    organisation: String,
}

/// One of a kind: the same holder and place again is a change.
pub(super) fn member(all: &Directory, who: &Who, role: String, workspace: Option<String>) -> Outcome<Member> {
    let Who { id: holder, organisation } = who;
    check_role(all, organisation, &role)?;
    let workspace = match workspace {
        Some(name) => Some(workspace_in(all, organisation, &name)?),
        None => None,
    };
    let id = format!("{holder}-{}", workspace.as_ref().unwrap_or(organisation));
    Ok(Member { id, organisation: organisation.clone(), workspace, holder: holder.clone(), role })
}

pub(super) async fn rest(
    context: &Context,
    store: &Store,
    all: &Directory,
    kind: Holder,
    id: &str,
    disabled_s: Option<u64>,
) -> Outcome {
    match kind {
        Holder::Organisation => {
            let it: Organisation = store.get(&organisation_id(all, id)?).await?;
            put(context, store, &Organisation { disabled_s, ..it }).await
        }
        Holder::User => {
            let it: User = store.get(&user_id(all, id)?).await?;
            store.end_sessions(&it.id).await?;
            put(context, store, &User { disabled_s, ..it }).await
        }
        Holder::ServiceAccount => {
            let it: ServiceAccount = store.get(&service_account_id(all, id)?).await?;
            put(context, store, &ServiceAccount { disabled_s, ..it }).await
        }
    }
}

pub(super) async fn sign_out(context: &Context, store: &Store, all: &Directory, user: &str) -> Outcome {
    let ended = store.end_sessions(&user_id(all, user)?).await?;
    if context.json {
        output::json(&json!({ "user": user, "ended": ended }));
    } else {
        output::line(&Word::AdminSignedOut.with(&[&ended.to_string(), user]));
    }
    Ok(())
}

/// The user with this address or id, or the service account with this name or id.
pub(super) fn holder(all: &Directory, text: &str) -> Outcome<Who> {
    let id = one("holder", text, users(all).chain(accounts(all)))?;
    let user = all.users.iter().find(|it| it.id == id).map(|it| it.organisation.as_str());
    let account = all.service_accounts.iter().find(|it| it.id == id).map(|it| organisation_of(all, &it.workspace));
    Ok(Who { organisation: user.or(account).unwrap_or_default().to_owned(), id })
}

/// Its id; it must be of this organisation.
pub(super) fn holder_in(all: &Directory, text: &str, organisation: &str) -> Outcome<String> {
    let who = holder(all, text)?;
    match who.organisation == organisation {
        true => Ok(who.id),
        false => Err(Failure::usage(Word::AdminElsewhere.with(&[text]))),
    }
}

pub(super) fn user_id(all: &Directory, text: &str) -> Outcome<String> {
    one("user", text, users(all))
}

pub(super) fn service_account_id(all: &Directory, text: &str) -> Outcome<String> {
    one("service-account", text, accounts(all))
}

/// By its own id, or by its holder's address or name where that is a member of one place only.
pub(super) fn member_id(all: &Directory, text: &str) -> Outcome<String> {
    let name = |id: &str| users(all).chain(accounts(all)).find(|(known, _)| *known == id).map_or("", |(_, name)| name);
    one("member", text, all.members.iter().map(|it| (it.id.as_str(), name(&it.holder))))
}

fn users(all: &Directory) -> impl Iterator<Item = (&str, &str)> {
    all.users.iter().map(|it| (it.id.as_str(), it.email.as_str()))
}

fn accounts(all: &Directory) -> impl Iterator<Item = (&str, &str)> {
    all.service_accounts.iter().map(|it| (it.id.as_str(), it.name.as_str()))
}

/// Of a workspace that there is.
pub(super) fn organisation_of<'a>(all: &'a Directory, workspace: &str) -> &'a str {
    all.workspaces.iter().find(|it| it.id == workspace).map_or(OPERATOR, |it| &it.organisation)
}

/// Names of workspaces are told apart within an organisation only.
fn workspace_in(all: &Directory, organisation: &str, text: &str) -> Outcome<String> {
    let own = |it: &&Workspace| it.organisation == organisation;
    let known = all.workspaces.iter().filter(own).map(|it| (it.id.as_str(), it.name.as_str()));
    let first = (organisation == OPERATOR).then_some((DEFAULT_WORKSPACE, DEFAULT_WORKSPACE));
    one("workspace", text, known.chain(first))
}

/// What nobody defined would let nobody do anything, silently.
pub(super) fn check_role(all: &Directory, organisation: &str, role: &str) -> Outcome {
    let own = all.roles.iter().filter(|it| it.organisation == organisation).map(|it| it.name.as_str());
    let known: Vec<&str> = falaj_govern::ROLES.iter().map(|(name, _)| *name).chain(own).collect();
    match known.contains(&role) {
        true => Ok(()),
        false => {
            Err(Failure::usage(Word::AdminRole.with(&[role, &known.join(", ")])).next("`falaj admin role --help`"))
        }
    }
}
