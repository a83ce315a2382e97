"""Writes `mixture.json` beside this file: loss and gradients of a small Mixtral, balance of experts included, by PyTorch's autograd in
float32 on the CPU. Weights, tokens and the dense parts are those of make_golden.py; routers are eight times as large, so that no
choice lies on the edge.

    python make_mixture.py
"""

import torch
import torch.nn.functional as F

from make_golden import D, FF, batch, loss_of, nine, sampled, shapes, weight, write

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


def losses(p, data):
    """The loss, the balance of the experts, and how far the closest choice lies from another."""
    edge, balance = [], []

    def network(x, h, w):
        routes = F.linear(h, w("block_sparse_moe.gate"))
        best, chosen = routes.topk(U)
        sorted_routes = routes.sort(descending=True).values
        edge.append((sorted_routes[:, U - 1] - sorted_routes[:, U]).min().item())
        share = torch.zeros_like(routes).scatter(1, chosen, best.softmax(-1))
        for expert in range(X):
            e = f"block_sparse_moe.experts.{expert}."
            made = F.linear(F.silu(F.linear(h, w(e + "w1"))) * F.linear(h, w(e + "w3")), w(e + "w2"))
            x = x + share[:, expert, None] * made
        used = torch.bincount(chosen.flatten(), minlength=X).to(routes.dtype) / chosen.numel()
        balance.append(X * (used * routes.softmax(-1).mean(0)).sum())
        return x

    return loss_of(p, *data, network=network), sum(balance), min(edge)


def parameters(dtype):
    scale = lambda name: 8.0 if name.endswith("block_sparse_moe.gate.weight") else 1.0
    return {n: (torch.from_numpy(weight(n, s)).to(dtype) * scale(n)).requires_grad_() for n, s in sparse_shapes()}


def main():
    torch.use_deterministic_algorithms(True)
    data = batch()
    p = parameters(torch.float32)
    loss, balance, edge = losses(p, data)
    assert edge > 0.02, edge
    (loss + BALANCE * balance).backward()
    # An expert that nobody chose has none.
    gradients = {name: torch.zeros_like(w) if w.grad is None else w.grad.double() for name, w in p.items()}
    loss, balance = nine(loss.item()), nine(balance.item())
    settings = {"count": X, "used": U, "balance": BALANCE, "edge": nine(edge)}
    size = write("mixture.json", data, settings, {"loss": loss, "imbalance": balance, "gradients": sampled(gradients)})
    print(f"{size} bytes; loss {loss}, imbalance {balance}, closest choice {edge:.3f}")


if __name__ == "__main__":
    main()
