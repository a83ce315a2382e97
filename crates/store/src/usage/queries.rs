//! What can be asked of the usage: sums by whom and when, a receipt, the receipts of a workspace, what budgets start from.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite, SqlitePool};

use super::{Meter, MeteredEnergy, Opened, RequestId, Settled};
use crate::budgets::{Amounts, Per, Scope, Used, Windows};
use crate::{StoreError, signed, unsigned};

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cached_tokens: u64,
    pub money: u64,
    pub energy_uj: u64,
    /// Requests whose energy nobody knows: `energy_uj` is a lower bound unless this is 0.
    pub unmetered: u64,
    /// The worst grade in `energy_uj`; `None` where no energy is known.
    pub energy_grade: Option<char>,
}

impl Totals {
    pub(super) fn add(&mut self, settled: &Settled) {
        self.requests += 1;
        self.prompt_tokens += settled.prompt_tokens;
        self.completion_tokens += settled.completion_tokens;
        self.cached_tokens += settled.cached_tokens;
        self.money += settled.money;
        self.energy_uj += settled.energy.map_or(0, |energy| energy.uj);
        self.unmetered += u64::from(settled.energy.is_none());
        self.energy_grade = self.energy_grade.max(settled.energy.map(|energy| energy.grade));
    }
}

/// What sums are split by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Organisation,
    Workspace,
    Key,
    Model,
}

impl By {
    fn column(self) -> &'static str {
        match self {
            Self::Organisation => "organisation",
            Self::Workspace => "workspace",
            Self::Key => "key",
            Self::Model => "model",
        }
    }
}

/// Which requests: all of what is `Some` must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageFilter {
    pub organisation: Option<String>,
    pub workspace: Option<String>,
    pub key: Option<String>,
    pub model: Option<String>,
    /// Opened from here on, milliseconds since 1970; begins with the whole minute.
    pub from_ms: Option<u64>,
    /// Opened before; the minute that it falls into is left out.
    pub until_ms: Option<u64>,
}

/// A settled request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    pub opened: Opened,
    pub settled: Settled,
}

const SUMS: &str = "sum(requests) AS requests, sum(prompt_tokens) AS prompt_tokens,
    sum(completion_tokens) AS completion_tokens, sum(cached_tokens) AS cached_tokens, sum(money) AS money,
    sum(energy_uj) AS energy_uj, sum(unmetered) AS unmetered, max(energy_grade) AS energy_grade";

impl Meter {
    /// Who asks sees everything that has ended. While it cannot be written, they see the rest.
    async fn settled(&self) {
        let _ = self.flush().await;
    }

    /// Sums of what matches, one line per organisation, workspace, key or model, in its order.
    ///
    /// # Errors
    /// A failing or damaged database.
    pub async fn totals(&self, filter: &UsageFilter, by: By) -> Result<Vec<(String, Totals)>, StoreError> {
        self.settled().await;
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(by.column()).push(" AS whose, ").push(SUMS).push(" FROM minutes WHERE minute >= ");
        query.push_bind(signed(filter.from_ms.unwrap_or(0) / 60_000)).push(" AND minute < ");
        query.push_bind(signed(filter.until_ms.unwrap_or(u64::MAX) / 60_000));
        let columns = [
            (By::Organisation, &filter.organisation),
            (By::Workspace, &filter.workspace),
            (By::Key, &filter.key),
            (By::Model, &filter.model),
        ];
        for (column, wanted) in columns {
            if let Some(wanted) = wanted {
                query.push(" AND ").push(column.column()).push(" = ").push_bind(wanted.clone());
            }
        }
        query.push(" GROUP BY whose ORDER BY whose");
        let rows = query.build().fetch_all(&self.reader).await?;
        rows.iter().map(|row| Ok((row.try_get("whose")?, totals(row)?))).collect()
    }

    /// A settled request of this workspace.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]: none, not settled, or another workspace's.
    pub async fn receipt(&self, workspace: &str, id: &RequestId) -> Result<ReceiptRow, StoreError> {
        self.settled().await;
        // Ids are unique unless somebody made the same one twice: then the newest.
        let query = "SELECT * FROM requests WHERE workspace = ?1 AND request_id = ?2 ORDER BY seq DESC LIMIT 1";
        let row = sqlx::query(query).bind(workspace).bind(id.as_slice()).fetch_optional(&self.reader).await?;
        let unknown = || StoreError::Unknown { what: "receipt", id: super::writer::hex(id) };
        receipt_row(&row.ok_or_else(unknown)?)
    }

    /// Settled requests of a workspace in descending order of their ids, from behind `after`. At most `take`.
    ///
    /// # Errors
    /// A failing or damaged database.
    pub async fn receipts(
        &self,
        workspace: &str,
        after: Option<RequestId>,
        take: u32,
    ) -> Result<Vec<ReceiptRow>, StoreError> {
        self.settled().await;
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM requests WHERE workspace = ");
        query.push_bind(workspace.to_owned());
        if let Some(after) = after {
            query.push(" AND request_id < ").push_bind(after.to_vec());
        }
        query.push(" ORDER BY request_id DESC LIMIT ").push_bind(i64::from(take));
        query.build().fetch_all(&self.reader).await?.iter().map(receipt_row).collect()
    }

