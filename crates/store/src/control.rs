//! Control state: tenants, keys, roles, limits, grants, prices. Documents in one table: all of it is read at once into a
//! [`Directory`], whose revision grows with every change of any process. What each kind holds is in `control/kinds.rs`, keys and
//! their secrets in `control/keys.rs`.

mod keys;
mod kinds;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{AnyConnection, Row};

pub use keys::{NewKey, Pepper, Secret};
pub use kinds::{
    ApiKey, ArtifactFacts, DEFAULT_WORKSPACE, GrantTerms, LimitOf, Member, OPERATOR, Organisation, Price, Role,
    ServiceAccount, User, Workspace,
};

use crate::{Store, StoreError};

/// A kind of document.
pub trait Control: Serialize + DeserializeOwned + Send + Sync {
    const KIND: &'static str;
    fn id(&self) -> &str;
    /// The document that it belongs to and goes away with: kind and id.
    fn owner(&self) -> Option<(&'static str, &str)>;
    /// Unique among those of its kind and owner, where it has one.
    fn name(&self) -> Option<&str>;
    /// # Errors
    /// What is wrong with it, and what would be right.
    fn check(&self) -> Result<(), String>;
}

/// All control state of one moment, each kind in the order of its ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directory {
    pub revision: u64,
    pub organisations: Vec<Organisation>,
    pub workspaces: Vec<Workspace>,
    pub users: Vec<User>,
    pub service_accounts: Vec<ServiceAccount>,
    pub members: Vec<Member>,
    pub roles: Vec<Role>,
    pub keys: Vec<ApiKey>,
    pub limits: Vec<LimitOf>,
    pub grants: Vec<GrantTerms>,
    pub artifacts: Vec<ArtifactFacts>,
    pub prices: Vec<Price>,
}

impl Directory {
    pub fn organisation(&self, id: &str) -> Option<&Organisation> {
        find(&self.organisations, id)
    }

    pub fn workspace(&self, id: &str) -> Option<&Workspace> {
        find(&self.workspaces, id)
    }

    pub fn user(&self, id: &str) -> Option<&User> {
        find(&self.users, id)
    }

    pub fn artifact(&self, id: &str) -> Option<&ArtifactFacts> {
        find(&self.artifacts, id)
    }

    pub fn price(&self, id: &str) -> Option<&Price> {
        find(&self.prices, id)
    }

    /// Databases have orders of their own, which depend on their locale.
    fn sort(&mut self) {
        sort(&mut self.organisations);
        sort(&mut self.workspaces);
        sort(&mut self.users);
        sort(&mut self.service_accounts);
        sort(&mut self.members);
        sort(&mut self.roles);
        sort(&mut self.keys);
        sort(&mut self.limits);
        sort(&mut self.grants);
        sort(&mut self.artifacts);
        sort(&mut self.prices);
    }
}

fn find<'a, T: Control>(sorted: &'a [T], id: &str) -> Option<&'a T> {
    let at = sorted.binary_search_by(|it| it.id().cmp(id)).ok()?;
    sorted.get(at)
}

fn sort<T: Control>(all: &mut [T]) {
    all.sort_unstable_by(|a, b| a.id().cmp(b.id()));
}

