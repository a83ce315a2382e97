//! What a job took from the socket, and how well that is known. Where nothing is known there is no [`Energy`]: never a false zero.

use serde::{Deserialize, Serialize};

/// Joules, and where the number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    pub joules: f64,
    pub grade: Grade,
    pub method: Metering,
    /// Of one busy hardware thread, where the method takes such a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watts_per_thread: Option<f64>,
}

/// How good a figure is, best first: A a meter, B counters of all processors at work (NVML and RAPL), C NVML alone, D CPU time ×
/// TDP, E an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grade {
    A,
    B,
    C,
    D,
    E,
}

/// Where joules come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metering {
    /// A meter at the socket, shared by CPU time among all that ran.
    MeterShare,
    /// RAPL counters of the packages and their memory, shared by CPU time among all that ran.
    RaplShare,
    /// CPU time × the processor's power limit over its hardware threads.
    CpuTimeTdp,
    /// CPU time × watts that nobody measured.
    CpuTimeAssumed,
}

impl Energy {
    /// Of two pieces of the same work, as well known as the worse of both.
    pub fn and(self, other: Self) -> Self {
        let worse = if other.grade > self.grade { other } else { self };
        Self { joules: self.joules + other.joules, ..worse }
    }

    /// For people: `1234 J (E: CPU time × 4.0 W a thread, assumed)`.
    pub fn in_words(&self) -> String {
        let Self { joules, grade, .. } = self;
        let watts = self.watts_per_thread.unwrap_or_default();
        let how = match self.method {
            Metering::MeterShare => "a meter, by share of CPU time".to_owned(),
            Metering::RaplShare => "RAPL, by share of CPU time".to_owned(),
            Metering::CpuTimeTdp => format!("CPU time × {watts:.1} W a thread, from the TDP"),
            Metering::CpuTimeAssumed => format!("CPU time × {watts:.1} W a thread, assumed"),
        };
        format!("{joules:.0} J ({grade:?}: {how})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_as_good_as_their_worst_part() {
        let metered = Energy { joules: 10.0, grade: Grade::B, method: Metering::RaplShare, watts_per_thread: None };
        let assumed =
            Energy { joules: 5.0, grade: Grade::E, method: Metering::CpuTimeAssumed, watts_per_thread: Some(4.0) };
        for sum in [metered.and(assumed), assumed.and(metered)] {
            assert_eq!(sum.in_words(), "15 J (E: CPU time × 4.0 W a thread, assumed)");
        }
        let line = serde_json::to_string(&metered).unwrap();
        assert_eq!(line, r#"{"joules":10.0,"grade":"B","method":"rapl_share"}"#);
        assert_eq!(serde_json::from_str::<Energy>(&line).unwrap(), metered);
    }
}
