//! ID tokens of OpenID Connect (Core 1.0, section 3.1.3.7): RS256 and ES256, verified by `ring` with the provider's published keys. Which
//! algorithm it is the key says, and the token must agree: one that is not signed, or signed with a shared secret, fits no key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

/// A provider's key (RFC 7517). Those of other kinds are read and fit nothing.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Jwk {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Jwks {
    pub(super) keys: Vec<serde_json::Value>,
}

impl Jwks {
    /// A key that we do not understand is no reason to refuse the others.
    pub(super) fn read(self) -> Vec<Jwk> {
        self.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect()
    }
}

/// What a sign-in expects of the token that ends it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
    /// Seconds since 1970.
    pub(super) now_s: u64,
}

/// Who somebody is, as the provider says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    pub(crate) email: Option<String>,
    #[serde(default)]
    pub(crate) email_verified: bool,
    pub(crate) name: Option<String>,
}

/// Why a token is not believed. The words are for the log and for who runs the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is no signed token")]
    Malformed,
    #[error("its algorithm is neither RS256 nor ES256")]
    Algorithm,
    /// The provider may have changed its keys.
    #[error("no published key of the provider fits it")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it is of another issuer")]
    Issuer,
    #[error("it is for another client")]
    Audience,
    #[error("it has expired")]
    Expired,
    #[error("it is of the future")]
    NotYet,
    #[error("it belongs to another sign-in")]
    Nonce,
}