impl Store {
    /// Adds a document, or changes the one with its id.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: a name that is taken, an owner that is not there, or what [`Control::check`] says.
    pub async fn put<T: Control>(&self, document: &T) -> Result<(), StoreError> {
        let refused = |reason| StoreError::Refused { what: T::KIND, reason };
        document.check().map_err(refused)?;
        let body = serde_json::to_string(document).map_err(|error| refused(error.to_string()))?;
        let mut transaction = self.database.write().await?;
        if let Some((kind, id)) = document.owner() {
            let there: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM control WHERE kind = $1 AND id = $2")
                .bind(kind)
                .bind(id)
                .fetch_one(&mut *transaction)
                .await?;
            let built_in =
                (kind == Organisation::KIND && id == OPERATOR) || (kind == Workspace::KIND && id == DEFAULT_WORKSPACE);
            if there == 0 && !built_in {
                return Err(StoreError::Unknown { what: kind, id: id.to_owned() });
            }
        }
        let (owner_kind, owner) = document.owner().unwrap_or(("", ""));
        let written = sqlx::query(
            "INSERT INTO control (kind, id, owner_kind, owner, name, body) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (kind, id) DO UPDATE SET owner_kind = excluded.owner_kind, owner = excluded.owner,
             name = excluded.name, body = excluded.body",
        )
        .bind(T::KIND)
        .bind(document.id())
        .bind(owner_kind)
        .bind(owner)
        .bind(document.name())
        .bind(body)
        .execute(&mut *transaction)
        .await;
        match written {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                let name = document.name().unwrap_or_default();
                return Err(refused(format!("there is a {} `{name}` already; choose another name", T::KIND)));
            }
            written => written?,
        };
        changed(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// # Errors
    /// [`StoreError::Unknown`].
    pub async fn get<T: Control>(&self, id: &str) -> Result<T, StoreError> {
        let body: Option<String> = sqlx::query_scalar("SELECT body FROM control WHERE kind = $1 AND id = $2")
            .bind(T::KIND)
            .bind(id)
            .fetch_optional(self.database.pool())
            .await?;
        read(&body.ok_or_else(|| StoreError::Unknown { what: T::KIND, id: id.to_owned() })?)
    }

    /// Removes a document and everything that belongs to it.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub async fn take_away<T: Control>(&self, id: &str) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        let mut going = vec![(T::KIND.to_owned(), id.to_owned())];
        let mut first = true;
        while let Some((kind, id)) = going.pop() {
            let gone = sqlx::query("DELETE FROM control WHERE kind = $1 AND id = $2")
                .bind(&kind)
                .bind(&id)
                .execute(&mut *transaction)
                .await?;
            if std::mem::take(&mut first) && gone.rows_affected() == 0 {
                return Err(StoreError::Unknown { what: T::KIND, id });
            }
            if [User::KIND, ServiceAccount::KIND].contains(&kind.as_str()) {
                sqlx::query("DELETE FROM sessions WHERE holder = $1").bind(&id).execute(&mut *transaction).await?;
                // With an organisation goes what its people hold, anyhow.
                if kind == T::KIND {
                    going.extend(held(&mut transaction, &id).await?);
                }
            }
            let owned = sqlx::query("SELECT kind, id FROM control WHERE owner_kind = $1 AND owner = $2")
                .bind(&kind)
                .bind(&id)
                .fetch_all(&mut *transaction)
                .await?;
            for row in owned {
                going.push((row.try_get("kind")?, row.try_get("id")?));
            }
        }
        changed(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Grows with every change of control state, by any process.
    ///
    /// # Errors
    /// A failing database.
    pub async fn revision(&self) -> Result<u64, StoreError> {
        let revision: i64 =
            sqlx::query_scalar("SELECT revision FROM control_revision").fetch_one(self.database.pool()).await?;
        Ok(crate::unsigned(revision))
    }

    /// All control state, as of one moment.
    ///
    /// # Errors
    /// A failing database, or a document that cannot be read.
    pub async fn directory(&self) -> Result<Directory, StoreError> {
        let mut transaction = self.database.read().await?;
        let revision: i64 =
            sqlx::query_scalar("SELECT revision FROM control_revision").fetch_one(&mut *transaction).await?;
        let mut all = Directory { revision: crate::unsigned(revision), ..Directory::default() };
        let rows = sqlx::query("SELECT kind, body FROM control").fetch_all(&mut *transaction).await?;
        for row in rows {
            let (kind, body): (String, String) = (row.try_get("kind")?, row.try_get("body")?);
            match kind.as_str() {
                Organisation::KIND => all.organisations.push(read(&body)?),
                Workspace::KIND => all.workspaces.push(read(&body)?),
                User::KIND => all.users.push(read(&body)?),
                ServiceAccount::KIND => all.service_accounts.push(read(&body)?),
                Member::KIND => all.members.push(read(&body)?),
                Role::KIND => all.roles.push(read(&body)?),
                ApiKey::KIND => all.keys.push(read(&body)?),
                LimitOf::KIND => all.limits.push(read(&body)?),
                GrantTerms::KIND => all.grants.push(read(&body)?),
                ArtifactFacts::KIND => all.artifacts.push(read(&body)?),
                Price::KIND => all.prices.push(read(&body)?),
                _ => return Err(damaged(format!("no such kind: `{kind}`"))),
            }
        }
        all.sort();
        Ok(all)
    }
}

/// Memberships and keys of a user or a service account: kinds and ids.
async fn held(connection: &mut AnyConnection, holder: &str) -> Result<Vec<(String, String)>, StoreError> {
    #[derive(serde::Deserialize)]
    struct Held {
        id: String,
        holder: Option<String>,
    }
    let rows = sqlx::query("SELECT kind, body FROM control WHERE kind = $1 OR kind = $2")
        .bind(Member::KIND)
        .bind(ApiKey::KIND)
        .fetch_all(connection)
        .await?;
    let mut all = Vec::new();
    for row in rows {
        let (kind, body): (String, String) = (row.try_get("kind")?, row.try_get("body")?);
        let found: Held = read(&body)?;
        if found.holder.as_deref() == Some(holder) {
            all.push((kind, found.id));
        }
    }
    Ok(all)
}

async fn changed(connection: &mut AnyConnection) -> Result<(), StoreError> {
    sqlx::query("UPDATE control_revision SET revision = revision + 1").execute(connection).await?;
    Ok(())
}

fn read<T: DeserializeOwned>(body: &str) -> Result<T, StoreError> {
    serde_json::from_str(body).map_err(|error| damaged(error.to_string()))
}

fn damaged(reason: String) -> StoreError {
    StoreError::Damaged { table: "control", reason }
}
