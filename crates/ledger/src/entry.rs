//! What stands in a site's log: one byte for the kind, then the record. The log itself takes any bytes; this is how Falaj
//! fills it.

use crate::cbor::{Fields, Record};
use crate::error::LedgerError;
use crate::hash::Hash;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A session's certificate: `session.rs`.
    Session(Vec<u8>),
    /// A request was let in. Durable before its first token leaves.
    Admission(Admission),
    /// A request was served: `receipt.rs`.
    Receipt(Vec<u8>),
    /// The salts of a request's commitments were destroyed.
    Tombstone(Tombstone),
    /// A request was refused by the gate.
    Denial(Denial),
    /// More were, in some time, than are written down one by one.
    DenialCount(DenialCount),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub request_id: [u8; 16],
    pub time_ms: u64,
    pub grant: String,
    pub policy_epoch: u64,
    /// SHA-256 of the decision's record.
    pub decision: Hash,
}

/// Nothing of what was asked: the decision's record says from what it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub request_id: [u8; 16],
    pub time_ms: u64,
    pub actor: String,
    pub action: String,
    /// With what it would have been done: a kind and an id, such as `artifact:falaj-seed`.
    pub resource: String,
    /// The policy, or the word for what was missing.
    pub policy: String,
    pub policy_epoch: u64,
    /// SHA-256 of the decision's record.
    pub decision: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialCount {
    /// Both included.
    pub from_ms: u64,
    pub until_ms: u64,
    pub denials: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    pub request_id: [u8; 16],
    pub time_ms: u64,
    /// The rule that asked for it, never a name.
    pub reason: String,
}

impl Entry {
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Session(certificate) => (1, certificate.clone()),
            Self::Admission(admission) => (2, admission.to_cbor()),
            Self::Receipt(receipt) => (3, receipt.clone()),
            Self::Tombstone(tombstone) => (4, tombstone.to_cbor()),
            Self::Denial(denial) => (5, denial.to_cbor()),
            Self::DenialCount(count) => (6, count.to_cbor()),
        };
        [&[kind], body.as_slice()].concat()
    }

    /// Reads an entry. Signatures are not checked here.
    ///
    /// # Errors
    /// [`LedgerError::BadRecord`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LedgerError> {
        match bytes.split_first() {
            Some((1, body)) => Ok(Self::Session(body.to_vec())),
            Some((2, body)) => Admission::from_cbor(body).map(Self::Admission),
            Some((3, body)) => Ok(Self::Receipt(body.to_vec())),
            Some((4, body)) => Tombstone::from_cbor(body).map(Self::Tombstone),
            Some((5, body)) => Denial::from_cbor(body).map(Self::Denial),
            Some((6, body)) => DenialCount::from_cbor(body).map(Self::DenialCount),
            _ => Err(LedgerError::BadRecord { what: "entry", reason: "its kind is unknown" }),
        }
    }
}

impl Record for Admission {
    const WHAT: &'static str = "admission";

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put(1, self.request_id.to_vec()).put(2, self.time_ms).put(3, self.grant.as_str());
        fields.put(4, self.policy_epoch).put_hash(5, self.decision);
        fields
    }

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            request_id: fields.bytes(1)?,
            time_ms: fields.number(2)?,
            grant: fields.text(3)?,
            policy_epoch: fields.number(4)?,
            decision: fields.hash(5)?,
        })
    }
}

impl Record for Tombstone {
    const WHAT: &'static str = "tombstone";

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put(1, self.request_id.to_vec()).put(2, self.time_ms).put(3, self.reason.as_str());
        fields
    }

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { request_id: fields.bytes(1)?, time_ms: fields.number(2)?, reason: fields.text(3)? })
    }
}

impl Record for Denial {
    const WHAT: &'static str = "denial";

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put(1, self.request_id.to_vec()).put(2, self.time_ms).put(3, self.actor.as_str());
        fields.put(4, self.action.as_str()).put(5, self.resource.as_str()).put(6, self.policy.as_str());
        fields.put(7, self.policy_epoch).put_hash(8, self.decision);
        fields
    }

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            request_id: fields.bytes(1)?,
            time_ms: fields.number(2)?,
            actor: fields.text(3)?,
            action: fields.text(4)?,
            resource: fields.text(5)?,
            policy: fields.text(6)?,
            policy_epoch: fields.number(7)?,
            decision: fields.hash(8)?,
        })
    }
}

impl Record for DenialCount {
    const WHAT: &'static str = "count of denials";

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put(1, self.from_ms).put(2, self.until_ms).put(3, self.denials);
        fields
    }

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { from_ms: fields.number(1)?, until_ms: fields.number(2)?, denials: fields.number(3)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::plain_hash;

    #[test]
    fn entries_read_back_and_nothing_else_does() {
        let admission = Admission {
            request_id: [7; 16],
            time_ms: 1,
            grant: "g".into(),
            policy_epoch: 3,
            decision: plain_hash(b"decision"),
        };
        let tombstone = Tombstone { request_id: [7; 16], time_ms: 2, reason: "erasure request".into() };
        let denial = Denial {
            request_id: [7; 16],
            time_ms: 3,
            actor: "key_1".into(),
            action: "infer".into(),
            resource: "artifact:a".into(),
            policy: "no-grant".into(),
            policy_epoch: 4,
            decision: plain_hash(b"decision"),
        };
        let count = DenialCount { from_ms: 1, until_ms: 2, denials: 3 };
        for entry in [
            Entry::Admission(admission),
            Entry::Tombstone(tombstone),
            Entry::Denial(denial),
            Entry::DenialCount(count),
            Entry::Receipt(vec![1]),
            Entry::Session(vec![]),
        ] {
            let bytes = entry.to_bytes();
            assert_eq!(Entry::from_bytes(&bytes).unwrap(), entry);
            if !matches!(entry, Entry::Receipt(_) | Entry::Session(_)) {
                assert!(Entry::from_bytes(&[&bytes[..], b"\0"].concat()).is_err());
            }
        }
        assert!(Entry::from_bytes(&[]).is_err() && Entry::from_bytes(&[9, 0]).is_err());
    }
}
