"""Writes the golden files beside it: blocks of every format and their values, by PyPI's `gguf` (numpy, independent of ggml's C).

    pip install gguf==0.19.0 && python make_golden.py

NAME.blocks holds whole blocks, NAME.values what they mean (little-endian f32). input.values is 512 numbers; the blocks of F16, BF16,
Q8_0 and Q4_0 are `gguf.quantize(input)`. The K formats cannot be quantised by that package, so theirs are random bytes
with sane scales.
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import dequantize, quantize

HERE = Path(__file__).parent
LEN = 512


def main() -> None:
    random = np.random.default_rng(2)
    x = (random.standard_normal(LEN) * np.repeat([1.0, 1e-3, 30.0, 0.02], LEN // 4)).astype(np.float32)
    x[64:96] = 0.0
    x.astype("<f4").tofile(HERE / "input.values")
    for kind in (Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0):
        write(kind, quantize(x, kind))
    for kind, halves_at, block_bytes in ((Type.Q4_K, (0, 2), 144), (Type.Q5_K, (0, 2), 176), (Type.Q6_K, (208,), 210)):
        blocks = random.integers(0, 256, (LEN // 256, block_bytes), dtype=np.uint8)
        for at in halves_at:
            halves = random.uniform(1e-3, 2e-2, len(blocks)).astype("<f2")
            blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
        write(kind, blocks.reshape(-1))


def write(kind: Type, blocks: np.ndarray) -> None:
    blocks = blocks.view(np.uint8).reshape(-1)
    values = dequantize(blocks if kind not in (Type.F16,) else blocks.view("<f2"), kind)
    name = kind.name.lower()
    blocks.tofile(HERE / f"{name}.blocks")
    values.reshape(-1).astype("<f4").tofile(HERE / f"{name}.values")


if __name__ == "__main__":
    main()
