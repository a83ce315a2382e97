//! What this machine can do at most, and what share of it a rate reaches. The rates themselves are measured by
//! `crates/kernels/src/probe.rs`.

use anyhow::{Context, Result};
use serde_json::Value;

use super::models::Costs;

/// Per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub bytes: f64,
    pub int8: f64,
    pub bf16: f64,
}

impl Limits {
    pub fn of(probe: &Value) -> Result<Self> {
        let number =
            |key: &str| probe.get(key).and_then(Value::as_f64).with_context(|| format!("no `{key}` in the probe"));
        Ok(Self {
            bytes: number("read_bytes_per_s")?,
            int8: number("int8_per_s")?,
            // Widening to f32 is another way to multiply bf16, where it is the faster one.
            bf16: number("bf16_per_s")?.max(number("f32_per_s")?),
        })
    }

    fn operations(&self, format: &str) -> f64 {
        if format == "bf16" { self.bf16 } else { self.int8 }
    }

    /// Of a rate of prompt tokens: their matrices' arithmetic against the highest rate. Attention comes on top.
    pub fn prompt_share(&self, costs: &Costs, format: &str, tokens_per_s: f64) -> f64 {
        tokens_per_s * (costs.operations - costs.head_operations) / self.operations(format)
    }

    /// Of a rate of tokens decoded `together`: a step reads the weights once and computes for each.
    pub fn decode_share(&self, costs: &Costs, format: &str, together: usize, tokens_per_s: f64) -> f64 {
        let step_s = (costs.bytes / self.bytes).max(together as f64 * costs.operations / self.operations(format));
        tokens_per_s / together as f64 * step_s
    }

    /// Of a server's rate: `prompt` tokens for all clients, then `tokens` of each decoded together.
    pub fn serve_share(
        &self,
        costs: &Costs,
        format: &str,
        prompt: usize,
        clients: usize,
        tokens: usize,
        tokens_per_s: f64,
    ) -> f64 {
        let prompt_s = prompt as f64 * (costs.operations - costs.head_operations) / self.operations(format);
        let step_s = (costs.bytes / self.bytes).max(clients as f64 * costs.operations / self.operations(format));
        tokens_per_s * (prompt_s + tokens as f64 * step_s) / (clients * tokens) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_bound_by_memory_or_by_arithmetic() {
        let limits = Limits { bytes: 100.0, int8: 1000.0, bf16: 500.0 };
        let costs = Costs { bytes: 10.0, operations: 20.0, head_operations: 4.0 };
        // Alone: 10 steps a second by memory.
        assert_eq!(limits.decode_share(&costs, "q4_0", 1, 5.0), 0.5);
        // Ten together: 200 operations a step, 5 steps a second, 50 tokens.
        assert_eq!(limits.decode_share(&costs, "q4_0", 10, 25.0), 0.5);
        assert_eq!(limits.prompt_share(&costs, "bf16", 31.25), 1.0);
    }
}
