//! What fine-tuned models are called, and whether they are put away. The weights themselves are artifacts of the catalog.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::any::AnyRow;

use crate::{Store, StoreError, now_s, unsigned};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunedModel {
    /// Its name in the catalog, and in requests.
    pub id: String,
    pub workspace: String,
    /// The job that made it.
    pub job: String,
    /// The model that it was made from.
    pub root: String,
    pub created_s: u64,
    pub name: Option<String>,
    pub description: Option<String>,
    /// Listed no more, and not served.
    pub archived: bool,
}

/// `None` leaves what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub archived: Option<bool>,
}

impl Store {
    /// Writes down that `job` made the model `id` from `root`. The same again changes nothing.
    ///
    /// # Errors
    /// A failing database; an `id` that another job took.
    pub async fn add_model(&self, workspace: &str, id: &str, job: &str, root: &str) -> Result<TunedModel, StoreError> {
        sqlx::query(
            "INSERT INTO tuned_models (id, workspace, job, root, created_s) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET id = excluded.id WHERE tuned_models.job = excluded.job
             AND tuned_models.workspace = excluded.workspace",
        )
        .bind(id)
        .bind(workspace)
        .bind(job)
        .bind(root)
        .bind(now_s())
        .execute(self.database.pool())
        .await?;
        self.model(workspace, id).await
    }

    /// # Errors
    /// [`StoreError::Unknown`] where the workspace has no such fine-tuned model.
    pub async fn model(&self, workspace: &str, id: &str) -> Result<TunedModel, StoreError> {
        sqlx::query("SELECT * FROM tuned_models WHERE id = $1 AND workspace = $2")
            .bind(id)
            .bind(workspace)
            .fetch_optional(self.database.pool())
            .await?
            .map(|row| read(&row))
            .transpose()?
            .ok_or_else(|| StoreError::Unknown { what: "fine-tuned model", id: id.to_owned() })
    }

    /// All of a workspace, newest first.
    ///
    /// # Errors
    /// A failing database.
    pub async fn models(&self, workspace: &str) -> Result<Vec<TunedModel>, StoreError> {
        sqlx::query("SELECT * FROM tuned_models WHERE workspace = $1 ORDER BY created_s DESC, id")
            .bind(workspace)
            .fetch_all(self.database.pool())
            .await?
            .iter()
            .map(read)
            .collect()
    }

    /// The workspace of each, by its id.
    ///
    /// # Errors
    /// A failing database.
    pub async fn model_workspaces(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let rows = sqlx::query("SELECT id, workspace FROM tuned_models").fetch_all(self.database.pool()).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("workspace")?))).collect()
    }

    /// Ids of those that are put away, in all workspaces.
    ///
    /// # Errors
    /// A failing database.
    pub async fn archived_models(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar("SELECT id FROM tuned_models WHERE archived = 1").fetch_all(self.database.pool()).await?)
    }

    /// # Errors
    /// [`StoreError::Unknown`] where the workspace has no such fine-tuned model.
    pub async fn change_model(
        &self,
        workspace: &str,
        id: &str,
        change: &ModelChange,
    ) -> Result<TunedModel, StoreError> {
        sqlx::query(
            "UPDATE tuned_models SET name = coalesce($3, name), description = coalesce($4, description),
             archived = coalesce($5, archived) WHERE id = $1 AND workspace = $2",
        )
        .bind(id)
        .bind(workspace)
        .bind(&change.name)
        .bind(&change.description)
        .bind(change.archived.map(i64::from))
        .execute(self.database.pool())
        .await?;
        self.model(workspace, id).await
    }

    /// # Errors
    /// [`StoreError::Unknown`] where the workspace has no such fine-tuned model.
    pub async fn remove_model(&self, workspace: &str, id: &str) -> Result<(), StoreError> {
        self.model(workspace, id).await?;
        sqlx::query("DELETE FROM tuned_models WHERE id = $1 AND workspace = $2")
            .bind(id)
            .bind(workspace)
            .execute(self.database.pool())
            .await?;
        Ok(())
    }
}

fn read(row: &AnyRow) -> Result<TunedModel, StoreError> {
    Ok(TunedModel {
        id: row.try_get("id")?,
        workspace: row.try_get("workspace")?,
        job: row.try_get("job")?,
        root: row.try_get("root")?,
        created_s: unsigned(row.try_get("created_s")?),
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        archived: row.try_get::<i64, _>("archived")? != 0,
    })
}
