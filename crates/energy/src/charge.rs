//! An amount of energy, and how it is known.

/// How good a figure is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// A meter at the socket.
    A,
    /// Counters of all processors that worked.
    B,
    /// Counters of GPUs alone: what processors and memory took is missing.
    C,
    /// CPU time × thermal design power.
    D,
    /// CPU time × watts that nobody measured.
    E,
}

impl Grade {
    pub fn letter(self) -> char {
        match self {
            Self::A => 'A',
            Self::B => 'B',
            Self::C => 'C',
            Self::D => 'D',
            Self::E => 'E',
        }
    }
}

/// Where a figure comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// A meter at the socket, what is above idle, shared by CPU time among all that ran.
    MeterAboveIdle,
    /// The same with idle in it.
    MeterShare,
    /// RAPL counters of the packages, what is above idle, shared by CPU time among all that ran.
    RaplAboveIdle,
    /// The same with idle in it.
    RaplShare,
    /// CPU time × the processors' power limit over their hardware threads.
    CpuTimeTdp,
    /// CPU time × watts that nobody measured.
    CpuTimeAssumed,
}

impl Method {
    /// From good to bad.
    pub(crate) const ALL: [Self; 6] = [
        Self::MeterAboveIdle,
        Self::MeterShare,
        Self::RaplAboveIdle,
        Self::RaplShare,
        Self::CpuTimeTdp,
        Self::CpuTimeAssumed,
    ];

    /// Whether CPU time was multiplied by watts, instead of counted energy shared.
    pub fn is_by_watts(self) -> bool {
        matches!(self, Self::CpuTimeTdp | Self::CpuTimeAssumed)
    }

    pub fn grade(self) -> Grade {
        match self {
            Self::MeterAboveIdle | Self::MeterShare => Grade::A,
            Self::RaplAboveIdle | Self::RaplShare => Grade::B,
            Self::CpuTimeTdp => Grade::D,
            Self::CpuTimeAssumed => Grade::E,
        }
    }
}

/// What a piece of work took, in microjoules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    pub uj: u64,
    pub grade: Grade,
}

impl Charge {
    /// Of two pieces, as well known as the worse of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { uj: self.uj.saturating_add(other.uj), grade: self.grade.max(other.grade) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_as_good_as_its_worst_part() {
        let (good, bad) = (Charge { uj: 3, grade: Grade::B }, Charge { uj: u64::MAX, grade: Grade::E });
        assert_eq!(good.and(bad), Charge { uj: u64::MAX, grade: Grade::E });
        assert_eq!(bad.and(good), good.and(bad));
        assert_eq!(good.and(good), Charge { uj: 6, grade: Grade::B });
    }

    #[test]
    fn letters_and_methods_go_from_good_to_bad() {
        let grades = [Grade::A, Grade::B, Grade::C, Grade::D, Grade::E];
        assert!(grades.is_sorted() && grades.map(Grade::letter).is_sorted());
        let methods = Method::ALL;
        assert!(methods.is_sorted() && methods.map(Method::grade).is_sorted());
    }
}
