//! What each kind of control document holds, and what it must be.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Control;

/// The organisation that runs the site, and its first workspace: always there, without documents.
pub const OPERATOR: &str = "operator";
pub const DEFAULT_WORKSPACE: &str = "default";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organisation {
    pub id: String,
    pub name: String,
    /// ISO 3166, two capital letters.
    pub country: String,
    pub created_s: u64,
    /// Since then its keys open nothing.
    #[serde(default)]
    pub disabled_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    pub id: String,
    pub organisation: String,
    pub name: String,
    /// Of its data, at least: `public`, `internal`, `confidential` or `secret`.
    #[serde(default)]
    pub class: Option<String>,
    /// Of requests that name none.
    #[serde(default)]
    pub purpose: Option<String>,
    /// Its share of the engine beside others that wait; 100 is usual.
    pub weight: u32,
    /// Higher ones come first; one in seventeen requests that begin is of a lower one that waits.
    pub band: u8,
    pub created_s: u64,
}

/// A person, as an identity provider knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: String,
    pub organisation: String,
    /// Of the OpenID provider; with the subject, who this is. Both are empty until the first time that somebody signs in who the
    /// provider says has this address.
    pub issuer: String,
    pub subject: String,
    pub email: String,
    pub name: String,
    pub created_s: u64,
    /// Since then nothing that they hold opens anything.
    #[serde(default)]
    pub disabled_s: Option<u64>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    pub id: String,
    pub workspace: String,
    pub name: String,
    pub created_s: u64,
    #[serde(default)]
    pub disabled_s: Option<u64>,
}

/// Which role a user or a service account has, in the whole organisation or in one workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    pub organisation: String,
    #[serde(default)]
    pub workspace: Option<String>,
    /// Id of a user or a service account.
    pub holder: String,
    pub role: String,
}

/// A role of an organisation's own. `owner`, `admin`, `member` and `auditor` are there without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub id: String,
    pub organisation: String,
    pub name: String,
    /// Words of the gate's actions.
    pub actions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: String,
    pub workspace: String,
    /// Id of the user or service account that has it.
    #[serde(default)]
    pub holder: Option<String>,
    pub name: String,
    /// The first characters of the secret, for finding it.
    pub prefix: String,
    /// HMAC-SHA256 of the secret under the site's pepper, in hexadecimal.
    pub hash: String,
    pub role: String,
    /// What it may do at most, of what its role may; `None`: all of that.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// Of its data, at least.
    #[serde(default)]
    pub class: Option<String>,
    pub created_s: u64,
    #[serde(default)]
    pub expires_s: Option<u64>,
    #[serde(default)]
    pub revoked_s: Option<u64>,
    /// Id of the key that it follows.
    #[serde(default)]
    pub replaces: Option<String>,
}

impl ApiKey {
    /// `now`: seconds since 1970.
    pub fn opens(&self, now: u64) -> bool {
        self.revoked_s.is_none_or(|revoked| now < revoked) && self.expires_s.is_none_or(|expires| now < expires)
    }
}

/// A bound on what an organisation, a workspace or a key may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitOf {
    pub id: String,
    /// `organisation`, `workspace` or `key`, and its id.
    pub scope: String,
    pub scope_id: String,
    /// `requests`, `tokens`, `money` (millionths) or `joules` (millionths).
    pub what: String,
    /// `minute`, `day` or `month`, in UTC.
    pub per: String,
    pub amount: u64,
}

/// A permission that the owner of artifacts gives; what it says is the gate's to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantTerms {
    pub id: String,
    /// Organisation.
    pub owner: String,
    pub terms: Value,
    #[serde(default)]
    pub revoked_s: Option<u64>,
}

/// What policies read of an artifact, where it is otherwise than usual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactFacts {
    /// The name under which it is served.
    pub id: String,
    /// Organisation.
    pub owner: String,
    /// `model`, `adapter`, `dataset`, `library`, `agent` or `app`.
    pub kind: String,
    #[serde(default)]
    pub class: Option<String>,
    #[serde(default)]
    pub clearance: Option<String>,
    #[serde(default)]
    pub country: Option<String>,
}

/// Of a million tokens, in millionths of the currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Model.
    pub id: String,
    pub prompt: u64,
    pub completion: u64,
    /// ISO 4217.
    pub currency: String,
}

const CLASSES: [&str; 4] = ["public", "internal", "confidential", "secret"];
/// Of names: they go into lists and logs.
const NAME_BYTES: usize = 200;

