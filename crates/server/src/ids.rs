//! Identifiers of replies, requests and tool calls, and seeds. Random enough to be unique; none is a secret.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// `prefix` and 32 hexadecimal digits.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", random(), random())
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

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
