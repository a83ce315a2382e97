//! A key that stays in its token. A token that is gone is looked for again, at most once a second and only when something is to be
//! signed; a PIN that was refused is never tried again by this process.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use falaj_ledger::{LedgerError, Signer, verify_ed25519};

use crate::error::TokenError;
use crate::token::{Login, Token};
use crate::worker::{Signed, Worker};

/// Which key, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// The token's PKCS#11 library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of the private key and of its public one.
    pub key: String,
    /// Holds the user's PIN, and is read by nobody else.
    pub pin_file: PathBuf,
}

/// Logged in as long as it lives.
pub struct TokenKey {
    public_key: [u8; 32],
    worker: Worker,
}

/// What the worker's thread has.
struct Held {
    settings: TokenSettings,
    public_key: [u8; 32],
    state: State,
}

enum State {
    Open(Login),
    /// To be looked for again.
    Lost {
        reason: String,
        tried: Option<Instant>,
    },
    /// Not to be tried again.
    Refused {
        reason: String,
    },
}

/// How long a signature may take.
const ANSWERS: Duration = Duration::from_secs(5);
/// Between two looks for a token that is gone.
const PATIENCE: Duration = Duration::from_secs(1);

impl TokenKey {
    /// Logs in, and tries the key.
    ///
    /// # Errors
    /// [`TokenError`] says what is missing or wrong, and what helps.
    pub fn open(settings: TokenSettings) -> Result<Self, TokenError> {
        let login = Token::find(&settings)?.log_in(&settings)?;
        let public_key = login.public_key;
        tried(&login, &settings)?;
        let token = settings.token.clone();
        let mut held = Held { settings, public_key, state: State::Open(login) };
        let worker = Worker::start(ANSWERS, move |message| held.sign(message));
        let worker = worker.map_err(|error| TokenError::Failed { token, reason: error.to_string() })?;
        Ok(Self { public_key, worker })
    }

    /// Makes the key pair in the token; the private key never leaves it.
    ///
    /// # Errors
    /// As [`TokenKey::open`]; [`TokenError::KeyExists`].
    pub fn create(settings: TokenSettings) -> Result<Self, TokenError> {
        Token::find(&settings)?.make_key(&settings)?;
        Self::open(settings)
    }

    /// The public key alone, which needs no PIN.
    ///
    /// # Errors
    /// As [`TokenKey::open`].
    pub fn read_public_key(settings: &TokenSettings) -> Result<[u8; 32], TokenError> {
        Token::find(settings)?.public_key(settings)
    }
}

impl Held {
    /// Signs, and logs in anew before that if the token was gone.
    fn sign(&mut self, message: &[u8]) -> Signed {
        if let State::Open(login) = &self.state {
            match login.sign(message) {
                Ok(signature) => return Ok(signature),
                Err(reason) => {
                    // Whatever it was: a session that failed once is not asked again.
                    let reason = TokenError::Failed { token: self.settings.token.clone(), reason }.to_string();
                    self.state = State::Lost { reason, tried: None };
                }
            }
        }
        match &self.state {
            State::Lost { tried, .. } if tried.is_none_or(|tried| tried.elapsed() >= PATIENCE) => {}
            State::Lost { reason, .. } | State::Refused { reason } => return Err(reason.clone()),
            State::Open(_) => {}
        }
        match self.again() {
            Ok(login) => {
                let signed = login.sign(message);
                self.state = State::Open(login);
                signed
            }
            Err(error) => {
                let reason = error.to_string();
                self.state = match error {
                    TokenError::WrongPin { .. } | TokenError::LastTry { .. } | TokenError::Locked { .. } => {
                        State::Refused { reason: reason.clone() }
                    }
                    _ => State::Lost { reason: reason.clone(), tried: Some(Instant::now()) },
                };
                Err(reason)
            }
        }
    }

    fn again(&self) -> Result<Login, TokenError> {
        let token = match Token::find(&self.settings) {
            // Some modules know only the tokens that were there when they were started.
            Err(TokenError::NoToken { .. }) => Token::find_anew(&self.settings)?,
            found => found?,
        };
        let login = token.log_in(&self.settings)?;
        if login.public_key != self.public_key {
            return Err(TokenError::OtherKey { token: self.settings.token.clone() });
        }
        tried(&login, &self.settings)?;
        Ok(login)
    }
}

impl Signer for TokenKey {
    fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], LedgerError> {
        self.worker.sign(message).map_err(|reason| LedgerError::Signer { reason })
    }
}

/// Does it sign what its public key verifies? Nothing that a site ever signs looks like this.
fn tried(login: &Login, settings: &TokenSettings) -> Result<(), TokenError> {
    let message = b"falaj token check v1\n";
    let signature =
        login.sign(message).map_err(|reason| TokenError::Failed { token: settings.token.clone(), reason })?;
    if verify_ed25519(&login.public_key, message, &signature) {
        return Ok(());
    }
    let reason = "its signatures do not verify with its public key";
    Err(TokenError::WrongKind { token: settings.token.clone(), key: settings.key.clone(), reason })
}
