"""The loss log as an SVG drawn by hand, and a thinned copy of the log.

    python curve.py --recipe falaj_seed.toml --to DIR
"""

import argparse
import json
import tomllib
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 360, 56, 28, 16, 44
LINES = [("prose", "#2563eb", "books (next token)"), ("chat", "#b45309", "conversations (answers only)")]


def smooth(values, span=15):
    """Mean over the last `span` values: one batch is noisy."""
    return [sum(values[max(0, i - span + 1):i + 1]) / (i + 1 - max(0, i - span + 1)) for i in range(len(values))]


def svg(log):
    steps = [e["step"] for e in log]
    top = 10
    x = lambda step: LEFT + (WIDTH - LEFT - RIGHT) * step / steps[-1]
    y = lambda loss: TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(loss, top) / top)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#334155">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', f'<text x="{LEFT}" y="18" font-size="13">falaj-seed: training loss, nats per token</text>']
    for loss in range(0, top + 1, 2):
        out.append(f'<path d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}" stroke="#e2e8f0"/><text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss}</text>')
    stride = max(100, round(steps[-1] / 8 / 100) * 100)
    for step in range(0, steps[-1] + 1, stride):
        out.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    out.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">step ({log[0]["tokens"] // log[0]["step"]:,} tokens each)</text>')
    for i, (key, colour, label) in enumerate(LINES):
        seen = [e for e in log if key in e]
        points = " ".join(f"{x(e['step']):.1f},{y(v):.1f}" for e, v in list(zip(seen, smooth([e[key] for e in seen])))[::max(1, len(seen) // 400)])
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        out.append(f'<text x="{WIDTH - RIGHT}" y="{TOP + 14 + 16 * i}" text-anchor="end" fill="{colour}">{label}</text>')
    rises = [i for i, (e, n) in enumerate(zip(log, log[1:])) if n["rate"] >= e["rate"]]
    falling = log[rises[-1] + 1]["step"] if rises[-1] + 2 < len(log) else None  # from here on it only falls
    if falling:
        out.append(f'<path d="M{x(falling):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#94a3b8" stroke-dasharray="4 4"/><text x="{x(falling) + 4:.1f}" y="{HEIGHT - BOTTOM - 8}">the rate falls</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--recipe", default="falaj_seed.toml")
    arguments.add_argument("--to", default="../../models/falaj-seed")
    options = arguments.parse_args()
    out = Path(tomllib.loads(Path(options.recipe).read_text())["out"])
    by_step = {}
    for line in (out / "loss.jsonl").read_text().splitlines():
        entry = json.loads(line)
        by_step[entry["step"]] = entry  # a resumed run repeats the steps since its checkpoint
    log = [by_step[s] for s in sorted(by_step)]
    to = Path(options.to)
    (to / "loss.svg").write_text(svg(log))
    (to / "loss.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log if e["step"] % 10 == 0 or e["step"] in (1, log[-1]["step"])))


if __name__ == "__main__":
    main()
