//! Any bytes as an evaluation suite: cut into rows, and understood or told why not.

use falaj_eval::Suite;

/// # Panics
/// When lines are told out of order, or a reason is too long to be shown.
pub fn run(bytes: &[u8]) {
    match Suite::parse("fuzz", bytes) {
        Ok(suite) => {
            assert!(suite.rows.is_sorted_by_key(|row| row.line) && suite.bad.is_sorted_by_key(|bad| bad.line));
            assert!(suite.bad.iter().all(|bad| bad.reason.len() < 4000));
        }
        Err(error) => assert!(error.to_string().len() < 4000, "{error}"),
    }
}
