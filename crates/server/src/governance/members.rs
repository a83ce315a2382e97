//! Who has which role where: the store's users, service accounts and memberships, by the holder's id. Whoever is disabled or gone,
//! or of an organisation that is, is not in it: nothing that they hold opens anything.

use std::collections::HashMap;

use falaj_store::{DEFAULT_WORKSPACE, Directory, OPERATOR};

#[derive(Debug, Default)]
pub(super) struct Members {
    holders: HashMap<String, Holder>,
    /// Of each organisation, oldest first.
    workspaces: HashMap<String, Vec<String>>,
}

#[derive(Debug, Default)]
struct Holder {
    organisation: String,
    is_user: bool,
    roles: Vec<Membership>,
}

#[derive(Debug)]
struct Membership {
    /// `None`: of the whole organisation.
    workspace: Option<String>,
    role: String,
}

impl Members {
    pub(super) fn new(directory: &Directory) -> Self {
        let mut holders = HashMap::new();
        for it in directory.users.iter().filter(|it| it.disabled_s.is_none()) {
            let organisation = it.organisation.clone();
            holders.insert(it.id.clone(), Holder { organisation, is_user: true, roles: Vec::new() });
        }
        for it in directory.service_accounts.iter().filter(|it| it.disabled_s.is_none()) {
            if let Some(organisation) = organisation_of(directory, &it.workspace) {
                let organisation = organisation.to_owned();
                holders.insert(it.id.clone(), Holder { organisation, is_user: false, roles: Vec::new() });
            }
        }
        let disabled = |id: &str| directory.organisation(id).is_some_and(|it| it.disabled_s.is_some());
        holders.retain(|_, holder| !disabled(&holder.organisation));
        for it in &directory.members {
            // A membership in another organisation than the holder's would let nobody in.
            let Some(holder) = holders.get_mut(&it.holder).filter(|holder| holder.organisation == it.organisation)
            else {
                continue;
            };
            holder.roles.push(Membership { workspace: it.workspace.clone(), role: it.role.clone() });
        }
        let mut oldest_first: Vec<_> = directory.workspaces.iter().collect();
        oldest_first.sort_by_key(|it| it.created_s);
        let mut workspaces: HashMap<String, Vec<String>> =
            [(OPERATOR.to_owned(), vec![DEFAULT_WORKSPACE.to_owned()])].into();
        for it in oldest_first {
            workspaces.entry(it.organisation.clone()).or_default().push(it.id.clone());
        }
        Self { holders, workspaces }
    }

    /// What somebody is in a workspace of an organisation; empty for who is nothing there.
    pub(super) fn roles<'a>(&'a self, holder: &str, organisation: &str, workspace: &'a str) -> Vec<&'a str> {
        let found = self.holders.get(holder).filter(|holder| holder.organisation == organisation);
        let here = |it: &&Membership| it.workspace.as_deref().is_none_or(|only| only == workspace);
        found.map(|holder| holder.roles.iter().filter(here).map(|it| it.role.as_str()).collect()).unwrap_or_default()
    }

    /// The workspaces that a user may work in, oldest first. Empty for who is no user.
    pub(super) fn workspaces(&self, user: &str) -> Vec<String> {
        let Some(holder) = self.holders.get(user).filter(|holder| holder.is_user) else { return Vec::new() };
        let all = self.workspaces.get(&holder.organisation).into_iter().flatten();
        all.filter(|id| !self.roles(user, &holder.organisation, id).is_empty()).cloned().collect()
    }

    pub(super) fn users(&self) -> impl Iterator<Item = &str> {
        self.holders.iter().filter(|(_, holder)| holder.is_user).map(|(id, _)| id.as_str())
    }
}

/// `None` where there is no such workspace.
pub(super) fn organisation_of<'a>(directory: &'a Directory, workspace: &str) -> Option<&'a str> {
    if workspace == DEFAULT_WORKSPACE {
        return Some(OPERATOR);
    }
    directory.workspace(workspace).map(|it| it.organisation.as_str())
}
