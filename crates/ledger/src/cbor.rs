//! Maps with small integer keys in deterministic CBOR (RFC 8949, section 4.2.1), signed or not. One meaning has one encoding:
//! whatever was read is written again and compared, so nothing else is ever accepted.

use ciborium::Value;
use coset::{CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable, iana};

use crate::error::LedgerError;
use crate::hash::{Hash, plain_hash};
use crate::key::{Signer, verify_ed25519};

/// Something with a map of claims. `WHAT` names it in errors.
pub(crate) trait Record: Sized {
    const WHAT: &'static str;

    fn fields(&self) -> Fields;

    fn from_fields(fields: &mut Fields) -> Option<Self>;

    fn to_cbor(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let map = Value::Map(self.fields().0.into_iter().map(|(key, value)| (key.into(), value)).collect());
        // Writing to memory cannot fail; were it to, the reader would refuse the empty bytes.
        if ciborium::into_writer(&map, &mut bytes).is_err() {
            bytes.clear();
        }
        bytes
    }

    fn from_cbor(bytes: &[u8]) -> Result<Self, LedgerError> {
        let bad = |reason| LedgerError::BadRecord { what: Self::WHAT, reason };
        if bytes.len() > LIMIT_BYTES {
            return Err(bad("it is too long"));
        }
        let Ok(Value::Map(map)) = Value::from_slice(bytes) else { return Err(bad("it is no map in CBOR")) };
        let keyed = map.into_iter().map(|(key, value)| Some((u64::try_from(key.into_integer().ok()?).ok()?, value)));
        let mut fields = Fields(keyed.collect::<Option<_>>().ok_or(bad("a key is no number"))?);
        fields.0.reverse();
        let record = Self::from_fields(&mut fields).ok_or(bad("a claim is missing or has another type"))?;
        if !fields.0.is_empty() {
            return Err(bad("it has a claim that this version does not know"));
        }
        if record.to_cbor() == bytes { Ok(record) } else { Err(bad("it is not in the one deterministic encoding")) }
    }
}

/// Claims in ascending order while writing; read from the end of the reversed list.
#[derive(Default)]
pub(crate) struct Fields(pub(crate) Vec<(u64, Value)>);

impl Fields {
    pub(crate) fn put(&mut self, key: u64, value: impl Into<Value>) -> &mut Self {
        self.0.push((key, value.into()));
        self
    }

    pub(crate) fn put_hash(&mut self, key: u64, hash: Hash) -> &mut Self {
        self.put(key, hash.0.to_vec())
    }

    pub(crate) fn take(&mut self, key: u64) -> Option<Value> {
        self.0.pop_if(|(next, _)| *next == key).map(|(_, value)| value)
    }

    pub(crate) fn number(&mut self, key: u64) -> Option<u64> {
        self.take(key)?.into_integer().ok()?.try_into().ok()
    }

    pub(crate) fn text(&mut self, key: u64) -> Option<String> {
        self.take(key)?.into_text().ok()
    }

    pub(crate) fn bytes<const N: usize>(&mut self, key: u64) -> Option<[u8; N]> {
        self.take(key)?.into_bytes().ok()?.try_into().ok()
    }

    pub(crate) fn hash(&mut self, key: u64) -> Option<Hash> {
        self.bytes(key).map(Hash)
    }

    /// A claim that may be left out: none inside when it is, none outside when it has another type.
    pub(crate) fn optional<T>(
        &mut self,
        key: u64,
        read: impl FnOnce(&mut Self, u64) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.0.last().is_some_and(|(next, _)| *next == key) { read(self, key).map(Some) } else { Some(None) }
    }
}

/// Finds a public key: the first 8 bytes of its SHA-256.
pub(crate) fn key_id(public_key: &[u8; 32]) -> Vec<u8> {
    plain_hash(public_key).0.iter().take(8).copied().collect()
}

/// COSE_Sign1 (tagged) over a record: EdDSA, the key's id, and `purpose` as external data, so that no signed record can be
/// taken for one of another kind.
pub(crate) fn sign<T: Record>(record: &T, purpose: &[u8], signer: &dyn Signer) -> Result<Vec<u8>, LedgerError> {
    let unsigned = || unsigned(key_id(&signer.public_key()), record.to_cbor());
    let signed = unsigned().try_create_signature(purpose, |message| Ok(signer.sign(message)?.to_vec()));
    encoded::<T>(signed.map_err(|error: LedgerError| error)?.build())
}

/// Who signed, by key id; nothing is verified yet.
pub(crate) fn claimed_key_id<T: Record>(bytes: &[u8]) -> Result<Vec<u8>, LedgerError> {
    parse::<T>(bytes).map(|signed| signed.protected.header.key_id)
}

/// Reads a signed record, strictly.
pub(crate) fn verified<T: Record>(bytes: &[u8], purpose: &[u8], public_key: &[u8; 32]) -> Result<T, LedgerError> {
    let bad = |reason| LedgerError::BadRecord { what: T::WHAT, reason };
    let signed = parse::<T>(bytes)?;
    if signed.protected.header.key_id != key_id(public_key) {
        return Err(bad("another key has signed it"));
    }
    if !verify_ed25519(public_key, &signed.tbs_data(purpose), &signed.signature) {
        return Err(bad("its signature does not verify"));
    }
    T::from_cbor(&signed.payload.unwrap_or_default())
}

/// Reads a signed record without asking who signed it: for what this process has written itself.
pub(crate) fn unverified<T: Record>(bytes: &[u8]) -> Result<T, LedgerError> {
    T::from_cbor(&parse::<T>(bytes)?.payload.unwrap_or_default())
}

fn parse<T: Record>(bytes: &[u8]) -> Result<CoseSign1, LedgerError> {
    let bad = |reason| LedgerError::BadRecord { what: T::WHAT, reason };
    if bytes.len() > LIMIT_BYTES {
        return Err(bad("it is too long"));
    }
    let signed = CoseSign1::from_tagged_slice(bytes).map_err(|_| bad("it is no COSE_Sign1"))?;
    let again = unsigned(signed.protected.header.key_id.clone(), signed.payload.clone().unwrap_or_default());
    if encoded::<T>(again.signature(signed.signature.clone()).build())? != bytes {
        return Err(bad("it is not in the one deterministic encoding"));
    }
    Ok(signed)
}

fn unsigned(key_id: Vec<u8>, payload: Vec<u8>) -> CoseSign1Builder {
    let header = HeaderBuilder::new().algorithm(iana::Algorithm::EdDSA).key_id(key_id).build();
    CoseSign1Builder::new().protected(header).payload(payload)
}

fn encoded<T: Record>(signed: CoseSign1) -> Result<Vec<u8>, LedgerError> {
    signed.to_tagged_vec().map_err(|_| LedgerError::BadRecord { what: T::WHAT, reason: "it cannot be encoded" })
}

const LIMIT_BYTES: usize = 1 << 16;
