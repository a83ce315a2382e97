//! Lists that come in pages: the rows of one owner that match a filter, and how many they are in all.

use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row};

use crate::{Page, Part, Store, StoreError, signed, unsigned};

/// A table of which pages are read.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub name: &'static str,
    /// One row of it, for people.
    pub row: &'static str,
    /// The column that says whose a row is.
    pub owner: &'static str,
}

impl Store {
    /// A page of what `owner` has. `filter` appends conditions, each with its ` AND `.
    ///
    /// # Errors
    /// A failing database, or `page.after` that names no row of this owner.
    pub(crate) async fn page<T>(
        &self,
        table: Table,
        owner: &str,
        page: &Page,
        filter: impl Fn(&mut Statement),
        read: impl Fn(&AnyRow) -> Result<T, StoreError>,
    ) -> Result<Part<T>, StoreError> {
        let select = |what: &str| {
            let Table { name, owner: column, .. } = table;
            let mut statement = Statement::new(&format!("SELECT {what} FROM {name} WHERE {column} = "));
            statement.text(owner);
            statement
        };
        let mut counting = select("count(*)");
        filter(&mut counting);
        let total: i64 = counting.query().fetch_one(self.database.pool()).await?.try_get(0)?;

        let mut listing = select("*");
        filter(&mut listing);
        let (beyond, order) = if page.newest_first { ("<", "DESC") } else { (">", "ASC") };
        if let Some(id) = &page.after {
            let mut place = select("seq");
            place.push(" AND id = ").text(id);
            let place = place.query().fetch_optional(self.database.pool()).await?;
            let place = place.ok_or_else(|| StoreError::Unknown { what: table.row, id: id.clone() })?;
            listing.push(&format!(" AND seq {beyond} ")).number(place.try_get("seq")?);
        }
        listing.push(&format!(" ORDER BY seq {order} LIMIT ")).number(i64::from(page.take) + 1);
        listing.push(" OFFSET ").number(signed(page.skip));
        let rows = listing.query().fetch_all(self.database.pool()).await?;
        let take = page.take as usize;
        let has_more = rows.len() > take;
        let rows = rows.iter().take(take).map(read).collect::<Result<_, _>>()?;
        Ok(Part { rows, total: unsigned(total), has_more })
    }
}

/// A statement in the making, of our own words and numbered parameters.
pub(crate) struct Statement {
    text: String,
    parameters: Vec<Parameter>,
}

enum Parameter {
    Text(String),
    Number(i64),
}

impl Statement {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), parameters: Vec::new() }
    }

    /// Our own words, never foreign ones.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.parameter(Parameter::Text(value.to_owned()))
    }

    pub(crate) fn number(&mut self, value: i64) -> &mut Self {
        self.parameter(Parameter::Number(value))
    }

    /// ` AND column = value`, where there is a value.
    pub(crate) fn equals(&mut self, column: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(&format!(" AND {column} = ")).text(value);
        }
    }

    fn parameter(&mut self, value: Parameter) -> &mut Self {
        self.parameters.push(value);
        self.push(&format!("${}", self.parameters.len()))
    }

    pub(crate) fn query(self) -> Query<'static, Any, AnyArguments> {
        let mut query = sqlx::query(AssertSqlSafe(self.text));
        for parameter in self.parameters {
            query = match parameter {
                Parameter::Text(text) => query.bind(text),
                Parameter::Number(number) => query.bind(number),
            };
        }
        query
    }
}
