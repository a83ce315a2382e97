//! The places in the parameter tree with their shapes, and the three ways in which files name the tensors that fill them.
//! Nothing else in this crate knows a tensor's name.

use crate::Config;

/// A place in the parameter tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Embedding,
    Norm,
    Head,
    AttentionNorm {
        layer: usize,
    },
    Query {
        layer: usize,
    },
    Key {
        layer: usize,
    },
    Value {
        layer: usize,
    },
    Output {
        layer: usize,
    },
    FfnNorm {
        layer: usize,
    },
    Router {
        layer: usize,
    },
    /// `expert`: `None` in a dense model.
    Gate {
        layer: usize,
        expert: Option<usize>,
    },
    Up {
        layer: usize,
        expert: Option<usize>,
    },
    Down {
        layer: usize,
        expert: Option<usize>,
    },
}

/// Whose names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    HuggingFace,
    Mistral,
    Gguf,
}

impl Slot {
    /// The shape of what belongs here: (out, in) of a matrix, (D) of a norm. Letters as in [`Config`].
    pub fn shape(self, config: &Config) -> Vec<usize> {
        let &Config { vocab_size: v, hidden_size: d, heads, kv_heads, head_dim: e, ffn_size: f, .. } = config;
        match self {
            Slot::Embedding | Slot::Head => vec![v, d],
            Slot::Norm | Slot::AttentionNorm { .. } | Slot::FfnNorm { .. } => vec![d],
            Slot::Query { .. } => vec![heads * e, d],
            Slot::Key { .. } | Slot::Value { .. } => vec![kv_heads * e, d],
            Slot::Output { .. } => vec![d, heads * e],
            Slot::Router { .. } => vec![config.experts.map_or(0, |experts| experts.count), d],
            Slot::Gate { .. } | Slot::Up { .. } => vec![f, d],
            Slot::Down { .. } => vec![d, f],
        }
    }

    /// Whether it is a matrix that products read: an embedding that is not the head too is only looked up.
    pub(crate) fn is_multiplied(self, config: &Config) -> bool {
        match self {
            Slot::Embedding => config.tied_head,
            Slot::Norm | Slot::AttentionNorm { .. } | Slot::FfnNorm { .. } => false,
            _ => true,
        }
    }

    /// Every place in a decoder of this configuration, in the order of the computation.
    pub fn all(config: &Config) -> Vec<Slot> {
        let mut slots = vec![Slot::Embedding];
        for layer in 0..config.layers {
            slots.extend([Slot::AttentionNorm { layer }, Slot::Query { layer }, Slot::Key { layer }]);
            slots.extend([Slot::Value { layer }, Slot::Output { layer }, Slot::FfnNorm { layer }]);
            let networks = match config.experts {
                None => vec![None],
                Some(experts) => {
                    slots.push(Slot::Router { layer });
                    (0..experts.count).map(Some).collect()
                }
            };
            for expert in networks {
                slots.extend([Slot::Gate { layer, expert }, Slot::Up { layer, expert }, Slot::Down { layer, expert }]);
            }
        }
        slots.push(Slot::Norm);
        if !config.tied_head {
            slots.push(Slot::Head);
        }
        slots
    }
}

impl Naming {
    /// The tensor that holds `slot`.
    pub fn name(self, slot: Slot) -> String {
        match self {
            Naming::HuggingFace => hugging_face(slot),
            Naming::Mistral => mistral(slot),
            Naming::Gguf => gguf(slot),
        }
    }

    /// The tensor that holds `slot` of all experts, where the format has such a thing.
    pub fn stacked(self, slot: Slot) -> Option<String> {
        if self != Naming::Gguf {
            return None;
        }
        match slot {
            Slot::Gate { layer, .. } => Some(format!("blk.{layer}.ffn_gate_exps.weight")),
            Slot::Up { layer, .. } => Some(format!("blk.{layer}.ffn_up_exps.weight")),
            Slot::Down { layer, .. } => Some(format!("blk.{layer}.ffn_down_exps.weight")),
            _ => None,
        }
    }
}

