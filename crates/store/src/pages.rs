//! Lists that come in pages: the rows of one owner that match a filter, and how many they are in all.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite};

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
        filter: impl Fn(&mut QueryBuilder<Sqlite>),
        read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Part<T>, StoreError> {
        let select = |what: &str| {
            let Table { name, owner: column, .. } = table;
            let mut query = QueryBuilder::new(format!("SELECT {what} FROM {name} WHERE {column} = "));
            query.push_bind(owner.to_owned());
            query
        };
        let mut counting = select("count(*)");
        filter(&mut counting);
        let total: i64 = counting.build_query_scalar().fetch_one(&self.database).await?;

        let mut listing = select("*");
        filter(&mut listing);
        let (beyond, order) = if page.newest_first { ("<", "DESC") } else { (">", "ASC") };
        if let Some(id) = &page.after {
            let mut place = select("seq");
            place.push(" AND id = ").push_bind(id.clone());
            let place: Option<i64> = place.build_query_scalar().fetch_optional(&self.database).await?;
            let place = place.ok_or_else(|| StoreError::Unknown { what: table.row, id: id.clone() })?;
            listing.push(format!(" AND seq {beyond} ")).push_bind(place);
        }
        listing.push(format!(" ORDER BY seq {order} LIMIT ")).push_bind(i64::from(page.take) + 1);
        listing.push(" OFFSET ").push_bind(signed(page.skip));
        let rows = listing.build().fetch_all(&self.database).await?;
        let take = page.take as usize;
        let has_more = rows.len() > take;
        let rows = rows.iter().take(take).map(read).collect::<Result<_, _>>()?;
        Ok(Part { rows, total: unsigned(total), has_more })
    }
}

/// ` AND column = value`, where there is a value.
pub(crate) fn equals(query: &mut QueryBuilder<Sqlite>, column: &str, value: Option<&str>) {
    if let Some(value) = value {
        query.push(format!(" AND {column} = ")).push_bind(value.to_owned());
    }
}
