"""PyTorch's side of `cargo xtask bench train`: the decoder of crates/train/examples/baseline.rs, trained by torch.

Starts with `torch_train.py THREADS MODE [compile]`, where MODE is `bf16` (autocast over f32 weights) or `fp32`, then reads
one command per line and answers each with one JSON object per line:
  step N                          seconds of N steps of 16 x 256 noise, after two that do not count
  gemm TOKENS OUT IN              operations per second of a bf16 product: forward, dx and dw
  loss TEXT WEIGHTS STEPS ROWS TURN    the loss of each step, on windows of the text's bytes, from these weights; rows begin
                                  with number TURN, which changes nothing but the order in which sums are made
"""

import json
import os
import resource
import struct
import sys
import time

THREADS, MODE, COMPILE = int(sys.argv[1]), sys.argv[2], "compile" in sys.argv[3:]
os.environ["OMP_NUM_THREADS"] = str(THREADS)

import torch  # noqa: E402  (reads the number of threads when it is imported)
from torch.nn import functional  # noqa: E402

torch.set_num_threads(THREADS)

VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD = 8192, 320, 8, 8, 4, 768
HEAD_WIDTH = WIDTH // HEADS
ROWS, LENGTH, WARMUP = 16, 256, 2

MATRICES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (KV_HEADS * HEAD_WIDTH, WIDTH),
    "self_attn.v_proj": (KV_HEADS * HEAD_WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (FEED_FORWARD, WIDTH),
    "mlp.up_proj": (FEED_FORWARD, WIDTH),
    "mlp.down_proj": (WIDTH, FEED_FORWARD),
}
NORMS = ("input_layernorm", "post_attention_layernorm")


class Decoder(torch.nn.Module):
    """A Llama-like decoder whose head is its embedding; gives the mean cross-entropy."""

    def __init__(self):
        super().__init__()
        new = lambda *shape: torch.nn.Parameter(torch.empty(*shape))
        self.table = new(VOCABULARY, WIDTH)
        self.last_norm = new(WIDTH)
        self.layers = torch.nn.ModuleList()
        for _ in range(LAYERS):
            layer = torch.nn.ParameterDict()
            for name, shape in MATRICES.items():
                layer[name.replace(".", "_")] = new(*shape)
            for name in NORMS:
                layer[name] = new(WIDTH)
            self.layers.append(layer)
        frequencies = 10000.0 ** (-torch.arange(0, HEAD_WIDTH, 2).float() / HEAD_WIDTH)
        angles = torch.arange(LENGTH).float()[:, None] * frequencies
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() == 1:
                torch.nn.init.ones_(parameter)
            else:
                torch.nn.init.normal_(parameter, 0, 0.02)

    def named_as_in_files(self):
        yield "model.embed_tokens.weight", self.table
        yield "model.norm.weight", self.last_norm
        for number, layer in enumerate(self.layers):
            for name in (*MATRICES, *NORMS):
                yield f"model.layers.{number}.{name}.weight", layer[name.replace(".", "_")]

    def normed(self, x, weight):
        return functional.rms_norm(x, (WIDTH,), weight.to(x.dtype), 1e-5)

    def heads(self, x, weight, count):
        rows, length, _ = x.shape
        return functional.linear(x, weight).view(rows, length, count, HEAD_WIDTH).transpose(1, 2)

    def turned(self, x):
        """Rotary positions, the halves of a head as pairs."""
        cosine, sine = self.cosine.to(x.dtype), self.sine.to(x.dtype)
        real, imaginary = x.chunk(2, -1)
        return torch.cat((real * cosine - imaginary * sine, imaginary * cosine + real * sine), -1)

    def forward(self, tokens, targets):
        x = functional.embedding(tokens, self.table)
        for layer in self.layers:
            h = self.normed(x, layer["input_layernorm"])
            q = self.turned(self.heads(h, layer["self_attn_q_proj"], HEADS))
            k = self.turned(self.heads(h, layer["self_attn_k_proj"], KV_HEADS))
            v = self.heads(h, layer["self_attn_v_proj"], KV_HEADS)
            k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
            h = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + functional.linear(h.transpose(1, 2).reshape(x.shape), layer["self_attn_o_proj"])
            h = self.normed(x, layer["post_attention_layernorm"])
            gate = functional.silu(functional.linear(h, layer["mlp_gate_proj"]))
            x = x + functional.linear(gate * functional.linear(h, layer["mlp_up_proj"]), layer["mlp_down_proj"])
        logits = functional.linear(self.normed(x, self.last_norm), self.table)
        return functional.cross_entropy(logits.view(-1, VOCABULARY).float(), targets.reshape(-1))


class Training:
    """AdamW with the trainer's own defaults: norms do not decay."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = Decoder()
        self.loss = torch.compile(self.model, dynamic=False) if COMPILE else self.model
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def step(self, tokens, targets):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=MODE == "bf16"):
            loss = self.loss(tokens, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


TRAINING = None


def training():
    global TRAINING
    TRAINING = TRAINING or Training()
    return TRAINING


def step(count):
    seconds = []
    for number in range(count + WARMUP):
        tokens, targets = (torch.randint(0, VOCABULARY, (ROWS, LENGTH)) for _ in range(2))
        start = time.perf_counter()
        training().step(tokens, targets)
        if number >= WARMUP:
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "tokens": ROWS * LENGTH, "peak_bytes": peak}


def gemm(tokens, out, inner):
    x, w, dy = (torch.randn(*shape).bfloat16() for shape in ((tokens, inner), (out, inner), (tokens, out)))

    def rate(product):
        product()
        best, begin = float("inf"), time.perf_counter()
        while time.perf_counter() - begin < 0.5:
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
        return 2 * tokens * out * inner / best

    return {
        "forward": rate(lambda: functional.linear(x, w)),
        "dx": rate(lambda: dy @ w),
        "dw": rate(lambda: dy.t() @ x),
    }


def read(path):
    """Tensors of a safetensors file of f32, flat."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = bytearray(file.read())
    values = torch.frombuffer(data, dtype=torch.float32)
    return {name: values[slice(*(at // 4 for at in entry["data_offsets"]))] for name, entry in header.items()}


def loss(text, weights, steps, rows, turn):
    global TRAINING
    TRAINING = None
    values = read(weights)
    with torch.no_grad():
        for name, parameter in training().model.named_as_in_files():
            parameter.copy_(values.pop(name).view(parameter.shape))
    assert not values, f"nothing takes {list(values)}"
    with open(text, "rb") as file:
        text = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).long()
    state, losses = 1, []
    for number in range(steps):
        begins = []
        for _ in range(rows):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            begins.append((state >> 33) % (len(text) - LENGTH))
        begins = begins[turn:] + begins[:turn]
        windows = [torch.stack([text[at + shift : at + shift + LENGTH] for at in begins]) for shift in (0, 1)]
        losses.append(training().step(*windows))
        if number % 10 == 0:
            print(f"step {number}: loss {losses[-1]:.4f}", file=sys.stderr, flush=True)
    return {"losses": losses}


def main():
    print(json.dumps({"ready": True, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        words = line.split()
        arguments = [int(word) if word.isdecimal() else word for word in words[1:]]
        print(json.dumps({"step": step, "gemm": gemm, "loss": loss}[words[0]](*arguments)), flush=True)


main()
