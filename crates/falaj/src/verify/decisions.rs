//! Makes every recorded decision again, by Cedar, from what it was made from, and compares it with what its receipt or denial claims.

use super::Found;
use crate::failure::{Failure, Outcome};
use crate::words::Word;
use falaj_govern::{Policies, PolicyTexts, Record};
use falaj_ledger::{Claims, Denial, Entry, Folder, Hash, Receipt};
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

pub(super) fn again(pack: &Folder, found: &mut Found) -> Outcome {
    let policies = policies(pack)?;
    let mut made: HashMap<Hash, Result<Record, String>> = HashMap::new();
    falaj_ledger::entries::<Failure>(pack, |index, bytes| {
        let (decision, said) = match Entry::from_bytes(&bytes)? {
            Entry::Admission(admission) => (admission.decision, Said::Admitted),
            Entry::Receipt(bytes) => {
                let claims = Receipt::unverified(&bytes)?.claims;
                (claims.decision, Said::Served(Box::new(claims)))
            }
            Entry::Denial(denial) => (denial.decision, Said::Denied(denial)),
            Entry::Session(_) | Entry::Tombstone(_) | Entry::DenialCount(_) => return Ok(()),
        };
        let outcome = match made.entry(decision) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => slot.insert(make(pack, &decision, &policies)),
        };
        let wrong = match outcome {
            Err(wrong) => Some(wrong.clone()),
            Ok(record) => said.wrong(record),
        };
        if let Some(wrong) = wrong {
            found.failures.push(format!("entry {index}: {wrong}"));
        }
        Ok(())
    })?;
    found.decisions = made.values().filter(|outcome| outcome.is_ok()).count() as u64;
    Ok(())
}

/// By their digests. A record that is no policies is a decision.
fn policies(pack: &Folder) -> Outcome<HashMap<String, Policies>> {
    let mut all = HashMap::new();
    for hash in pack.records()? {
        let bytes = pack.record(&hash)?.unwrap_or_default();
        let Ok(PolicyTexts { policies }) = serde_json::from_slice::<PolicyTexts>(&bytes) else { continue };
        let texts: Vec<&str> = policies.iter().map(String::as_str).collect();
        // Made by somebody else: what does not validate decides nothing, and the decisions that name it say so.
        if let Ok(policies) = Policies::with(&texts) {
            all.insert(policies.digest().to_string(), policies);
        }
    }
    Ok(all)
}

fn make(pack: &Folder, decision: &Hash, policies: &HashMap<String, Policies>) -> Result<Record, String> {
    let bytes = pack.record(decision).map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or_else(|| Word::VerifyMissing.text().to_owned())?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let policies = policies.get(&record.policies).ok_or_else(|| Word::VerifyNoPolicies.text().to_owned())?;
    match record.verify(policies) {
        Ok(true) => Ok(record),
        Ok(false) => Err(Word::VerifyOther.text().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What an entry makes of the decision that it names.
enum Said {
    Admitted,
    Served(Box<Claims>),
    Denied(Denial),
}

impl Said {
    /// For people; none where the decision says the same.
    fn wrong(&self, record: &Record) -> Option<String> {
        let differs = match self {
            Self::Denied(_) if record.permitted => return Some(Word::VerifyPermitted.text().to_owned()),
            Self::Denied(denial) => refuses_otherwise(record, denial),
            _ if !record.permitted => return Some(Word::VerifyDenied.text().to_owned()),
            Self::Admitted => None,
            Self::Served(claims) => differs(record, claims),
        };
        differs.map(|what| Word::VerifyClaims.with(&[what]))
    }
}

/// What a denial says otherwise than the decision that it names.
fn refuses_otherwise(record: &Record, denial: &Denial) -> Option<&'static str> {
    let question = &record.question;
    [
        ("actor", *question.actor == *denial.actor),
        ("action", question.action.word() == denial.action),
        ("resource", question.target.to_string() == denial.resource),
        ("policy", record.policy() == denial.policy),
    ]
    .into_iter()
    .find_map(|(what, same)| (!same).then_some(what))
}

/// What a receipt says otherwise than the decision that it names.
fn differs(record: &Record, claims: &Claims) -> Option<&'static str> {
    let site = &record.world.site;
    let class = format!("{:?}", record.question.class).to_lowercase();
    [
        ("purpose", *record.question.purpose == *claims.purpose),
        ("data_class", class == claims.data_class),
        ("site_country", site.country == claims.site_country),
        ("operator_country", site.operator_country == claims.operator_country),
    ]
    .into_iter()
    .find_map(|(what, same)| (!same).then_some(what))
}
