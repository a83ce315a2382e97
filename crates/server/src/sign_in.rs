//! How people sign in: OpenID Connect's code flow with PKCE, bound to the browser that began it, and the cookies of their sessions. The
//! provider is `sign_in/provider.rs`, what is believed of its tokens `sign_in/id_token.rs`, the routes `operations/people.rs`.

mod id_token;
mod provider;

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use falaj_artifact::Digest;
use falaj_govern::Language;
use falaj_store::{Member, Store, User, new_id};
use tokio::sync::{Mutex, Semaphore};

use crate::ids;
use crate::site::Site;
use id_token::Claims;
use provider::Provider;

/// Who tells this site who people are.
#[derive(Clone)]
pub struct SignInSettings {
    /// As the provider writes it.
    pub issuer: String,
    pub client_id: String,
    /// A client without one is a public client.
    pub client_secret: Option<String>,
    /// Authorities to trust instead of the public ones.
    pub ca_pem: Option<Vec<u8>>,
    /// Where people reach this site, without a slash at the end. The provider sends them back to `URL/auth/callback`.
    pub url: String,
    /// Only its users sign in; newcomers become users of it.
    pub organisation: Option<String>,
    /// The role of newcomers in that organisation; `None`: whoever was not invited stays out.
    pub newcomers: Option<String>,
    pub session_s: u64,
}

pub(crate) struct SignIn {
    settings: SignInSettings,
    provider: Arc<Provider>,
    /// Held from the look whether somebody is known until they are.
    knowing: Mutex<()>,
    /// Anybody can make us ask the provider: a slow one must not take all threads.
    asking: Semaphore,
}

/// Why nobody signed in. Each has its words in every language.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    #[error("`{0}` is reached without TLS; use https, or http on this machine only")]
    Address(String),
    #[error("people cannot sign in here")]
    Off,
    #[error("the provider does not answer: {0}")]
    Provider(String),
    #[error("not begun in this browser")]
    State,
    #[error("the provider refused")]
    Refused,
    #[error("the code was not taken")]
    Code,
    #[error("the token was refused: {0}")]
    Token(String),
    #[error("nobody invited this person")]
    Stranger,
    #[error("no member of anything")]
    Nowhere,
    #[error("the session has ended")]
    Ended,
    #[error("asked for by another site")]
    Origin,
}

