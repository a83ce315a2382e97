//! Random damage to good files: the parsers refuse or accept, but never panic, and what they accept is consistent. The checks
//! are the fuzz targets' own.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::samples;
use crate::seeds;

/// One change to a file.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    /// Overwrites eight bytes, where lengths and offsets are.
    Number(Index, u64),
    Cut(Index),
    Insert(Index, Vec<u8>),
    /// Copies a stretch over another place: doubles entries, moves lengths.
    Copy(Index, Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let numbers = vec![
        0,
        1,
        7,
        8,
        31,
        255,
        1 << 31,
        u64::from(u32::MAX),
        1 << 40,
        1 << 60,
        u64::MAX / 2,
        u64::MAX - 31,
        u64::MAX,
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        3 => (any::<Index>(), select(numbers)).prop_map(|(at, number)| Change::Number(at, number)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (any::<Index>(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (any::<Index>(), any::<Index>(), any::<u8>()).prop_map(|(from, to, len)| Change::Copy(from, to, len)),
    ]
}

fn spoil(mut file: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = file.len();
        if length == 0 {
            break;
        }
        match change {
            Change::Byte(at, byte) => file[at.index(length)] = *byte,
            Change::Number(at, number) => {
                let at = at.index(length);
                file[at..].iter_mut().zip(number.to_le_bytes()).for_each(|(old, new)| *old = new);
            }
            Change::Cut(at) => file.truncate(at.index(length)),
            Change::Insert(at, bytes) => drop(file.splice(at.index(length)..at.index(length), bytes.iter().copied())),
            Change::Copy(from, to, len) => {
                let from = from.index(length);
                let piece = file[from..length.min(from + usize::from(*len))].to_vec();
                file[to.index(length)..].iter_mut().zip(piece).for_each(|(old, new)| *old = new);
            }
        }
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_safetensors(changes in vec(change(), 1..6)) {
        seeds::safetensors::run(&spoil(samples::safetensors(), &changes));
    }

    #[test]
    fn damaged_ggufs(changes in vec(change(), 1..6)) {
        seeds::gguf::run(&spoil(samples::gguf(), &changes));
    }

    #[test]
    fn noise(bytes in vec(any::<u8>(), 0..400)) {
        seeds::safetensors::run(&bytes);
        seeds::gguf::run(&bytes);
        seeds::gguf::run(&[b"GGUF\x03\0\0\0", bytes.as_slice()].concat());
    }
}
