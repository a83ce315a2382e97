//! The receipt of one served request: what ran, under which decision, for what, at what cost, with commitments to input and
//! output in place of text. COSE_Sign1 by a session key (`session.rs`).

use ciborium::Value;

use crate::cbor::{self, Fields, Record};
use crate::error::LedgerError;
use crate::hash::{Hash, joined, plain_hash};
use crate::key::{Signer, random};
use crate::session::Session;

/// What the server knows of a request that it served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub request_id: [u8; 16],
    /// Milliseconds since 1970.
    pub time_ms: u64,
    pub model: Hash,
    pub adapter: Option<Hash>,
    /// Version of the arithmetic: who replays needs the same.
    pub numerics: String,
    pub grant: String,
    pub policy_epoch: u64,
    /// SHA-256 of the decision's record.
    pub decision: Hash,
    /// ISO 3166-1, two letters: where the site stands, and whose law its operator is under.
    pub site_country: String,
    pub operator_country: String,
    pub purpose: String,
    pub data_class: String,
    pub input: Hash,
    pub output: Hash,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub tokenizer: Hash,
    pub seed: u64,
    pub sampling: Sampling,
    /// None where nobody knows: never a false zero.
    pub energy: Option<Energy>,
}

/// Parameters of the sampler that were set. Fractions are the bits of an `f32`, because a replay needs them exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    pub temperature_bits: Option<u32>,
    pub top_p_bits: Option<u32>,
    pub top_k: Option<u32>,
    pub min_p_bits: Option<u32>,
    pub frequency_penalty_bits: Option<u32>,
    pub presence_penalty_bits: Option<u32>,
    pub repetition_penalty_bits: Option<u32>,
}

/// What a request took, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Energy {
    pub uj: u64,
    pub grade: EnergyGrade,
}

/// How the energy is known: from a meter (A) to an estimate (E).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnergyGrade {
    A = 1,
    B,
    C,
    D,
    E,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub site: String,
    /// From 0, without gaps.
    pub sequence: u64,
    /// [`receipt_hash`] of the receipt before; zeros for the first.
    pub previous: Hash,
    pub claims: Claims,
}

impl Receipt {
    /// # Errors
    /// A key that cannot be reached.
    pub fn sign(&self, session_key: &dyn Signer) -> Result<Vec<u8>, LedgerError> {
        cbor::sign(self, PURPOSE, session_key)
    }

    /// Reads a receipt of this session, strictly.
    ///
    /// # Errors
    /// [`LedgerError::BadRecord`]: another encoding, another signer, another site, a time outside of the session.
    pub fn verified(bytes: &[u8], session: &Session) -> Result<Self, LedgerError> {
        let receipt: Self = cbor::verified(bytes, PURPOSE, &session.public_key)?;
        let bad = |reason| LedgerError::BadRecord { what: Self::WHAT, reason };
        if receipt.site != session.site {
            return Err(bad("its site is not that of its session"));
        }
        if !session.covers(receipt.claims.time_ms / 1000) {
            return Err(bad("its time is outside of its session"));
        }
        Ok(receipt)
    }

    /// Reads a receipt whose signature was checked before, or is not needed: the tree vouches for its own entries.
    ///
    /// # Errors
    /// Bytes that are no receipt.
    pub fn unverified(bytes: &[u8]) -> Result<Self, LedgerError> {
        cbor::unverified(bytes)
    }

    /// The session key that claims to have signed it: find the session by [`Session::key_id`].
    ///
    /// # Errors
    /// Bytes that are no receipt.
    pub fn key_id(bytes: &[u8]) -> Result<Vec<u8>, LedgerError> {
        cbor::claimed_key_id::<Self>(bytes)
    }
}

/// What the next receipt names as its previous one.
pub fn receipt_hash(receipt: &[u8]) -> Hash {
    plain_hash(receipt)
}

/// Commits to bytes without showing them: who destroys the salt makes the commitment mean nothing.
pub fn commitment(salt: &[u8; 32], bytes: &[u8]) -> Hash {
    joined(&[b"falaj commitment v1\n", salt, bytes])
}

/// # Errors
/// [`LedgerError::Random`].
pub fn new_salt() -> Result<[u8; 32], LedgerError> {
    random::<32>().map(|salt| *salt)
}

impl Record for Receipt {
    const WHAT: &'static str = "receipt";