fn named(what: &str, text: &str) -> Result<(), String> {
    let fits = !text.trim().is_empty() && text.len() <= NAME_BYTES && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(format!("{what} is 1 to {NAME_BYTES} bytes of text on one line")) }
}

fn one_of(what: &str, text: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&text) { Ok(()) } else { Err(format!("{what} `{text}` is not one of {}", words.join(", "))) }
}

fn class(text: Option<&String>) -> Result<(), String> {
    text.map_or(Ok(()), |text| one_of("class", text, &CLASSES))
}

fn country(text: &str) -> Result<(), String> {
    let fits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if fits { Ok(()) } else { Err(format!("country `{text}` is not two capital letters of ISO 3166, such as `MA`")) }
}

macro_rules! control {
    ($type:ty, $kind:literal, $self:ident => owner $owner:expr, name $name:expr, check $check:expr) => {
        impl Control for $type {
            const KIND: &'static str = $kind;
            fn id(&$self) -> &str {
                &$self.id
            }
            fn owner(&$self) -> Option<(&'static str, &str)> {
                $owner
            }
            fn name(&$self) -> Option<&str> {
                $name
            }
            fn check(&$self) -> Result<(), String> {
                $check
            }
        }
    };
}

control!(Organisation, "organisation", self => owner None, name Some(&self.name),
    check named("name", &self.name).and_then(|()| country(&self.country)));
control!(Workspace, "workspace", self => owner Some((Organisation::KIND, &self.organisation)), name Some(&self.name),
check {
    named("name", &self.name)?;
    class(self.class.as_ref())?;
    self.purpose.as_ref().map_or(Ok(()), |purpose| named("purpose", purpose))?;
    if (1..=1_000_000).contains(&self.weight) { Ok(()) } else { Err("weight is 1 to 1000000".to_owned()) }
});
control!(User, "user", self => owner Some((Organisation::KIND, &self.organisation)), name Some(&self.email),
check {
    named("email", &self.email)?;
    named("name", &self.name)?;
    match (self.issuer.is_empty(), self.subject.is_empty()) {
        (true, true) => Ok(()),
        (false, true) | (true, false) => Err("issuer and subject go together".to_owned()),
        // As long as OpenID Connect lets a subject be.
        (false, false) if self.subject.len() <= 255 => named("issuer", &self.issuer),
        (false, false) => Err("a subject has at most 255 bytes".to_owned()),
    }
});
control!(ServiceAccount, "service-account", self => owner Some((Workspace::KIND, &self.workspace)),
    name Some(&self.name), check named("name", &self.name));
control!(Member, "member", self => owner Some((Organisation::KIND, &self.organisation)), name None,
    check named("role", &self.role));
control!(Role, "role", self => owner Some((Organisation::KIND, &self.organisation)), name Some(&self.name),
check {
    named("name", &self.name)?;
    self.actions.iter().try_for_each(|action| named("action", action))
});
control!(ApiKey, "key", self => owner Some((Workspace::KIND, &self.workspace)), name None,
check {
    named("name", &self.name)?;
    named("role", &self.role)?;
    class(self.class.as_ref())
});
control!(LimitOf, "limit", self => owner match self.scope.as_str() {
    "workspace" => Some((Workspace::KIND, &self.scope_id)),
    "key" => Some((ApiKey::KIND, &self.scope_id)),
    _ => Some((Organisation::KIND, &self.scope_id)),
}, name None,
check {
    one_of("scope", &self.scope, &["organisation", "workspace", "key"])?;
    one_of("what", &self.what, &["requests", "tokens", "money", "joules"])?;
    one_of("per", &self.per, &["minute", "day", "month"])
});
control!(GrantTerms, "grant", self => owner Some((Organisation::KIND, &self.owner)), name None,
    check if self.terms.is_object() { Ok(()) } else { Err("terms are a JSON object".to_owned()) });
control!(ArtifactFacts, "artifact", self => owner Some((Organisation::KIND, &self.owner)), name None,
check {
    one_of("kind", &self.kind, &["model", "adapter", "dataset", "library", "agent", "app"])?;
    class(self.class.as_ref())?;
    class(self.clearance.as_ref())?;
    self.country.as_ref().map_or(Ok(()), |code| country(code))
});
control!(Price, "price", self => owner None, name None,
check {
    let fits = self.currency.len() == 3 && self.currency.bytes().all(|byte| byte.is_ascii_uppercase());
    if fits { Ok(()) } else { Err("currency is three capital letters of ISO 4217, such as `EUR`".to_owned()) }
});