/// Of clocks that do not agree.
const LEEWAY_S: u64 = 60;
/// OpenID Connect has subjects of at most 255 characters.
const SUBJECT_BYTES: usize = 255;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; we understand none.
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Stated {
    iss: String,
    aud: Audience,
    azp: Option<String>,
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
    nonce: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// The token's claims, if it is what this sign-in expects and one of the keys has signed it.
pub(super) fn verify(token: &str, keys: &[Jwk], expected: Expected<'_>) -> Result<Claims, Refusal> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let (head, body) = signed.split_once('.').filter(|(_, body)| !body.contains('.')).ok_or(Refusal::Malformed)?;
    let header: Header = part(head)?;
    let algorithm = Algorithm::named(&header.alg).ok_or(Refusal::Algorithm)?;
    if header.crit.is_some() {
        return Err(Refusal::Algorithm);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::Malformed)?;
    let mut fitting = keys.iter().filter(|key| algorithm.fits(key, header.kid.as_deref())).peekable();
    fitting.peek().ok_or(Refusal::UnknownKey)?;
    if !fitting.any(|key| algorithm.verifies(key, signed.as_bytes(), &signature)) {
        return Err(Refusal::Signature);
    }
    // Nothing of the body is believed, or read, before this line.
    let stated: Stated = part(body)?;
    if stated.iss != expected.issuer {
        return Err(Refusal::Issuer);
    }
    let (ours, alone) = match &stated.aud {
        Audience::One(one) => (one == expected.client_id, true),
        Audience::Several(all) => (all.iter().any(|one| one == expected.client_id), all.len() == 1),
    };
    // Of several audiences one is who asked for it.
    let party = stated.azp.as_deref().map_or(alone, |party| party == expected.client_id);
    if !ours || !party {
        return Err(Refusal::Audience);
    }
    let now = expected.now_s as f64;
    let leeway = LEEWAY_S as f64;
    if stated.exp + leeway <= now {
        return Err(Refusal::Expired);
    }
    if stated.iat > now + leeway || stated.nbf.is_some_and(|begins| begins > now + leeway) {
        return Err(Refusal::NotYet);
    }
    if stated.nonce.as_deref() != Some(expected.nonce) {
        return Err(Refusal::Nonce);
    }
    let claims: Claims = part(body)?;
    match claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES {
        true => Err(Refusal::Malformed),
        false => Ok(claims),
    }
}

#[derive(Clone, Copy)]
enum Algorithm {
    Rs256,
    Es256,
}

impl Algorithm {
    fn named(word: &str) -> Option<Self> {
        match word {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }

    fn fits(self, key: &Jwk, kid: Option<&str>) -> bool {
        let (kind, name) = match self {
            Self::Rs256 => (key.kty == "RSA", "RS256"),
            Self::Es256 => (key.kty == "EC" && key.crv.as_deref() == Some("P-256"), "ES256"),
        };
        kind && key.r#use.as_deref().is_none_or(|word| word == "sig")
            && key.alg.as_deref().is_none_or(|word| word == name)
            && kid.is_none_or(|kid| key.kid.as_deref() == Some(kid))
    }

    fn verifies(self, key: &Jwk, signed: &[u8], signature: &[u8]) -> bool {
        let number = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?.trim_end_matches('=')).ok();
        match self {
            Self::Rs256 => number(&key.n).zip(number(&key.e)).is_some_and(|(n, e)| {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
            }),
            Self::Es256 => number(&key.x).zip(number(&key.y)).is_some_and(|(x, y)| {
                // An uncompressed point (SEC 1, section 2.3.3).
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
            }),
        }
    }
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::Malformed)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    const EXPECTED: Expected<'_> =
        Expected { issuer: "https://id.example", client_id: "falaj", nonce: "n-1", now_s: 1_000_000 };

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.as_ref(), &random).unwrap())
        }

        fn jwk(&self, kid: &str) -> Jwk {
            let point = self.0.public_key().as_ref();
            let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let key = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": kid, "x": number(&point[1..33]), "y": number(&point[33..]) });
            serde_json::from_value(key).unwrap()
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", text(header), text(claims));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn claims() -> Value {
        json!({ "iss": "https://id.example", "aud": "falaj", "sub": "amal", "exp": 1_000_300, "iat": 1_000_000, "nonce": "n-1",
            "email": "amal@health.example", "email_verified": true })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    #[test]
    fn only_what_this_sign_in_expects_is_believed() {
        let signer = Signer::new();
        let keys = [Signer::new().jwk("old"), signer.jwk("new")];
        let header = json!({ "alg": "ES256", "kid": "new" });
        let verified = |claims: &Value| verify(&signer.sign(&header, claims), &keys, EXPECTED);
        let good = verified(&claims()).unwrap();
        assert_eq!(
            (good.sub.as_str(), good.email.as_deref(), good.email_verified),
            ("amal", Some("amal@health.example"), true)
        );
        for (name, value, refusal) in [
            ("iss", json!("https://id.example/"), Refusal::Issuer),
            ("aud", json!("other"), Refusal::Audience),
            ("aud", json!(["other"]), Refusal::Audience),
            // Ours among others, and nobody says that it was us who asked.
            ("aud", json!(["falaj", "other"]), Refusal::Audience),
            ("azp", json!("other"), Refusal::Audience),
            ("exp", json!(999_900), Refusal::Expired),
            ("exp", json!("1000300"), Refusal::Malformed),
            ("iat", json!(1_000_100), Refusal::NotYet),
            ("nbf", json!(1_000_100), Refusal::NotYet),
            ("nonce", json!("n-2"), Refusal::Nonce),
            ("nonce", Value::Null, Refusal::Nonce),
            ("sub", json!(""), Refusal::Malformed),
        ] {
            assert_eq!(verified(&with(name, value.clone())), Err(refusal), "{name} {value}");
        }
        assert!(verified(&with("aud", json!(["falaj"]))).is_ok());
        let mut shared = with("aud", json!(["falaj", "other"]));
        shared["azp"] = json!("falaj");
        assert!(verified(&shared).is_ok());
        assert!(!verified(&with("email_verified", json!(false))).unwrap().email_verified);
    }

    #[test]
    fn only_the_providers_keys_sign() {
        let (signer, thief) = (Signer::new(), Signer::new());
        let keys = [signer.jwk("new")];
        let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
        let verified = |token: &str| verify(token, &keys, EXPECTED);
        assert_eq!(verified(&thief.sign(&header("ES256", "new"), &claims())), Err(Refusal::Signature));
        assert_eq!(
            verified(&signer.sign(&header("ES256", "newer"), &claims())),
            Err(Refusal::UnknownKey),
            "look again"
        );
        assert!(verified(&signer.sign(&json!({ "alg": "ES256" }), &claims())).is_ok(), "one key alone needs no name");
        for alg in ["none", "None", "HS256", "ES384", "PS256"] {
            assert_eq!(verified(&signer.sign(&header(alg, "new"), &claims())), Err(Refusal::Algorithm), "{alg}");
        }
        assert_eq!(verified(&signer.sign(&header("RS256", "new"), &claims())), Err(Refusal::UnknownKey));
        // Signed with the public key as if it were a shared secret, or with a key that the token brings.
        let mut own = header("ES256", "new");
        own["jwk"] = json!({ "kty": "EC" });
        assert_eq!(verified(&thief.sign(&own, &claims())), Err(Refusal::Signature));
        let critical = json!({ "alg": "ES256", "kid": "new", "crit": ["exp"] });
        assert_eq!(verified(&signer.sign(&critical, &claims())), Err(Refusal::Algorithm));
        let good = signer.sign(&header("ES256", "new"), &claims());
        let (signed, _) = good.rsplit_once('.').unwrap();
        assert_eq!(verified(&format!("{signed}.")), Err(Refusal::Signature), "the signature cut off");
        for broken in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", &good[1..], &format!("{good}.x")] {
            assert!(verified(broken).is_err(), "{broken}");
        }
        let changed = good.replacen(
            signed.split_once('.').unwrap().1,
            &URL_SAFE_NO_PAD.encode(with("sub", json!("samir")).to_string()),
            1,
        );
        assert_eq!(verified(&changed), Err(Refusal::Signature));
    }
}
