//! `falaj verify`: believes nothing of what a site exported. Signatures, hashes and the chain of receipts are `ledger`'s to check;
//! here decisions are made again by `govern` (`verify/decisions.rs`) and requests answered again (`verify/replay.rs`).

mod decisions;
mod replay;

use crate::args::Verify;
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::words::Word;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use falaj_ledger::{Entry, Folder, PackTrust, Receipt};
use serde_json::{Value, json};
use std::path::Path;

/// Less is how long an entry may wait for others.
const SET_BACK_MS: u64 = 60_000;

/// What was found besides the ledger's own report.
#[derive(Default)]
struct Found {
    /// Distinct decisions that were made again.
    decisions: u64,
    /// What does not hold, for people.
    failures: Vec<String>,
}

pub fn verify(context: &Context, options: &Verify) -> Outcome {
    let pack = Folder::new(&options.pack);
    let trust = options.trust.as_deref().map(|dir| PackTrust::read(&Folder::new(dir), options.quorum)).transpose()?;
    let report = falaj_ledger::verify(&options.pack, trust.as_ref());
    let mut found = Found::default();
    found.failures.extend(report.failures.iter().map(ToString::to_string));
    // Entries that nobody vouches for say nothing.
    if report.holds() {
        decisions::again(&pack, &mut found)?;
    }
    let told = match &options.receipt {
        Some(text) => told(&pack, text, &mut found)?,
        None => None,
    };
    if let (Some((_, receipt)), Some(model)) = (&told, &options.replay) {
        replay::replay(context, options, model, receipt, &mut found)?;
    }
    let failures = found.failures.len();
    if context.json {
        output::json(&json!({
            "holds": failures == 0,
            "origin": report.origin,
            "entries": report.entries,
            "admissions": report.admissions,
            "receipts": report.receipts,
            "sessions": report.sessions,
            "tombstones": report.tombstones,
            "denials": report.denials,
            "denials_counted": report.denials_counted,
            "times_back_ms": report.times_back_ms,
            "decisions": found.decisions,
            "witnesses": report.witnesses,
            "keys_trusted": report.keys_trusted,
            "receipt": told.as_ref().map(|(index, receipt)| shown(*index, receipt)),
            "failures": found.failures,
        }));
    } else {
        let (denials, made) = (report.denials + report.denials_counted, found.decisions);
        let counts = [report.entries, report.admissions, report.receipts, report.sessions, report.tombstones];
        let counts: Vec<String> = counts.iter().chain([&made, &denials]).map(u64::to_string).collect();
        let all: Vec<&str> = [report.origin.as_str()].into_iter().chain(counts.iter().map(String::as_str)).collect();
        output::line(&Word::VerifyCounts.with(&all));
        if !report.witnesses.is_empty() {
            output::line(&Word::VerifyWitnesses.with(&[&report.witnesses.join(", ")]));
        }
        if let Some((index, receipt)) = &told {
            output::line(&Word::VerifyReceipt.with(&[&index.to_string()]));
            output::line(&format!("{:#}", shown(*index, receipt)));
        }
        found.failures.iter().for_each(|failure| output::line(&format!("  {failure}")));
        if report.times_back_ms >= SET_BACK_MS {
            output::note(&Word::VerifyBack.with(&[&(report.times_back_ms / 1000).to_string()]));
        }
        if !report.keys_trusted {
            output::note(Word::VerifyOwnKeys.text());
        }
    }
    if failures > 0 {
        let cause = Word::VerifyFails.with(&[&failures.to_string()]);
        return Err(Failure::new(cause).next(Word::VerifyFailsNext.text()));
    }
    if !context.json {
        output::line(Word::VerifyHolds.text());
    }
    Ok(())
}

/// Where the receipt stands in the ledger, and what it says. Whether it was signed as it should be is in the ledger's report.
fn told(pack: &Folder, text: &str, found: &mut Found) -> Outcome<Option<(u64, Receipt)>> {
    let path = Path::new(text);
    let text = match path.is_file() {
        true => std::fs::read_to_string(path).or_fail(|| format!("`{}`", path.display()))?,
        false => text.to_owned(),
    };
    let text = text.trim().trim_start_matches(": ").trim_start_matches("falaj-receipt").trim_start_matches([':', ' ']);
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).or_else(|_| STANDARD.decode(text));
    let bytes = bytes.map_err(|error| Failure::usage(Word::VerifyBadReceipt.with(&[&error.to_string()])))?;
    let receipt = Receipt::unverified(&bytes)
        .map_err(|error| Failure::usage(Word::VerifyBadReceipt.with(&[&error.to_string()])))?;
    let entry = Entry::Receipt(bytes).to_bytes();
    let mut at = None;
    falaj_ledger::entries::<Failure>(pack, |index, bytes| {
        at = at.or((bytes == entry).then_some(index));
        Ok(())
    })?;
    if at.is_none() {
        found.failures.push(Word::VerifyNoReceipt.text().to_owned());
    }
    Ok(at.map(|index| (index, receipt)))
}

fn shown(index: u64, receipt: &Receipt) -> Value {
    let claims = &receipt.claims;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!({
        "entry": index,
        "site": receipt.site,
        "sequence": receipt.sequence,
        "request_id": format!("req_{}", hex(&claims.request_id)),
        "time_ms": claims.time_ms,
        "model": hex(&claims.model.0),
        "adapter": claims.adapter.map(|adapter| hex(&adapter.0)),
        "numerics": claims.numerics,
        "grant": claims.grant,
        "policy_epoch": claims.policy_epoch,
        "decision": hex(&claims.decision.0),
        "site_country": claims.site_country,
        "operator_country": claims.operator_country,
        "purpose": claims.purpose,
        "data_class": claims.data_class,
        "prompt_tokens": claims.prompt_tokens,
        "completion_tokens": claims.completion_tokens,
        "tokenizer": hex(&claims.tokenizer.0),
        "seed": claims.seed,
        "temperature": claims.sampling.temperature_bits.map(f32::from_bits),
        "energy_j": claims.energy.map(|energy| energy.uj as f64 / 1e6),
        "energy_grade": claims.energy.map(|energy| format!("{:?}", energy.grade)),
    })
}