fn hugging_face(slot: Slot) -> String {
    let (layer, rest) = match slot {
        Slot::Embedding => return "model.embed_tokens.weight".into(),
        Slot::Norm => return "model.norm.weight".into(),
        Slot::Head => return "lm_head.weight".into(),
        Slot::AttentionNorm { layer } => (layer, "input_layernorm".into()),
        Slot::Query { layer } => (layer, "self_attn.q_proj".into()),
        Slot::Key { layer } => (layer, "self_attn.k_proj".into()),
        Slot::Value { layer } => (layer, "self_attn.v_proj".into()),
        Slot::Output { layer } => (layer, "self_attn.o_proj".into()),
        Slot::FfnNorm { layer } => (layer, "post_attention_layernorm".into()),
        Slot::Router { layer } => (layer, "block_sparse_moe.gate".into()),
        Slot::Gate { layer, expert } => (layer, hugging_face_ffn("gate_proj", "w1", expert)),
        Slot::Up { layer, expert } => (layer, hugging_face_ffn("up_proj", "w3", expert)),
        Slot::Down { layer, expert } => (layer, hugging_face_ffn("down_proj", "w2", expert)),
    };
    format!("model.layers.{layer}.{rest}.weight")
}

fn hugging_face_ffn(dense: &str, sparse: &str, expert: Option<usize>) -> String {
    match expert {
        None => format!("mlp.{dense}"),
        Some(expert) => format!("block_sparse_moe.experts.{expert}.{sparse}"),
    }
}

fn mistral(slot: Slot) -> String {
    let (layer, rest) = match slot {
        Slot::Embedding => return "tok_embeddings.weight".into(),
        Slot::Norm => return "norm.weight".into(),
        Slot::Head => return "output.weight".into(),
        Slot::AttentionNorm { layer } => (layer, "attention_norm".into()),
        Slot::Query { layer } => (layer, "attention.wq".into()),
        Slot::Key { layer } => (layer, "attention.wk".into()),
        Slot::Value { layer } => (layer, "attention.wv".into()),
        Slot::Output { layer } => (layer, "attention.wo".into()),
        Slot::FfnNorm { layer } => (layer, "ffn_norm".into()),
        Slot::Router { layer } => (layer, "feed_forward.gate".into()),
        Slot::Gate { layer, expert } => (layer, mistral_ffn("w1", expert)),
        Slot::Up { layer, expert } => (layer, mistral_ffn("w3", expert)),
        Slot::Down { layer, expert } => (layer, mistral_ffn("w2", expert)),
    };
    format!("layers.{layer}.{rest}.weight")
}

fn mistral_ffn(name: &str, expert: Option<usize>) -> String {
    match expert {
        None => format!("feed_forward.{name}"),
        Some(expert) => format!("feed_forward.experts.{expert}.{name}"),
    }
}

fn gguf(slot: Slot) -> String {
    let (layer, rest) = match slot {
        Slot::Embedding => return "token_embd.weight".into(),
        Slot::Norm => return "output_norm.weight".into(),
        Slot::Head => return "output.weight".into(),
        Slot::AttentionNorm { layer } => (layer, "attn_norm".into()),
        Slot::Query { layer } => (layer, "attn_q".into()),
        Slot::Key { layer } => (layer, "attn_k".into()),
        Slot::Value { layer } => (layer, "attn_v".into()),
        Slot::Output { layer } => (layer, "attn_output".into()),
        Slot::FfnNorm { layer } => (layer, "ffn_norm".into()),
        Slot::Router { layer } => (layer, "ffn_gate_inp".into()),
        Slot::Gate { layer, expert } => (layer, gguf_ffn("ffn_gate", expert)),
        Slot::Up { layer, expert } => (layer, gguf_ffn("ffn_up", expert)),
        Slot::Down { layer, expert } => (layer, gguf_ffn("ffn_down", expert)),
    };
    format!("blk.{layer}.{rest}.weight")
}

fn gguf_ffn(name: &str, expert: Option<usize>) -> String {
    match expert {
        None => name.into(),
        Some(expert) => format!("{name}.{expert}"),
    }
}