impl SignInError {
    pub(crate) fn text(&self, language: Language) -> String {
        let [english, french, arabic] = match self {
            Self::Address(_) | Self::Off => [
                "people cannot sign in here: the operator sets `oidc.issuer`",
                "on ne peut pas s'identifier ici : l'opérateur règle `oidc.issuer`",
                "لا يمكن تسجيل الدخول هنا: يضبط المشغّل `oidc.issuer`",
            ],
            Self::Provider(_) => [
                "the identity provider does not answer as it should; try again later",
                "le fournisseur d'identité ne répond pas comme il devrait ; réessayez plus tard",
                "لا يجيب مزود الهوية كما ينبغي؛ حاول لاحقًا",
            ],
            Self::State => [
                "this sign-in was not begun in this browser, or too long ago; begin again at /auth/login",
                "cette identification n'a pas commencé dans ce navigateur, ou il y a trop longtemps ; recommencez à /auth/login",
                "لم يبدأ تسجيل الدخول هذا في هذا المتصفح، أو بدأ قبل وقت طويل؛ ابدأ من جديد عند /auth/login",
            ],
            Self::Refused => [
                "the identity provider did not let you in; begin again at /auth/login",
                "le fournisseur d'identité ne vous a pas laissé entrer ; recommencez à /auth/login",
                "لم يسمح لك مزود الهوية بالدخول؛ ابدأ من جديد عند /auth/login",
            ],
            Self::Code => [
                "the identity provider does not take this code (any more); begin again at /auth/login",
                "le fournisseur d'identité n'accepte pas (plus) ce code ; recommencez à /auth/login",
                "لا يقبل مزود الهوية هذا الرمز (بعد الآن)؛ ابدأ من جديد عند /auth/login",
            ],
            Self::Token(_) => [
                "what the identity provider says of you cannot be trusted; the operator finds why in the log",
                "ce que le fournisseur d'identité dit de vous n'est pas digne de foi ; l'opérateur trouve pourquoi dans le journal",
                "لا يمكن الوثوق بما يقوله مزود الهوية عنك؛ يجد المشغّل السبب في السجل",
            ],
            Self::Stranger => [
                "nobody has invited you here under an address that your identity provider has verified; ask an administrator",
                "personne ne vous a invité ici sous une adresse que votre fournisseur d'identité a vérifiée ; demandez à un administrateur",
                "لم يدعك أحد إلى هنا بعنوان تحقق منه مزود هويتك؛ اسأل مسؤولًا",
            ],
            Self::Nowhere => [
                "you are a member of no workspace here (any more), or not of this one; ask an administrator",
                "vous n'êtes (plus) membre d'aucun espace de travail ici, ou pas de celui-ci ; demandez à un administrateur",
                "لست عضوًا في أي مساحة عمل هنا (بعد الآن)، أو لست عضوًا في هذه؛ اسأل مسؤولًا",
            ],
            Self::Ended => [
                "your session has ended; sign in again at /auth/login",
                "votre session est terminée ; identifiez-vous à nouveau à /auth/login",
                "انتهت جلستك؛ سجّل الدخول من جديد عند /auth/login",
            ],
            Self::Origin => [
                "another site asked for this in your name, so it was not done",
                "un autre site l'a demandé en votre nom : ce n'a pas été fait",
                "طلب موقع آخر ذلك باسمك، فلم يُنفّذ",
            ],
        };
        match language {
            Language::English => english,
            Language::French => french,
            Language::Arabic => arabic,
        }
        .to_owned()
    }
}

/// Calls to the provider.
const AT_ONCE: usize = 8;
/// How long somebody may take at the provider.
const SIGN_IN_S: u64 = 600;
/// Of where they go afterwards.
const RETURN_BYTES: usize = 512;

impl SignIn {
    /// # Errors
    /// [`SignInError::Address`].
    pub(crate) fn new(settings: SignInSettings) -> Result<Self, SignInError> {
        // Whoever could change what the provider says, or read a cookie, could be anybody.
        let open = |url: &&String| !url.starts_with("https://") && !is_loopback(url);
        if let Some(url) = [&settings.url, &settings.issuer].into_iter().find(open) {
            return Err(SignInError::Address(url.clone()));
        }
        let provider = Arc::new(Provider::new(&settings)?);
        Ok(Self { settings, provider, knowing: Mutex::default(), asking: Semaphore::new(AT_ONCE) })
    }

    /// Where the browser goes to sign in, and the cookie by which we know it when it comes back. The cookie holds nothing secret but the
    /// state; nonce and verifier are made of that by the site's own key.
    pub(crate) async fn begin(&self, site: &Site, back: Option<&str>) -> Result<(String, HeaderValue), SignInError> {
        let provider = Arc::clone(&self.provider);
        let configuration = self.ask(move || provider.configuration()).await?;
        let state = new_id().map_err(|_| SignInError::Off)?;
        let ends_s = ids::now_s() + SIGN_IN_S;
        let back = URL_SAFE_NO_PAD.encode(back.filter(|path| is_local(path)).unwrap_or("/"));
        let text = format!("{state}.{ends_s}.{back}");
        let cookie = format!("{text}.{}", site.sign(&format!("sign-in {text}")));
        let challenge = URL_SAFE_NO_PAD.encode(Digest::of(verifier(site, &state).as_bytes()).as_bytes());
        let asked = [
            ("response_type", "code"),
            ("client_id", &self.settings.client_id),
            ("redirect_uri", &self.redirect()),
            ("scope", "openid email profile"),
            ("state", &state),
            ("nonce", &nonce(site, &state)),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]
        .map(|(name, value)| format!("{name}={}", encoded(value)));
        let endpoint = &configuration.authorization_endpoint;
        let joint = if endpoint.contains('?') { '&' } else { '?' };
        Ok((format!("{endpoint}{joint}{}", asked.join("&")), self.set_cookie(SIGN_IN, &cookie, SIGN_IN_S)?))
    }

