"""Writes `mixture.json` beside this file: loss and gradients of a small Mixtral, balance of experts included, by PyTorch's autograd in
float32 on the CPU. Weights, tokens and the dense parts are those of make_golden.py; routers are eight times as large, so that no
choice lies on the edge.

    python make_mixture.py
"""

import json

import torch
import torch.nn.functional as F

from make_golden import D, E, EPS, FF, H, HERE, K, L, SAMPLES, THETA, batch, hashes, nine, rotate, shapes, weight

X, U, BALANCE = 4, 2, 0.05


def sparse_shapes():
    for name, shape in shapes():
        if ".mlp.gate_proj." in name:
            p = name.split("mlp.")[0] + "block_sparse_moe."
            yield p + "gate.weight", (X, D)
            for expert in range(X):
                yield p + f"experts.{expert}.w1.weight", (FF, D)
                yield p + f"experts.{expert}.w3.weight", (FF, D)
                yield p + f"experts.{expert}.w2.weight", (D, FF)
        elif ".mlp." not in name:
            yield name, shape


def losses(p, tokens, targets, weights, starts, positions):
    t, dtype, edge, balance = len(tokens), p["model.norm.weight"].dtype, [], 0
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
        h = norm(x, f"model.layers.{layer}.post_attention_layernorm.weight")
        routes = F.linear(h, w("block_sparse_moe.gate"))
        best, chosen = routes.topk(U)
        sorted_routes = routes.sort(descending=True).values
        edge.append((sorted_routes[:, U - 1] - sorted_routes[:, U]).min().item())
        share = torch.zeros(t, X, dtype=dtype).scatter(1, chosen, best.softmax(-1))
        for expert in range(X):
            e = f"block_sparse_moe.experts.{expert}."
            made = F.linear(F.silu(F.linear(h, w(e + "w1"))) * F.linear(h, w(e + "w3")), w(e + "w2"))
            x = x + share[:, expert, None] * made
        used = torch.bincount(chosen.flatten(), minlength=X).to(dtype) / (t * U)
        balance = balance + X * (used * routes.softmax(-1).mean(0)).sum()
    logits = F.linear(norm(x, "model.norm.weight"), p["model.embed_tokens.weight"])
    counts = torch.tensor(weights, dtype=dtype)
    loss = (F.cross_entropy(logits, torch.tensor(targets), reduction="none") * counts).sum() / counts.sum()
    return loss, balance, min(edge)


def parameters(dtype):
    scale = lambda name: 8.0 if name.endswith("block_sparse_moe.gate.weight") else 1.0
    return {n: (torch.from_numpy(weight(n, s)).to(dtype) * scale(n)).requires_grad_() for n, s in sparse_shapes()}


def main():
    torch.use_deterministic_algorithms(True)
    data = batch()
    p = parameters(torch.float32)
    loss, balance, edge = losses(p, *data)
    assert edge > 0.02, edge
    (loss + BALANCE * balance).backward()
    found = []
    for name, w in p.items():
        g = torch.zeros_like(w) if w.grad is None else w.grad.double()
        at = [int(i) for i in hashes(name + ".samples", SAMPLES) % g.numel()]
        found.append({"name": name, "norm": nine(g.norm()), "samples": [[i, nine(g.flatten()[i])] for i in at]})
    golden = {
        "torch": torch.__version__.split("+")[0],
        "count": X, "used": U, "balance": BALANCE, "edge": nine(edge),
        "tokens": data[0], "targets": data[1], "weights": data[2], "starts": data[3], "positions": data[4],
        "loss": nine(loss.item()), "imbalance": nine(balance.item()),
        "gradients": found,
    }
    text = "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items()) + "\n}\n"
    (HERE / "mixture.json").write_text(text)
    print(f"{len(text)} bytes; loss {golden['loss']}, imbalance {golden['imbalance']}, closest choice {edge:.3f}")


if __name__ == "__main__":
    main()
