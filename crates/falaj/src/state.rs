//! Where the site's state is: a file in the data folder, or PostgreSQL, whose address is read from a file because it holds a
//! password.

use crate::config::Config;
use crate::failure::{OrFail, Outcome};
use falaj_store::Store;
use std::fs;

pub async fn open(config: &Config) -> Outcome<Store> {
    let Some(path) = &config.database_url_file else { return Ok(Store::open(&config.data).await?) };
    let url = fs::read_to_string(path).or_fail(|| format!("`{}`", path.display()))?;
    Ok(Store::open_postgres(&config.data, url.trim()).await?)
}
