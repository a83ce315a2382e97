"""Trains falaj-seed. Kill it at any time and start it again: it goes on from the last checkpoint.

    python train.py --recipe falaj_seed.toml [--decay-from-now N]

The rate rises, stays, then falls linearly to zero over the last part, where rows are also twice as long. `--decay-from-now N` begins the fall at the checkpoint and ends N steps later:
for a machine that turns out slower than planned. The choice is kept in the checkpoint.
"""

import argparse
import json
import os
import time
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F

from data import CHAT, COPY, PROSE, Batches, widen
from model import Decoder


def rate(step, plan, warmup):
    """The share of the full learning rate at a step: trapezoid."""
    rise = min(1.0, (step + 1) / warmup)
    fall = min(1.0, max(0.0, (plan["end"] - step) / max(1, plan["end"] - plan["decay_start"])))
    return min(rise, fall)


def optimisers(model, t):
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [torch.optim.Muon(matrices, lr=t["lr"], weight_decay=t["weight_decay"], momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=t["lr"], betas=(0.9, 0.95), weight_decay=0.0)]


def head_loss(hidden, table, target):  # (N, C), (V, C), (N,) -> (N,); compiled, so that the logits pass through memory once
    return F.cross_entropy(F.linear(hidden, table).float(), target, reduction="none", ignore_index=-100)


def loss_of(body, head, table, tokens, mask, chunk=512):
    """Cross entropy at every counted position, in order. The head, 40 % of the work, sees only those, in pieces that fit the cache."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, target = body(tokens[:, :-1])[mask], tokens[:, 1:][mask]
        count = len(target)
        short = -count % chunk  # pieces of one size are compiled once
        hidden, target = F.pad(hidden, (0, 0, 0, short)), F.pad(target, (0, short), value=-100)
        return torch.cat([head(h, table, y) for h, y in zip(hidden.split(chunk), target.split(chunk))])[:count]


def save(path, **state):
    """All or nothing: a reader never sees half a checkpoint."""
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--recipe", default="falaj_seed.toml")
    arguments.add_argument("--decay-from-now", type=int)
    options = arguments.parse_args()
    recipe = tomllib.loads(Path(options.recipe).read_text())
    t, out = recipe["train"], Path(recipe["out"])
    torch.set_num_threads(t["threads"])
    torch.manual_seed(recipe["seed"])
    torch.set_flush_denormal(True)
    model = Decoder(recipe["model"], recipe["tokenizer"]["vocab"])
    optimiser = optimisers(model, t)
    body, head = torch.compile(model, dynamic=False), torch.compile(head_loss, dynamic=False)
    step, seconds = 0, 0.0
    plan = {"decay_start": int(t["steps"] * (1 - t["decay"])), "end": t["steps"]}
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for o, s in zip(optimiser, state["optimisers"]):
            o.load_state_dict(s)
        step, seconds = state["step"], state["seconds"]
        if "chosen" in state["plan"]:
            plan = state["plan"]
    if options.decay_from_now:
        plan = {"decay_start": step, "end": step + options.decay_from_now, "chosen": True}
    batches, log = Batches(recipe), open(out / "loss.jsonl", "a", buffering=1)
    rows = t["rows_chat"] + t["rows_copy"] + t["rows_prose"] + t["rows_fim"]
    while step < plan["end"]:
        began = time.time()
        falling = step >= plan["decay_start"]
        tokens, kinds = (torch.from_numpy(x) for x in (widen(*batches.batch(step)) if falling else batches.batch(step)))
        losses = loss_of(body, head, model.embed_tokens.weight, tokens, kinds > 0)
        loss = losses.mean()
        loss.backward()
        losses, counted = losses.detach(), kinds[kinds > 0]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = rate(step, plan, t["warmup"])
        for o in optimiser:
            for group in o.param_groups:
                group["lr"] = t["lr"] * share
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        took = time.time() - began
        seconds += took
        by_kind = {name: round(losses[counted == kind].mean().item(), 4) for name, kind in (("chat", CHAT), ("copy", COPY), ("prose", PROSE)) if (counted == kind).any()}
        log.write(json.dumps({"step": step, "loss": round(loss.item(), 4), **by_kind, "rate": round(t["lr"] * share, 6), "norm": round(norm.item(), 3),
                              "tokens": step * rows * t["sequence"], "seconds": round(seconds, 1), "tokens_per_s": round(rows * t["sequence"] / took)}) + "\n")
        if step % t["checkpoint_every"] == 0 or step == plan["end"]:
            save(checkpoint, model=model.state_dict(), optimisers=[o.state_dict() for o in optimiser], step=step, seconds=seconds, plan=plan)
    print(f"done: {step} steps, {seconds / 3600:.2f} hours")


if __name__ == "__main__":
    main()
