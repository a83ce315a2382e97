"""Writes the golden training steps beside this file: loss, gradients and ten steps of AdamW and of Muon, by PyTorch's autograd and
optimisers in float32 on the CPU. Weights and tokens come from the formula in crates/model/tests/golden/README.md.

    python make_golden.py
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).parent

V, D, L, H, K, E, FF, EPS, THETA = 96, 64, 2, 4, 2, 16, 128, 1e-5, 10000.0
LENGTHS = [13, 1, 10, 8]  # documents of one packed row of 32
STEPS = 10
SAMPLES = 6


def fnv1a64(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return h


def hashes(name, count):
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a64(name)) + np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def weight(name, shape):
    u = (hashes(name, int(np.prod(shape))) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    if len(shape) == 1:
        return (np.float32(1) + (u - np.float32(0.5)) * np.float32(0.2)).reshape(shape)
    scale = np.float32(1.0 / np.sqrt(np.float64(shape[-1]))) * np.float32(2)
    return ((u - np.float32(0.5)) * scale).reshape(shape)


def shapes():
    yield "model.embed_tokens.weight", (V, D)
    for layer in range(L):
        p = f"model.layers.{layer}."
        yield p + "input_layernorm.weight", (D,)
        yield p + "self_attn.q_proj.weight", (H * E, D)
        yield p + "self_attn.k_proj.weight", (K * E, D)
        yield p + "self_attn.v_proj.weight", (K * E, D)
        yield p + "self_attn.o_proj.weight", (D, H * E)
        yield p + "post_attention_layernorm.weight", (D,)
        yield p + "mlp.gate_proj.weight", (FF, D)
        yield p + "mlp.up_proj.weight", (FF, D)
        yield p + "mlp.down_proj.weight", (D, FF)
    yield "model.norm.weight", (D,)


def batch():
    total = sum(LENGTHS)
    stream = [int(t) for t in hashes("tokens", total + 1) % np.uint64(V)]
    starts, positions, weights, at = [], [], [], 0
    for length in LENGTHS:
        starts += [at] * length
        positions += list(range(length))
        weights += [0.0] + [1.0 + 0.5 * (i % 2) for i in range(1, length)]
        at += length
    return stream[:total], stream[1:], weights, starts, positions


def rotate(x, cos, sin):  # (T, heads, E); cos, sin: (T, 1, E/2)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def loss_of(p, tokens, targets, weights, starts, positions, network=None):
    """`network(x, h, w)`: what a block's second half makes of the residual stream, of its norm, and of the block's weights by name."""
    network = network or (lambda x, h, w: x + F.linear(F.silu(F.linear(h, w("mlp.gate_proj"))) * F.linear(h, w("mlp.up_proj")), w("mlp.down_proj")))
    t, dtype = len(tokens), p["model.norm.weight"].dtype
    x = p["model.embed_tokens.weight"][torch.tensor(tokens)]
    angle = torch.tensor(positions, dtype=dtype)[:, None] * THETA ** (-torch.arange(0, E, 2, dtype=dtype) / E)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    at, start = torch.arange(t), torch.tensor(starts)
    seen = (at[None] <= at[:, None]) & (at[None] >= start[:, None])
    norm = lambda x, name: F.rms_norm(x, (D,), p[name], EPS)
    for layer in range(L):
        w = lambda name: p[f"model.layers.{layer}.{name}.weight"]
        h = norm(x, f"model.layers.{layer}.input_layernorm.weight")
        q = rotate(F.linear(h, w("self_attn.q_proj")).view(t, H, E), cos, sin)
        k = rotate(F.linear(h, w("self_attn.k_proj")).view(t, K, E), cos, sin).repeat_interleave(H // K, 1)
        v = F.linear(h, w("self_attn.v_proj")).view(t, K, E).repeat_interleave(H // K, 1)
        scores = torch.einsum("the,she->hts", q, k) / E**0.5
        y = torch.einsum("hts,she->the", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)
        x = x + F.linear(y.reshape(t, H * E), w("self_attn.o_proj"))
        x = network(x, norm(x, f"model.layers.{layer}.post_attention_layernorm.weight"), w)
    logits = F.linear(norm(x, "model.norm.weight"), p["model.embed_tokens.weight"])
    counts = torch.tensor(weights, dtype=dtype)
    return (F.cross_entropy(logits, torch.tensor(targets), reduction="none") * counts).sum() / counts.sum()


def parameters(dtype):
    return {name: torch.from_numpy(weight(name, shape)).to(dtype).requires_grad_() for name, shape in shapes()}


def optimisers(p, rule):
    norms = [w for w in p.values() if w.ndim == 1]
    matrices = [w for n, w in p.items() if w.ndim == 2 and "embed" not in n]
    table = p["model.embed_tokens.weight"]
    adamw = dict(lr=2e-3, betas=(0.9, 0.95), eps=1e-8)
    if rule == "adamw":
        decayed = [{"params": [table, *matrices], "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
        return [torch.optim.AdamW(decayed, **adamw)]
    decayed = [{"params": [table], "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    muon = torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(decayed, **adamw)]


def run(rule, dtype, data):
    p, losses = parameters(dtype), []
    steps = optimisers(p, rule)
    for _ in range(STEPS):
        loss = loss_of(p, *data)
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
        for o in steps:
            o.step()
            o.zero_grad(set_to_none=True)
    losses.append(loss_of(p, *data).item())
    return losses


def nine(value):
    return float(f"{np.float32(value):.9g}")


def sampled(gradients):
    """Of each gradient its norm and a few values."""
    found = []
    for name, g in gradients.items():
        at = [int(i) for i in hashes(name + ".samples", SAMPLES) % np.uint64(g.numel())]
        found.append({"name": name, "norm": nine(g.norm()), "samples": [[i, nine(g.flatten()[i])] for i in at]})
    return found


def write(name, data, before, after):
    """The file `name` beside this one: PyTorch's version, `before`, the batch, `after`."""
    batch = dict(zip(["tokens", "targets", "weights", "starts", "positions"], data))
    golden = {"torch": torch.__version__.split("+")[0], **before, **batch, **after}
    text = "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items()) + "\n}\n"
    (HERE / name).write_text(text)
    return len(text)


def main():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    data = batch()
    gradients = {}
    for dtype in (torch.float64, torch.float32):
        p = parameters(dtype)
        loss_of(p, *data).backward()
        gradients[dtype] = {name: w.grad.double() for name, w in p.items()}
    single = gradients[torch.float32]
    off = max(((g - single[n]).norm() / g.norm()).item() for n, g in gradients[torch.float64].items())
    assert off < 1e-5, off
    adamw, muon = ([nine(loss) for loss in run(rule, torch.float32, data)] for rule in ("adamw", "muon"))
    figures = {"float64_gradient_distance": float(f"{off:.3g}"), "gradients": sampled(single), "adamw": adamw, "muon": muon}
    size = write("steps.json", data, {}, figures)
    print(f"{size} bytes; adamw {adamw[0]} to {adamw[-1]}, muon to {muon[-1]}")


if __name__ == "__main__":
    main()