    /// Whom the provider sent back with this code, and where they wanted to go.
    pub(crate) async fn finish(
        &self,
        site: &Site,
        headers: &HeaderMap,
        state: &str,
        code: &str,
        issuer: Option<&str>,
    ) -> Result<(Claims, String), SignInError> {
        let cookie = self.cookie(headers, SIGN_IN).ok_or(SignInError::State)?;
        let (text, signature) = cookie.rsplit_once('.').ok_or(SignInError::State)?;
        let mut parts = text.split('.');
        let (Some(begun), Some(ends), Some(back)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SignInError::State);
        };
        let lasts = ends.parse::<u64>().is_ok_and(|ends_s| ids::now_s() < ends_s);
        if !site.signed(&format!("sign-in {text}"), signature) || !lasts || begun != state {
            return Err(SignInError::State);
        }
        // RFC 9207: an answer of another provider is for another sign-in.
        if issuer.is_some_and(|issuer| issuer != self.settings.issuer) {
            return Err(SignInError::State);
        }
        let back = URL_SAFE_NO_PAD.decode(back).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (verifier, nonce) = (verifier(site, state), nonce(site, state));
        let (provider, redirect, code) = (Arc::clone(&self.provider), self.redirect(), code.to_owned());
        let claims = self.ask(move || provider.redeem(&code, &redirect, &verifier, &nonce)).await?;
        Ok((claims, back.unwrap_or_else(|| "/".to_owned())))
    }

    /// The user that this is: known by issuer and subject; else invited under an address that the provider has verified; else, where the
    /// settings say so, a new one.
    ///
    /// # Errors
    /// [`SignInError::Stranger`], or a failing database.
    pub(crate) async fn user(&self, store: &Store, claims: Claims) -> Result<User, crate::ApiError> {
        let _knowing = self.knowing.lock().await;
        let all = store.directory().await?;
        let wanted = self.settings.organisation.as_deref();
        let named = |id: &str| {
            let name = all.organisations.iter().find(|it| it.id == id).map(|it| it.name.as_str());
            wanted.is_none_or(|wanted| wanted == id || name == Some(wanted))
        };
        let issuer = &self.settings.issuer;
        let mut here = all.users.iter().filter(|it| named(&it.organisation));
        if let Some(user) = here.clone().find(|it| it.issuer == *issuer && it.subject == claims.sub) {
            return Ok(user.clone());
        }
        let email = claims.email.filter(|_| claims.email_verified).ok_or(SignInError::Stranger)?;
        let invited = here.find(|it| it.subject.is_empty() && it.email.eq_ignore_ascii_case(&email));
        if let Some(user) = invited {
            let name = claims.name.filter(|_| user.name == user.email).unwrap_or_else(|| user.name.clone());
            let user = User { issuer: issuer.clone(), subject: claims.sub, name, ..user.clone() };
            store.put(&user).await?;
            return Ok(user);
        }
        let (Some(wanted), Some(role)) = (wanted, &self.settings.newcomers) else {
            return Err(SignInError::Stranger.into());
        };
        let organisation = all.organisations.iter().find(|it| it.id == wanted || it.name == wanted);
        let organisation = organisation.map_or(wanted, |it| &it.id).to_owned();
        let user = User {
            id: new_id()?,
            organisation: organisation.clone(),
            issuer: issuer.clone(),
            subject: claims.sub,
            name: claims.name.unwrap_or_else(|| email.clone()),
            email,
            created_s: ids::now_s(),
            disabled_s: None,
        };
        store.put(&user).await?;
        let id = format!("{}-{organisation}", user.id);
        store.put(&Member { id, organisation, workspace: None, holder: user.id.clone(), role: role.clone() }).await?;
        Ok(user)
    }

    pub(crate) fn session_s(&self) -> u64 {
        self.settings.session_s
    }

    pub(crate) fn session<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        self.cookie(headers, SESSION)
    }

    pub(crate) fn session_cookie(&self, secret: &str) -> Result<HeaderValue, SignInError> {
        self.set_cookie(SESSION, secret, self.settings.session_s)
    }

    pub(crate) fn no_session(&self) -> Result<HeaderValue, SignInError> {
        self.set_cookie(SESSION, "", 0)
    }

    pub(crate) fn no_sign_in(&self) -> Result<HeaderValue, SignInError> {
        self.set_cookie(SIGN_IN, "", 0)
    }

    /// Whether this site's own pages ask, so far as a request with a cookie changes anything: a browser says whose page it is.
    pub(crate) fn asks_itself(&self, method: &Method, headers: &HeaderMap) -> bool {
        let word = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let reads = *method == Method::GET || *method == Method::HEAD;
        reads || word("origin") == Some(origin(&self.settings.url))
    }

    /// On a thread that may wait.
    async fn ask<R: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<R, SignInError> + Send + 'static,
    ) -> Result<R, SignInError> {
        let failed = || SignInError::Provider("asking it failed".to_owned());
        let _turn = self.asking.acquire().await.map_err(|_| failed())?;
        tokio::task::spawn_blocking(call).await.unwrap_or_else(|_| Err(failed()))
    }

    fn redirect(&self) -> String {
        format!("{}/auth/callback", self.settings.url)
    }

    fn name(&self, name: &str) -> String {
        // A browser takes this prefix only from this very host, over TLS, for all paths (RFC 6265bis).
        if self.is_secure() { format!("__Host-{name}") } else { name.to_owned() }
    }

    fn is_secure(&self) -> bool {
        self.settings.url.starts_with("https://")
    }

    fn set_cookie(&self, name: &str, value: &str, lasts_s: u64) -> Result<HeaderValue, SignInError> {
        let secure = if self.is_secure() { "; Secure" } else { "" };
        let name = self.name(name);
        let text = format!("{name}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Lax{secure}");
        let mut value = HeaderValue::from_str(&text).map_err(|_| SignInError::State)?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn cookie<'a>(&self, headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        let name = self.name(name);
        let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs = all.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(found, value)| *found == name && !value.is_empty()).map(|(_, value)| value)
    }
}

