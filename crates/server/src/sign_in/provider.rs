//! The OpenID provider, as this site talks to it: its published configuration and keys, and codes for tokens. Calls block; callers
//! are on a thread for that.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig};

use super::id_token::{Claims, Expected, Jwk, Jwks, Refusal, verify};
use super::{SignInError, SignInSettings, encoded};

pub(super) struct Provider {
    agent: Agent,
    issuer: String,
    client_id: String,
    client_secret: Option<String>,
    known: Mutex<Option<Known>>,
}

#[derive(Clone)]
struct Known {
    configuration: Configuration,
    keys: Vec<Jwk>,
    since: Instant,
}

/// OpenID Connect Discovery 1.0, section 3: what of it we use.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Configuration {
    issuer: String,
    pub(super) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
    access_token: Option<String>,
}

const TIMEOUT: Duration = Duration::from_secs(15);
const MOST_BYTES: u64 = 1 << 20;
/// How long what it published is taken for what it publishes.
const FRESH: Duration = Duration::from_secs(3600);

impl Provider {
    pub(super) fn new(settings: &SignInSettings) -> Result<Self, SignInError> {
        let mut tls = TlsConfig::builder();
        if let Some(pem) = &settings.ca_pem {
            let certificates: Vec<_> = ureq::tls::parse_pem(pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .user_agent(concat!("falaj/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Nothing of what we send is for anybody else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(TIMEOUT))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            issuer: settings.issuer.clone(),
            client_id: settings.client_id.clone(),
            client_secret: settings.client_secret.clone(),
            known: Mutex::default(),
        })
    }

    pub(super) fn configuration(&self) -> Result<Configuration, SignInError> {
        self.known(FRESH).map(|known| known.configuration)
    }

    /// Gives the code back for a token, and says whose it is.
    pub(super) fn redeem(
        &self,
        code: &str,
        redirect: &str,
        verifier: &str,
        nonce: &str,
    ) -> Result<Claims, SignInError> {
        let known = self.known(FRESH)?;
        let configuration = &known.configuration;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        let mut request = self.agent.post(&configuration.token_endpoint);
        let methods = configuration.token_endpoint_auth_methods_supported.as_deref();
        let takes = |method: &str| methods.is_some_and(|all| all.iter().any(|one| one == method));
        match &self.client_secret {
            // RFC 6749, section 2.3.1: the usual way, unless it is not taken and the other one is.
            Some(secret) if takes("client_secret_post") && !takes("client_secret_basic") => {
                form.extend([("client_id", self.client_id.as_str()), ("client_secret", secret)]);
            }
            Some(secret) => {
                let pair = format!("{}:{}", encoded(&self.client_id), encoded(secret));
                request = request.header("authorization", format!("Basic {}", STANDARD.encode(pair)));
            }
            None => form.push(("client_id", &self.client_id)),
        }
        let response = request.send_form(form).map_err(|error| unreachable("token endpoint", &error))?;
        let status = response.status().as_u16();
        if status != 200 {
            // What it says may repeat what we sent.
            tracing::warn!(status, "the OpenID provider took no code");
            return Err(SignInError::Code);
        }
        let tokens: Tokens = json("token endpoint", response)?;
        let token = tokens.id_token.ok_or(SignInError::Token(Refusal::Malformed.to_string()))?;
        let expected = |now_s| Expected { issuer: &self.issuer, client_id: &self.client_id, nonce, now_s };
        let mut checked = verify(&token, &known.keys, expected(crate::clock::system_s()));
        if checked == Err(Refusal::UnknownKey) {
            // It has new keys. Only the provider itself can make us look: the token is from its own answer.
            let known = self.known(Duration::ZERO)?;
            checked = verify(&token, &known.keys, expected(crate::clock::system_s()));
        }
        let claims = checked.map_err(|refusal| {
            tracing::warn!(%refusal, "a token of the OpenID provider was refused");
            SignInError::Token(refusal.to_string())
        })?;
        match (&configuration.userinfo_endpoint, tokens.access_token) {
            (Some(url), Some(token)) if claims.email.is_none() => self.more(claims, url, &token),
            _ => Ok(claims),
        }
    }

    /// The address of somebody of whom the ID token says only who it is (Core 1.0, section 5.3).
    fn more(&self, claims: Claims, url: &str, token: &str) -> Result<Claims, SignInError> {
        let request = self.agent.get(url).header("authorization", format!("Bearer {token}"));
        let response = request.call().map_err(|error| unreachable("userinfo", &error))?;
        if response.status().as_u16() != 200 {
            return Err(SignInError::Provider("it says nothing of who signed in".to_owned()));
        }
        let more: Claims = json("userinfo", response)?;
        // What it says of somebody else is not believed of this one.
        if more.sub == claims.sub { Ok(more) } else { Err(SignInError::Token("userinfo is of another".to_owned())) }
    }

    /// What it publishes, no older than this.
    fn known(&self, most: Duration) -> Result<Known, SignInError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.since.elapsed() < most) {
            return Ok(known.clone());
        }
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let configuration: Configuration = self.get("configuration", &url)?;
        let http = self.issuer.starts_with("http://");
        let safe = |url: &String| url.starts_with("https://") || http && url.starts_with("http://");
        let endpoints = [&configuration.authorization_endpoint, &configuration.token_endpoint, &configuration.jwks_uri];
        let all_safe = endpoints.into_iter().chain(&configuration.userinfo_endpoint).all(safe);
        if configuration.issuer != self.issuer || !all_safe {
            tracing::error!(issuer = self.issuer, says = configuration.issuer, "another provider, or one without TLS");
            return Err(SignInError::Provider("its configuration is not of the issuer that is set".to_owned()));
        }
        let keys: Jwks = self.get("keys", &configuration.jwks_uri)?;
        Ok(known.insert(Known { configuration, keys: keys.read(), since: Instant::now() }).clone())
    }

    fn get<T: DeserializeOwned>(&self, what: &str, url: &str) -> Result<T, SignInError> {
        let response = self.agent.get(url).call().map_err(|error| unreachable(what, &error))?;
        match response.status().as_u16() {
            200 => json(what, response),
            status => Err(SignInError::Provider(format!("its {what} answered {status}"))),
        }
    }
}

fn json<T: DeserializeOwned>(what: &str, response: ureq::http::Response<ureq::Body>) -> Result<T, SignInError> {
    let mut response = response;
    let text = response.body_mut().with_config().limit(MOST_BYTES).read_to_string();
    let text = text.map_err(|error| unreachable(what, &error))?;
    serde_json::from_str(&text).map_err(|_| SignInError::Provider(format!("its {what} is not what it should be")))
}

fn unreachable(what: &str, error: &ureq::Error) -> SignInError {
    tracing::warn!(what, %error, "the OpenID provider cannot be reached");
    SignInError::Provider(format!("its {what} cannot be reached"))
}
