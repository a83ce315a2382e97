"""The prose: reading a language's file, and the fixed split into training and held-out paragraphs."""

import hashlib
from pathlib import Path

BLOCK, EVERY = 32, 50  # paragraphs a block; one block in EVERY is held out


def paragraphs(path):
    """(training, held out): two lists of paragraphs. Blocks are held out at fixed places, so every book is in both."""
    train, held = [], []
    for i, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines()):
        if line.strip():
            (held if i // BLOCK % EVERY == 7 else train).append(line.strip())
    return train, held


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