    /// What was used of the minute, the day and the month of `now_ms`, by every organisation, workspace and key that used
    /// anything this month: what [`crate::Budgets`] start from. Settle what is unsettled first.
    ///
    /// # Errors
    /// A failing or damaged database.
    pub async fn used(&self, now_ms: u64) -> Result<Vec<Used>, StoreError> {
        self.settled().await;
        let windows = Windows::at(now_ms);
        let minutes = |per: Per| {
            let window = windows.of(per);
            (signed(window.from_ms / 60_000), signed(window.until_ms / 60_000))
        };
        let (month, day, minute) = (minutes(Per::Month), minutes(Per::Day), minutes(Per::Minute));
        let mut used = Vec::new();
        for (scope, by) in
            [(Scope::Organisation, By::Organisation), (Scope::Workspace, By::Workspace), (Scope::Key, By::Key)]
        {
            for (per, (from, until)) in [(Per::Minute, minute), (Per::Day, day), (Per::Month, month)] {
                let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
                query.push(by.column()).push(" AS whose, ").push(SUMS).push(" FROM minutes WHERE minute >= ");
                query.push_bind(from).push(" AND minute < ").push_bind(until).push(" GROUP BY whose");
                for row in &query.build().fetch_all(&self.reader).await? {
                    let scope_id: String = row.try_get("whose")?;
                    let amounts = Amounts::from(totals(row)?);
                    used.push(Used { scope, scope_id: scope_id.into(), per, amounts });
                }
            }
        }
        Ok(used)
    }
}

impl From<Totals> for Amounts {
    fn from(totals: Totals) -> Self {
        Self {
            requests: totals.requests,
            tokens: totals.prompt_tokens + totals.completion_tokens,
            money: totals.money,
            joules: totals.energy_uj,
        }
    }
}

pub(super) async fn reader(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(Duration::from_secs(10));
    Ok(SqlitePoolOptions::new().max_connections(2).connect_with(options).await?)
}

fn totals(row: &SqliteRow) -> Result<Totals, StoreError> {
    let unsigned_at = |name: &str| row.try_get::<i64, _>(name).map(unsigned);
    Ok(Totals {
        requests: unsigned_at("requests")?,
        prompt_tokens: unsigned_at("prompt_tokens")?,
        completion_tokens: unsigned_at("completion_tokens")?,
        cached_tokens: unsigned_at("cached_tokens")?,
        money: unsigned_at("money")?,
        energy_uj: unsigned_at("energy_uj")?,
        unmetered: unsigned_at("unmetered")?,
        energy_grade: row.try_get::<Option<String>, _>("energy_grade")?.and_then(|grade| grade.chars().next()),
    })
}

fn receipt_row(row: &SqliteRow) -> Result<ReceiptRow, StoreError> {
    let unsigned_at = |name: &str| row.try_get::<i64, _>(name).map(unsigned);
    let text = |name: &str| row.try_get::<String, _>(name).map(Arc::<str>::from);
    let request_id = bytes(row, "request_id")?;
    let salt = |name: &str| match row.try_get::<Option<Vec<u8>>, _>(name)? {
        Some(_) => bytes(row, name).map(Some),
        None => Ok(None),
    };
    let uj: Option<i64> = row.try_get("energy_uj")?;
    let grade: Option<String> = row.try_get("energy_grade")?;
    let grade = grade.and_then(|grade| grade.chars().next());
    Ok(ReceiptRow {
        opened: Opened {
            request_id,
            organisation: text("organisation")?,
            workspace: text("workspace")?,
            key: text("key")?,
            time_ms: unsigned_at("time_ms")?,
            model: text("model")?,
            decision: bytes(row, "decision")?,
            input_salt: salt("input_salt")?,
            output_salt: salt("output_salt")?,
        },
        settled: Settled {
            request_id,
            prompt_tokens: unsigned_at("prompt_tokens")?,
            completion_tokens: unsigned_at("completion_tokens")?,
            cached_tokens: unsigned_at("cached_tokens")?,
            money: unsigned_at("money")?,
            energy: uj.zip(grade).map(|(uj, grade)| MeteredEnergy { uj: unsigned(uj), grade }),
            receipt: row.try_get("receipt")?,
            entry: unsigned_at("entry")?,
        },
    })
}

pub(super) fn bytes<const LENGTH: usize>(row: &SqliteRow, name: &str) -> Result<[u8; LENGTH], StoreError> {
    let found: Vec<u8> = row.try_get(name)?;
    let damaged = |_| StoreError::Damaged { table: "requests", reason: format!("`{name}` has another length") };
    found.try_into().map_err(damaged)
}
