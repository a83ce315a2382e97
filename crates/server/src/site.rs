//! What only a server with a data folder has: files and jobs. One that merely serves models is without.

use std::sync::Arc;
use std::time::Duration;

use falaj_artifact::Digest;
use falaj_store::{Store, StoreError, new_id};

use crate::app::App;
use crate::jobs::{JobSettings, Jobs};

/// Expired files are not found any more; this is for their room on the disk.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

pub struct Site {
    pub(crate) store: Arc<Store>,
    pub(crate) jobs: Jobs,
    /// Largest file that is taken.
    pub(crate) file_limit_bytes: u64,
    /// Signs links of this process.
    secret: [u8; 32],
}

impl Site {
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(store: Store, jobs: JobSettings, file_limit_bytes: u64) -> Result<Self, StoreError> {
        let store = Arc::new(store);
        let secret = *Digest::of([new_id()?, new_id()?].concat().as_bytes()).as_bytes();
        Ok(Self { jobs: Jobs::new(Arc::clone(&store), jobs), store, file_limit_bytes, secret })
    }

    /// Runs jobs, and removes files that have expired, until [`Jobs::shutdown`].
    pub(crate) async fn run(&self, app: &App) {
        match self.store.archived_models().await {
            Ok(archived) => archived.iter().for_each(|id| app.registry().hide(id, true)),
            Err(error) => tracing::error!(%error, "what models are put away is not known"),
        }
        let sweeping = async {
            loop {
                if let Err(error) = self.store.sweep_files().await {
                    tracing::error!(%error, "expired files could not be removed");
                }
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        };
        tokio::select! {
            () = self.jobs.run() => {}
            () = sweeping => {}
        }
    }

    /// A code that only this process can make. HMAC-SHA256 (RFC 2104), in hexadecimal.
    pub(crate) fn sign(&self, text: &str) -> String {
        let padded = |with: u8| {
            let mut block = [with; 64];
            block.iter_mut().zip(self.secret).for_each(|(to, from)| *to ^= from);
            block
        };
        let inner = Digest::of(&[&padded(0x36)[..], text.as_bytes()].concat());
        Digest::of(&[&padded(0x5c)[..], inner.as_bytes()].concat()).to_string()
    }

    pub(crate) fn signed(&self, text: &str, signature: &str) -> bool {
        let expected = self.sign(text);
        // Looks at every byte whatever it finds.
        let differs = expected.bytes().zip(signature.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b));
        expected.len() == signature.len() && differs == 0
    }
}
