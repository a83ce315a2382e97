//! What only a server with a data folder has: files and jobs. One that merely serves models is without.

use std::sync::Arc;
use std::time::Duration;

use falaj_artifact::Digest;
use falaj_store::{Store, StoreError, new_id};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use sha2::digest::KeyInit;

use crate::app::App;
use crate::jobs::{JobSettings, Jobs};

/// Expired files are not found any more, ended jobs need theirs no more; this is for their room on the disk.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

pub struct Site {
    pub(crate) store: Arc<Store>,
    pub(crate) jobs: Jobs,
    /// Largest file that is taken.
    pub(crate) file_limit_bytes: u64,
    /// Signs links of this process.
    mac: Hmac<Sha256>,
}

impl Site {
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(store: Store, jobs: JobSettings, file_limit_bytes: u64) -> Result<Self, StoreError> {
        let store = Arc::new(store);
        let secret = Digest::of([new_id()?, new_id()?].concat().as_bytes());
        // A key of one whole block: shorter ones are filled with zeros in any case.
        let mut key = [0; 64];
        key.iter_mut().zip(secret.as_bytes()).for_each(|(byte, secret)| *byte = *secret);
        let mac = <Hmac<Sha256> as KeyInit>::new(&key.into());
        Ok(Self { jobs: Jobs::new(Arc::clone(&store), jobs), store, file_limit_bytes, mac })
    }

    /// Runs jobs, and removes files that have expired and what ended jobs left, until [`Jobs::shutdown`].
    pub(crate) async fn run(&self, app: &App) {
        match self.store.archived_models().await {
            Ok(archived) => archived.iter().for_each(|id| app.registry().hide(id, true)),
            Err(error) => tracing::error!(%error, "what models are put away is not known"),
        }
        self.jobs.count_energy(Arc::clone(&app.power));
        let sweeping = async {
            loop {
                if let Err(error) = self.store.sweep_files().await {
                    tracing::error!(%error, "expired files could not be removed");
                }
                self.jobs.sweep().await;
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        };
        tokio::select! {
            () = self.jobs.run() => {}
            () = sweeping => {}
        }
    }

    /// A code that only this process can make, in hexadecimal.
    pub(crate) fn sign(&self, text: &str) -> String {
        let code = self.mac(text).finalize().into_bytes();
        code.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Takes as long whatever it finds.
    pub(crate) fn signed(&self, text: &str, signature: &str) -> bool {
        signature.parse::<Digest>().is_ok_and(|code| self.mac(text).verify_slice(code.as_bytes()).is_ok())
    }

    fn mac(&self, text: &str) -> Hmac<Sha256> {
        self.mac.clone().chain_update(text)
    }
}