const SESSION: &str = "falaj-session";
const SIGN_IN: &str = "falaj-sign-in";

fn nonce(site: &Site, state: &str) -> String {
    site.sign(&format!("sign-in nonce {state}"))
}

/// 64 of the characters that RFC 7636 allows.
fn verifier(site: &Site, state: &str) -> String {
    site.sign(&format!("sign-in verifier {state}"))
}

/// A path of this site, and nothing that a browser takes for another one.
fn is_local(path: &str) -> bool {
    let bytes = path.as_bytes();
    path.len() <= RETURN_BYTES
        && bytes.first() == Some(&b'/')
        && !matches!(bytes.get(1), Some(b'/' | b'\\'))
        && bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\')
}

fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(host..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| host + at);
    url.get(..end).unwrap_or(url)
}

fn is_loopback(url: &str) -> bool {
    let host = origin(url).trim_start_matches("http://");
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// For a query or a form (RFC 3986: all but the unreserved).
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_come_back_to_this_site_only() {
        for path in ["/", "/auth/me", "/a?b=c#d"] {
            assert!(is_local(path), "{path}");
        }
        for path in ["", "a", "//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nb", "/a\\b"] {
            assert!(!is_local(path), "{path}");
        }
    }

    #[test]
    fn addresses_are_read_as_browsers_do() {
        assert_eq!(origin("https://falaj.example/ai"), "https://falaj.example");
        assert_eq!(origin("http://127.0.0.1:8080"), "http://127.0.0.1:8080");
        for url in ["http://127.0.0.1:8080", "http://localhost:1", "http://localhost", "http://[::1]:80"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in ["http://falaj.example", "http://127.0.0.1.evil.example:80", "ftp://localhost"] {
            assert!(!is_loopback(url), "{url}");
        }
        assert_eq!(encoded("a b&é"), "a%20b%26%C3%A9");
    }
}
