"""A Llama-architecture decoder. B batch, T tokens, C model width, H heads, K key-value heads, D head width, V vocabulary.

Rotary positions in Hugging Face's half-split convention; embedding and output head share one matrix. Parameter names are Hugging Face's.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.head = c["heads"], c["kv_heads"], c["head"]
        self.q_proj = nn.Linear(c["d"], self.heads * self.head, bias=False)
        self.k_proj = nn.Linear(c["d"], self.kv_heads * self.head, bias=False)
        self.v_proj = nn.Linear(c["d"], self.kv_heads * self.head, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head, c["d"], bias=False)

    def forward(self, x, cos, sin):  # x: (B, T, C)
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, self.heads, self.head).transpose(1, 2)     # (B, H, T, D)
        k = self.k_proj(x).view(B, T, self.kv_heads, self.head).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.head).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        share = self.heads // self.kv_heads
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


def rotate(x, cos, sin):  # x: (B, H, T, D); cos, sin: (T, D/2)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["d"], c["ff"], bias=False)
        self.up_proj = nn.Linear(c["d"], c["ff"], bias=False)
        self.down_proj = nn.Linear(c["ff"], c["d"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c["d"], eps=c["eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c["d"], eps=c["eps"])
        self.mlp = FeedForward(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """forward(tokens: (B, T)) -> hidden (B, T, C); `logits` turns chosen rows of it into (N, V)."""

    def __init__(self, c, vocab):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, c["d"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["layers"]))
        self.norm = nn.RMSNorm(c["d"], eps=c["eps"])
        angle = torch.arange(c["context"])[:, None] * c["rope_theta"] ** (-torch.arange(0, c["head"], 2) / c["head"])
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        for name, p in self.named_parameters():
            if p.ndim == 2 and "embed" not in name:
                # The last product of each block starts smaller, so that the residual stream does not grow with depth.
                nn.init.normal_(p, std=0.02 / (2 * c["layers"]) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else p.shape[1] ** -0.5)

    def forward(self, tokens):
        T = tokens.shape[1]
        x = self.embed_tokens(tokens)
        cos, sin = self.cos[:T].to(x.dtype), self.sin[:T].to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.embed_tokens.weight)
