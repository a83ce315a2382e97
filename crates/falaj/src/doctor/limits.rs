//! What the machine can do at most, and what of it a model's arithmetic may use.

use falaj_kernels::probe::{self, Peak};
use falaj_kernels::{Format, Isa, Pool};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub read_bytes_per_s: f64,
    pub int8: Peak,
    pub bf16: Peak,
    pub f32: Peak,
}

impl Limits {
    /// About a third of a second.
    pub fn measure(isa: Isa, threads: usize) -> Self {
        let pool = Pool::new(threads);
        Self {
            read_bytes_per_s: probe::read_bandwidth(&pool),
            int8: probe::peak_int8(&pool, isa),
            bf16: probe::peak_bf16(&pool, isa),
            f32: probe::peak_f32(&pool, isa),
        }
    }

    /// The higher of each: a neighbour that came and went took from one of them only.
    pub fn best(self, other: Self) -> Self {
        let best = |a: Peak, b: Peak| if b.ops_per_s > a.ops_per_s { b } else { a };
        Self {
            read_bytes_per_s: self.read_bytes_per_s.max(other.read_bytes_per_s),
            int8: best(self.int8, other.int8),
            bf16: best(self.bf16, other.bf16),
            f32: best(self.f32, other.f32),
        }
    }

    /// Of products with weights of this format.
    pub fn of(&self, format: Format) -> Peak {
        match format {
            Format::F32 | Format::F16 => self.f32,
            Format::BF16 => self.bf16,
            _ => self.int8,
        }
    }

    pub fn json(&self) -> Value {
        let peak = |peak: Peak| json!({ "operations_per_s": peak.ops_per_s, "instruction": peak.instruction });
        json!({
            "memory_read_bytes_per_s": self.read_bytes_per_s,
            "int8": peak(self.int8),
            "bf16": peak(self.bf16),
            "f32": peak(self.f32),
        })
    }
}
