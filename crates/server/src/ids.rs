//! Identifiers of replies, requests and tool calls, and seeds. Random enough to be unique; none is a secret.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use crate::clock::{now_ms, now_s};

/// `prefix` and 32 hexadecimal digits.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", random(), random())
}

/// A request's 16 bytes, which its receipt carries: 48 bits of milliseconds since 1970, then random ones, so that what is kept by
/// them is kept in the order of time.
pub(crate) fn request() -> [u8; 16] {
    (u128::from(now_ms()) << 80 | (u128::from(random()) << 64 | u128::from(random())) & ((1 << 80) - 1)).to_be_bytes()
}

/// As clients see a request's id.
pub(crate) fn shown(request: [u8; 16]) -> String {
    format!("req_{:032x}", u128::from_be_bytes(request))
}

/// Nine alphanumerics, as Mistral's formats require.
pub(crate) fn tool_call() -> String {
    base62(random())
}

/// The same nine characters for the same foreign id. Ids that clients bring back from other services
/// (`call_…`, `toolu_…`) are longer than Mistral's formats take.
pub(crate) fn nine(foreign: &str) -> String {
    let bare = foreign.strip_prefix("toolu_").unwrap_or(foreign);
    if bare.len() == 9 && bare.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return bare.to_owned();
    }
    // FNV-1a: the same id must give the same prompt in every process, or the prefix cache would never hit.
    let hash = foreign
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    base62(hash)
}

/// 64 fresh bits: the standard library's hasher keys are random per process, the counter makes each call its own.
pub(crate) fn random() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(CALLS.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

/// A request's bytes from how clients see them.
pub(crate) fn read(shown: &str) -> Option<[u8; 16]> {
    let hex = shown.strip_prefix("req_").filter(|hex| hex.len() == 32)?;
    u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes)
}

fn base62(mut number: u64) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    (0..9)
        .map(|_| {
            let digit = DIGITS.get((number % 62) as usize).copied().unwrap_or(b'0');
            number /= 62;
            char::from(digit)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_ids_become_nine_characters_and_ours_stay() {
        assert_eq!(nine("toolu_a1B2c3D4e"), "a1B2c3D4e");
        assert_eq!(nine("a1B2c3D4e"), "a1B2c3D4e");
        assert_eq!(nine("call_KxnWqvzLrCQ8vGkdqg3cMpzV"), nine("call_KxnWqvzLrCQ8vGkdqg3cMpzV"));
        assert_ne!(nine("call_1"), nine("call_2"));
        assert_eq!(nine("call_1").len(), 9);
        assert_ne!(tool_call(), tool_call());
    }
}
