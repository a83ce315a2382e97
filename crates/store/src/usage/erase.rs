//! Erasure: the salts of somebody's requests are destroyed, so that nothing in the ledger can be matched with a text any more.
//! The rows stay, and so do their sums: who pays must be able to see for what.

use std::sync::Arc;

use sqlx::{QueryBuilder, Row, Sqlite};
use tokio::sync::oneshot;

use super::writer::Item;
use super::{Meter, Opened, RequestId, Ticket, queries};
use crate::StoreError;

/// How many rows one transaction erases: requests wait behind it.
const ROWS: usize = 500;
/// How often a log that somebody reads is tried; each attempt waits a quarter of a second.
const ATTEMPTS: usize = 40;

/// Whose requests.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    Workspace(Arc<str>),
    Keys(Arc<[String]>),
}

impl Whose {
    /// Whether this request is theirs and has salts left.
    pub(super) fn salts(&self, opened: &Opened) -> bool {
        let theirs = match self {
            Self::Workspace(workspace) => *workspace == opened.workspace,
            Self::Keys(keys) => keys.iter().any(|key| **key == *opened.key),
        };
        theirs && (opened.input_salt.is_some() || opened.output_salt.is_some())
    }
}

impl Meter {
    /// Destroys the salts of every request of a workspace, those that run included, here and in the write-ahead log. Answers
    /// the ids of all its requests that still had some, for tombstones in the ledger. May be called again after an error.
    ///
    /// # Errors
    /// A failing disk; [`StoreError::Busy`] when somebody reads without end, and copies in the log could not be removed.
    pub async fn erase_workspace(&self, workspace: &str) -> Result<Vec<RequestId>, StoreError> {
        self.erase(Whose::Workspace(workspace.into())).await
    }

    /// As [`Meter::erase_workspace`], for what a person did with these keys, in any workspace.
    ///
    /// # Errors
    /// As [`Meter::erase_workspace`].
    pub async fn erase_key_holder(&self, keys: &[String]) -> Result<Vec<RequestId>, StoreError> {
        if keys.is_empty() { Ok(Vec::new()) } else { self.erase(Whose::Keys(keys.into())).await }
    }

    async fn erase(&self, whose: Whose) -> Result<Vec<RequestId>, StoreError> {
        // Those that run first: none can then be settled with salts behind our back.
        let mut erased = self.erase_rows(&whose, Vec::new()).await?;
        let mut after = 0;
        loop {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT seq, request_id FROM requests WHERE seq > ");
            query.push_bind(after).push(" AND (input_salt IS NOT NULL OR output_salt IS NOT NULL) AND ");
            match &whose {
                Whose::Workspace(workspace) => {
                    query.push("workspace = ").push_bind(workspace.to_string());
                }
                Whose::Keys(keys) => {
                    let mut list = query.push("key IN (").separated(", ");
                    for key in keys.iter() {
                        list.push_bind(key.clone());
                    }
                    query.push(")");
                }
            }
            query.push(" ORDER BY seq LIMIT ").push_bind(i64::try_from(ROWS).unwrap_or(i64::MAX));
            let found = query.build().fetch_all(&self.reader).await?;
            let mut rows = Vec::with_capacity(found.len());
            for row in &found {
                after = row.try_get("seq")?;
                rows.push(after);
                erased.push(queries::bytes(row, "request_id")?);
            }
            if rows.is_empty() {
                break;
            }
            erased.extend(self.erase_rows(&whose, rows).await?);
        }
        self.forget().await?;
        Ok(erased)
    }

    async fn erase_rows(&self, whose: &Whose, rows: Vec<i64>) -> Result<Vec<RequestId>, StoreError> {
        let (promise, erased) = oneshot::channel();
        self.queue.push(Item::Erase(whose.clone(), rows, promise), true)?;
        erased.await.unwrap_or(Err(StoreError::Stopped))
    }

    async fn forget(&self) -> Result<(), StoreError> {
        let mut last = Ok(());
        for _ in 0..ATTEMPTS {
            let (promise, forgotten) = oneshot::channel();
            self.queue.push(Item::Forget(promise), true)?;
            last = Ticket(forgotten).await;
            if !matches!(last, Err(StoreError::Busy)) {
                break;
            }
        }
        last
    }
}
