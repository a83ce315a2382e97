//! Keys for programs: 256 random bits, shown once; kept as a keyed hash, so that who reads the database has none of them.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use falaj_artifact::Digest;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use sha2::digest::KeyInit;

use super::{ApiKey, Control};
use crate::{Store, StoreError, new_id, now_s};

/// What opens the API. `Debug` does not show it; [`Secret::expose`] does, by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// The site's own secret, without which hashes of keys mean nothing: a file beside the database that only its owner reads.
#[derive(Clone)]
pub struct Pepper(Hmac<Sha256>);

/// A key to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    pub workspace: String,
    pub holder: Option<String>,
    pub name: String,
    pub role: String,
    pub scopes: Option<Vec<String>>,
    pub class: Option<String>,
    /// Seconds since 1970.
    pub expires_s: Option<u64>,
}

impl Secret {
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Self, StoreError> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| StoreError::Random { reason: error.to_string() })?;
        Ok(Self(format!("{HEAD}{}", Digest::from_bytes(bytes))))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(..)")
    }
}

const HEAD: &str = "fj-";
/// Of a secret behind [`HEAD`]: 32 bits, by which a key is found among thousands.
const PREFIX_CHARS: usize = 8;

impl Pepper {
    /// Reads the file, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let secret = Secret::random()?;
                let text = secret.expose().trim_start_matches(HEAD).to_owned();
                let mut options = OpenOptions::new();
                options.write(true).create_new(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                let written = options.open(path).and_then(|mut file| {
                    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
                    // Half a pepper would be in the way of a whole one.
                    written.inspect_err(|_| drop(fs::remove_file(path)))
                });
                match written {
                    // Another process was first.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        fs::read_to_string(path).map_err(StoreError::io("read", path))?
                    }
                    written => written.map(|()| text).map_err(StoreError::io("create", path))?,
                }
            }
            Err(error) => return Err(StoreError::io("read", path)(error)),
        };
        let bytes = text.trim().parse::<Digest>().map_err(|_| {
            let reason = format!("`{}` does not hold 64 hexadecimal digits; restore it from a copy", path.display());
            StoreError::Refused { what: "pepper", reason }
        })?;
        let mut key = [0; 64];
        key.iter_mut().zip(bytes.as_bytes()).for_each(|(byte, secret)| *byte = *secret);
        Ok(Self(<Hmac<Sha256> as KeyInit>::new(&key.into())))
    }

    /// What is kept of a secret.
    pub fn hash(&self, secret: &str) -> [u8; 32] {
        self.0.clone().chain_update(secret).finalize().into_bytes().into()
    }

    /// The part of a secret by which its key is found; `None` for what is no secret of ours.
    pub fn prefix(secret: &str) -> Option<&str> {
        secret.strip_prefix(HEAD)?.get(..PREFIX_CHARS)
    }
}

impl Store {
    pub fn pepper(&self) -> &Pepper {
        &self.pepper
    }

    /// Makes a key. The secret is known now and never again.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn add_key(&self, new: NewKey) -> Result<(ApiKey, Secret), StoreError> {
        let secret = Secret::random()?;
        let key = ApiKey {
            id: new_id()?,
            workspace: new.workspace,
            holder: new.holder,
            name: new.name,
            prefix: Pepper::prefix(secret.expose()).unwrap_or_default().to_owned(),
            hash: Digest::from_bytes(self.pepper.hash(secret.expose())).to_string(),
            role: new.role,
            scopes: new.scopes,
            class: new.class,
            created_s: crate::unsigned(now_s()),
            expires_s: new.expires_s,
            revoked_s: None,
            replaces: None,
        };
        self.put(&key).await?;
        Ok((key, secret))
    }

    /// Makes a key in place of another, which goes on for `overlap_s` seconds.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::Refused`] for a key that opens nothing any more.
    pub async fn rotate_key(&self, id: &str, overlap_s: u64) -> Result<(ApiKey, Secret), StoreError> {
        let old: ApiKey = self.get(id).await?;
        let now = crate::unsigned(now_s());
        if !old.opens(now) {
            let reason = "it has expired or was revoked; make a new one".to_owned();
            return Err(StoreError::Refused { what: ApiKey::KIND, reason });
        }
        let new = NewKey {
            workspace: old.workspace.clone(),
            holder: old.holder.clone(),
            name: old.name.clone(),
            role: old.role.clone(),
            scopes: old.scopes.clone(),
            class: old.class.clone(),
            expires_s: old.expires_s,
        };
        let (key, secret) = self.add_key(new).await?;
        let key = ApiKey { replaces: Some(old.id.clone()), ..key };
        self.put(&key).await?;
        let ends = now.saturating_add(overlap_s);
        self.put(&ApiKey { expires_s: Some(old.expires_s.map_or(ends, |expires| expires.min(ends))), ..old }).await?;
        Ok((key, secret))
    }

    /// # Errors
    /// [`StoreError::Unknown`].
    pub async fn revoke_key(&self, id: &str) -> Result<ApiKey, StoreError> {
        let key: ApiKey = self.get(id).await?;
        let key = ApiKey { revoked_s: key.revoked_s.or(Some(crate::unsigned(now_s()))), ..key };
        self.put(&key).await?;
        Ok(key)
    }

    /// Notes when keys were used last: id, seconds since 1970. No change of control state.
    ///
    /// # Errors
    /// A failing database.
    pub async fn touch_keys(&self, used: &[(String, u64)]) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        for (id, used_s) in used {
            sqlx::query(
                "INSERT INTO key_use (id, used_s) VALUES ($1, $2)
                 ON CONFLICT (id) DO UPDATE SET used_s = excluded.used_s
                 WHERE key_use.used_s < excluded.used_s",
            )
            .bind(id)
            .bind(crate::signed(*used_s))
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// When a key was used last, in seconds since 1970.
    ///
    /// # Errors
    /// A failing database.
    pub async fn key_used_s(&self, id: &str) -> Result<Option<u64>, StoreError> {
        let used: Option<i64> = sqlx::query_scalar("SELECT used_s FROM key_use WHERE id = $1")
            .bind(id)
            .fetch_optional(self.database.pool())
            .await?;
        Ok(used.map(crate::unsigned))
    }
}