    fn fields(&self) -> Fields {
        let (mut fields, claims) = (Fields::default(), &self.claims);
        fields.put(1, VERSION).put(2, self.site.as_str()).put(3, self.sequence).put_hash(4, self.previous);
        fields.put(5, claims.request_id.to_vec()).put(6, claims.time_ms).put_hash(7, claims.model);
        if let Some(adapter) = claims.adapter {
            fields.put_hash(8, adapter);
        }
        fields.put(9, claims.numerics.as_str()).put(10, claims.grant.as_str()).put(11, claims.policy_epoch);
        fields.put_hash(12, claims.decision).put(13, claims.site_country.as_str());
        fields.put(14, claims.operator_country.as_str()).put(15, claims.purpose.as_str());
        fields.put(16, claims.data_class.as_str()).put_hash(17, claims.input).put_hash(18, claims.output);
        fields.put(19, claims.prompt_tokens).put(20, claims.completion_tokens).put_hash(21, claims.tokenizer);
        fields.put(22, claims.seed).put(23, claims.sampling.value());
        if let Some(Energy { uj, grade }) = claims.energy {
            fields.put(24, uj).put(25, grade as u64);
        }
        fields
    }

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        if fields.number(1)? != VERSION {
            return None;
        }
        let (site, sequence, previous) = (fields.text(2)?, fields.number(3)?, fields.hash(4)?);
        // In the order of the keys: each is taken from the front.
        let claims = Claims {
            request_id: fields.bytes(5)?,
            time_ms: fields.number(6)?,
            model: fields.hash(7)?,
            adapter: fields.optional(8, Fields::hash)?,
            numerics: fields.text(9)?,
            grant: fields.text(10)?,
            policy_epoch: fields.number(11)?,
            decision: fields.hash(12)?,
            site_country: fields.text(13)?,
            operator_country: fields.text(14)?,
            purpose: fields.text(15)?,
            data_class: fields.text(16)?,
            input: fields.hash(17)?,
            output: fields.hash(18)?,
            prompt_tokens: fields.number(19)?,
            completion_tokens: fields.number(20)?,
            tokenizer: fields.hash(21)?,
            seed: fields.number(22)?,
            sampling: Sampling::from_value(fields.take(23)?)?,
            energy: match fields.optional(24, Fields::number)? {
                Some(uj) => Some(Energy { uj, grade: EnergyGrade::from_number(fields.number(25)?)? }),
                None => None,
            },
        };
        Some(Self { site, sequence, previous, claims })
    }
}

impl Sampling {
    fn value(&self) -> Value {
        let all = [
            self.temperature_bits,
            self.top_p_bits,
            self.top_k,
            self.min_p_bits,
            self.frequency_penalty_bits,
            self.presence_penalty_bits,
            self.repetition_penalty_bits,
        ];
        let set = (1u64..).zip(all).filter_map(|(key, value)| Some((key.into(), value?.into())));
        Value::Map(set.collect())
    }

    fn from_value(value: Value) -> Option<Self> {
        let mut sampling = Self::default();
        for (key, value) in value.into_map().ok()? {
            let place = match u64::try_from(key.into_integer().ok()?).ok()? {
                1 => &mut sampling.temperature_bits,
                2 => &mut sampling.top_p_bits,
                3 => &mut sampling.top_k,
                4 => &mut sampling.min_p_bits,
                5 => &mut sampling.frequency_penalty_bits,
                6 => &mut sampling.presence_penalty_bits,
                7 => &mut sampling.repetition_penalty_bits,
                _ => return None,
            };
            *place = Some(value.into_integer().ok()?.try_into().ok()?);
        }
        Some(sampling)
    }
}

impl EnergyGrade {
    fn from_number(number: u64) -> Option<Self> {
        [Self::A, Self::B, Self::C, Self::D, Self::E].into_iter().find(|&grade| grade as u64 == number)
    }
}

const VERSION: u64 = 1;
const PURPOSE: &[u8] = b"falaj receipt v1";

#[cfg(test)]
pub(crate) mod tests {
    use coset::CborSerializable;

    use super::*;
    use crate::key::FileKey;

