//! Digests: known answers and their written form.

use falaj_artifact::{ArtifactError, Digest};

#[test]
fn known_answers() {
    // FIPS 180-4, example messages.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Digest::of(b"abc").to_string(), abc);
    assert_eq!(Digest::of(b"").to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(abc.to_uppercase().parse::<Digest>().unwrap(), Digest::of(b"abc"));
}

#[test]
fn a_reader_has_the_digest_of_its_bytes() {
    let bytes = crate::samples::pattern(3_000_000);
    let mut seen = Vec::new();
    let digest = Digest::of_reader(bytes.as_slice(), &mut |done| seen.push(done)).unwrap();
    assert_eq!(digest, Digest::of(&bytes));
    assert!(seen.is_sorted() && seen.len() > 1);
    assert_eq!(seen.last(), Some(&3_000_000));
}

#[test]
fn what_is_no_digest_is_refused() {
    let long = "0".repeat(66);
    let wrong_letter = "g".repeat(64);
    for text in ["", "ab", "é", &long, &wrong_letter, &"0".repeat(63)] {
        assert!(matches!(text.parse::<Digest>(), Err(ArtifactError::BadDigest { .. })), "{text}");
    }
}
