#!/usr/bin/env python3
"""Training steps of the same model in PyTorch and in hawser, turn by turn in one run: compare_pytorch.py HAWSER [options]

PyTorch (the package `torch`) runs its own best on a CPU: bf16 autocast, scaled_dot_product_attention (its fused
kernel), fused AdamW, optionally compiled; packed documents go through the fused kernel one by one ("documents") or
unmasked as one sequence ("causal", what most training code does). hawser runs `hawser bench train`. Both do forward,
backward, clip and update on random tokens. Rows that exceed memory want --checkpoint, which recomputes layers in both.
"""
import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

SHAPES = {
    "125m": dict(width=768, layers=12, heads=12, mlp=2048, vocab=50304),
    "10m": dict(width=256, layers=8, heads=4, mlp=704, vocab=16384),
}


class Block(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.heads = heads
        self.attn_norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * mlp, bias=False)
        self.down = nn.Linear(mlp, width, bias=False)

    def attend(self, q, k, v, lengths):
        if lengths is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        parts = zip(q.split(lengths, 2), k.split(lengths, 2), v.split(lengths, 2))
        return torch.cat([F.scaled_dot_product_attention(*part, is_causal=True) for part in parts], 2)

    def forward(self, x, cos, sin, lengths):
        b, t, c = x.shape
        q, k, v = (self.qkv(self.attn_norm(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4))

        def rotate(y):
            first, second = y.chunk(2, -1)
            return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(v.dtype)

        y = self.attend(rotate(q), rotate(k), v, lengths)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, width, layers, heads, mlp, vocab):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.half = width // heads // 2

    def forward(self, ids, targets, lengths, recompute):
        x = self.embedding(ids)
        inverse = 10000.0 ** (-torch.arange(self.half, dtype=torch.float64) / self.half)
        angles = torch.arange(ids.shape[1], dtype=torch.float64)[:, None] * inverse
        cos, sin = angles.cos().float(), angles.sin().float()
        for block in self.blocks:
            if recompute:
                x = checkpoint(block, x, cos, sin, lengths, use_reentrant=False)
            else:
                x = block(x, cos, sin, lengths)
        x = self.norm(x)
        # Cross-entropy in pieces, so that the logits of a long sequence need not exist at once.
        loss = 0.0
        for begin in range(0, ids.shape[1], 2048):
            def piece(part, wanted):
                logits = F.linear(part, self.embedding.weight)
                return F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="sum")
            arguments = x[:, begin:begin + 2048], targets[:, begin:begin + 2048]
            loss = loss + (checkpoint(piece, *arguments, use_reentrant=False) if recompute else piece(*arguments))
        return loss / targets.numel()


def document_lengths(tokens, mean, generator):
    lengths = []
    while sum(lengths) < tokens:
        lengths.append(int(mean // 2 + 2 + torch.randint(mean, (1,), generator=generator)))
    lengths[-1] -= sum(lengths) - tokens
    return [n for n in lengths if n > 0]


def torch_step(options, shape):
    torch.manual_seed(0)
    model = Model(**SHAPES[shape])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if options.compile else model
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(SHAPES[shape]["vocab"], (options.sequences, options.tokens), generator=generator)
    targets = ids.roll(-1, 1)
    whole = None
    if options.attention == "documents":
        whole = document_lengths(options.tokens, options.docs, generator)

    def step(tokens):
        lengths = whole if tokens == options.tokens or whole is None else [tokens]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = run(ids[:, :tokens], targets[:, :tokens], lengths, options.checkpoint)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def hawser_seconds(options, shape):
    attention = "full" if options.attention == "causal" else "intra"
    command = [options.hawser, "bench", "train", "--shape", shape, "--tokens", options.tokens, "--sequences",
               options.sequences, "--docs", options.docs, "--attention", attention, "--dtype", "bf16", "--repeat", 2,
               "--recompute", "layer" if options.checkpoint else "none", "--threads", torch.get_num_threads(), "--json"]
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["rows"][0]["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser", help="the hawser binary")
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a sequence")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--docs", type=int, default=2048, help="mean tokens of a document")
    parser.add_argument("--attention", choices=["causal", "documents"], default="causal")
    parser.add_argument("--peer", choices=["same", "causal"], default="same",
                        help="causal: let PyTorch attend causally over everything while hawser masks documents")
    parser.add_argument("--checkpoint", action="store_true", help="recompute layers in the backward pass, both")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    peer = argparse.Namespace(**vars(options))
    if options.peer == "causal":
        peer.attention = "causal"
    step = torch_step(peer, options.shape)
    step(options.tokens if options.compile else min(options.tokens, 1024))  # warm up; compiled code is for one length
    rows = []
    for _ in range(options.rounds):
        begin = time.perf_counter()
        step(options.tokens)
        torch_seconds = time.perf_counter() - begin
        rows.append((torch_seconds, hawser_seconds(options, options.shape)))
    tokens = options.sequences * options.tokens
    ratios = sorted(t / h for t, h in rows)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.shape}, {options.sequences} x "
          f"{options.tokens} tokens, attention {options.attention} (peer: {peer.attention})")
    print(f"  PyTorch {tokens / statistics.median(t for t, _ in rows):9.0f} tokens/s")
    print(f"  hawser  {tokens / statistics.median(h for _, h in rows):9.0f} tokens/s")
    print(f"  ratio   {statistics.median(ratios):9.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)")


if __name__ == "__main__":
    main()