    pub(crate) fn claims(number: u8) -> Claims {
        Claims {
            request_id: [number; 16],
            time_ms: 1_800_000_123_456,
            model: plain_hash(b"model"),
            adapter: Some(plain_hash(b"adapter")),
            numerics: "1/avx512".into(),
            grant: "accord/2027/health-ministry/grants/17".into(),
            policy_epoch: 4711,
            decision: plain_hash(b"decision"),
            site_country: "MA".into(),
            operator_country: "FR".into(),
            purpose: "medical-summary".into(),
            data_class: "restricted".into(),
            input: commitment(&[1; 32], b"question"),
            output: commitment(&[2; 32], b"answer"),
            prompt_tokens: 12_345,
            completion_tokens: 678,
            tokenizer: plain_hash(b"tokenizer"),
            seed: u64::MAX,
            sampling: Sampling {
                temperature_bits: Some(0.7f32.to_bits()),
                top_p_bits: Some(0.95f32.to_bits()),
                top_k: Some(40),
                ..Sampling::default()
            },
            energy: Some(Energy { uj: 87_654_321, grade: EnergyGrade::D }),
        }
    }

    fn signed() -> (Vec<u8>, Receipt, Session) {
        let key = FileKey::from_seed(&[4; 32]).unwrap();
        let site = "falaj.sante.example".to_owned();
        let session =
            Session { site: site.clone(), public_key: key.public_key(), from_s: 1_799_999_000, until_s: 1_800_002_600 };
        let receipt = Receipt { site, sequence: 1_000_000, previous: plain_hash(b"before"), claims: claims(9) };
        (receipt.sign(&key).unwrap(), receipt, session)
    }

    #[test]
    fn a_receipt_is_small_the_same_each_time_and_reads_back() {
        let (bytes, receipt, session) = signed();
        assert!(bytes.len() <= 700, "{}", bytes.len());
        assert_eq!(signed().0, bytes);
        assert_eq!(Receipt::verified(&bytes, &session).unwrap(), receipt);
        assert_eq!(Receipt::key_id(&bytes).unwrap(), session.key_id());
        // Digest of the whole, so that a change of the format is noticed.
        assert_eq!(receipt_hash(&bytes).to_string(), "8U0k9VAisvxcVj3T6duHjBxf9kaxAEZoc45lgv8qhqs=");
    }

    #[test]
    fn no_other_bytes_are_that_receipt() {
        let (bytes, _, session) = signed();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut wrong = bytes.clone();
                wrong[at] ^= 1 << bit;
                assert!(Receipt::verified(&wrong, &session).is_err(), "byte {at} bit {bit}");
            }
            assert!(Receipt::verified(&bytes[..at], &session).is_err());
        }
        assert!(Receipt::verified(&[&bytes[..], &[0]].concat(), &session).is_err());
    }

    /// Encodings of the same meaning, each well signed, and claims that this version does not know.
    #[test]
    fn only_the_deterministic_encoding_is_read() {
        let (_, receipt, _) = signed();
        let bytes = receipt.to_cbor();
        assert!(Receipt::from_cbor(&bytes).is_ok());
        let fields =
            || receipt.fields().0.into_iter().map(|(key, value)| (Value::from(key), value)).collect::<Vec<_>>();
        let encoded = |map: Vec<(Value, Value)>| Value::Map(map).to_vec().unwrap();
        assert_eq!(encoded(fields()), bytes);
        let mut swapped = fields();
        swapped.swap(3, 4);
        let mut more = fields();
        more.push((26.into(), 1.into()));
        let mut twice = fields();
        twice.insert(5, twice[4].clone());
        let mut less = fields();
        less.remove(10);
        let mut version = fields();
        version[0].1 = 2.into();
        // Version 1 as a number of two bytes; a map without a length.
        let mut long = bytes.clone();
        let at = long.windows(2).position(|pair| pair == [0x01, 0x01]).unwrap();
        long.splice(at + 1..at + 2, [0x18, 0x01]);
        let head = bytes.iter().position(|&byte| byte == 0x01).unwrap();
        let endless = [&[0xbf][..], &bytes[head..], &[0xff]].concat();
        for wrong in [encoded(swapped), encoded(more), encoded(twice), encoded(less), encoded(version), long, endless] {
            assert!(matches!(Receipt::from_cbor(&wrong), Err(LedgerError::BadRecord { what: "receipt", .. })));
        }
    }

    #[test]
    fn a_session_signs_for_its_site_and_hour_only() {
        let (bytes, _, session) = signed();
        for wrong in [
            Session { site: "elsewhere.example".into(), ..session.clone() },
            Session { until_s: 1_800_000_122, ..session.clone() },
            Session { from_s: 1_800_000_124, ..session.clone() },
            Session { public_key: FileKey::from_seed(&[5; 32]).unwrap().public_key(), ..session },
        ] {
            assert!(Receipt::verified(&bytes, &wrong).is_err());
        }
    }
}
