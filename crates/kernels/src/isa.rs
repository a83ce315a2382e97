//! Which instructions this CPU has, asked once at run time. Never `cfg(target_feature)`: one binary runs everywhere.

use std::fmt;

/// A set of instructions that operations are compiled for, from the specification to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the specification.
    Scalar,
    /// AVX2 with FMA and F16C (Haswell and Zen, 2013 on).
    Avx2,
    /// AVX2 with AVX-VNNI: one instruction for products of bytes (Alder Lake, 2021 on, and Zen 5).
    Avx2Vnni,
    /// AVX-512 F, BW, VL, DQ and VNNI (Ice Lake and Zen 4, 2019 on).
    Avx512,
    /// AVX-512 with AMX: tiles of bytes and bf16 (Sapphire Rapids, 2023 on), where the system grants them.
    Amx,
}

impl Isa {
    const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx2Vnni, Isa::Avx512, Isa::Amx];

    /// The widest that this CPU runs.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }

    /// Those that this CPU runs, narrowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// `scalar`, `avx2`, `avx2vnni`, `avx512` or `amx`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2vnni",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => avx2(),
            Isa::Avx2Vnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::Amx => Isa::Avx512.is_available() && crate::amx::offers_bytes(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Isa::Scalar
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_the_best_is_available() {
        for isa in Isa::ALL {
            assert_eq!(Isa::parse(&isa.to_string()), Some(isa));
        }
        assert_eq!(Isa::parse("neon"), None);
        assert_eq!(Isa::available().last(), Some(&Isa::best()));
    }
}
