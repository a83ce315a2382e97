//! Orders that depend on numbers alone: the same seed gives the same order on every machine and in every version.

/// The numbers below `count`, shuffled. Source: Fisher & Yates, as Durstenfeld 1964; bounded draws as Lemire 2019, § 3, without
/// the rejection, whose bias of count / 2^64 nobody can see.
pub fn shuffled(seed: u64, stream: u64, count: usize) -> Vec<u32> {
    let mut random = SplitMix(mix(mix(seed).wrapping_add(stream)));
    let mut order: Vec<u32> = (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
    for last in (1..order.len()).rev() {
        let draw = (u128::from(random.next()) * (last as u128 + 1)) >> 64;
        order.swap(last, draw as usize);
    }
    order
}

/// Whether something with this key is among the `share` that is held out.
pub fn is_held_out(seed: u64, key: &[u8; 16], share: f64) -> bool {
    let low = key.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let draw = mix(mix(seed ^ HOLD_OUT).wrapping_add(low));
    (draw >> 11) as f64 / (1_u64 << 53) as f64 <= share && share > 0.0
}

const HOLD_OUT: u64 = 0x686f_6c64_5f6f_7574;

/// Source: Steele, Lea & Flood 2014, fig. 16.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_that_never_change() {
        assert_eq!(shuffled(20, 0, 8), shuffled(20, 0, 8));
        let (a, b, c) = (shuffled(20, 0, 1000), shuffled(20, 1, 1000), shuffled(21, 0, 1000));
        assert!(a != b && a != c && b != c);
        for mut order in [a, b, c] {
            order.sort_unstable();
            assert!(order.iter().copied().eq(0..1000));
        }
        assert_eq!((shuffled(1, 2, 0), shuffled(1, 2, 1)), (vec![], vec![0]));
        // Golden: a change of this line is a change of every job's data order.
        assert_eq!(shuffled(20, 3, 10), GOLDEN);
    }

    const GOLDEN: [u32; 10] = [0, 4, 5, 3, 7, 2, 8, 9, 6, 1];

    #[test]
    fn the_held_out_share_is_kept() {
        let keys = (0..10_000_u64).map(|key| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            bytes
        });
        let held = keys.filter(|key| is_held_out(7, key, 0.05)).count();
        assert!((400..600).contains(&held), "{held}");
        assert!(!is_held_out(7, &[0; 16], 0.0));
    }
}
