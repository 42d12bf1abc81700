#!/usr/bin/env python3
"""Slots that SnapKV, TOVA and Expected Attention keep, by kvpress, for hawser/kv/chooser_test.cc.

    choosers.py hawser/kv/chooser_golden.h        (Python with torch, transformers and kvpress)
"""
import sys
from types import SimpleNamespace

import numpy as np
import torch
from kvpress import ExpectedAttentionPress, SnapKVPress, TOVAPress
from transformers.models.llama.modeling_llama import rotate_half

HEADS, KV_HEADS, DIM, TOKENS = 4, 2, 8, 60
CASES = [
    ("snapkv:50%,window=6,kernel=3", SnapKVPress(0.5, window_size=6, kernel_size=3)),
    ("snapkv:25%,window=4,kernel=1", SnapKVPress(0.75, window_size=4, kernel_size=1)),
    ("tova:50%", TOVAPress(0.5)),
    ("tova:25%", TOVAPress(0.75)),
    ("expected:50%,future=16", ExpectedAttentionPress(0.5, n_future_positions=16)),
    ("expected:25%,sinks=2,future=40,norms=off", ExpectedAttentionPress(0.75, 40, n_sink=2, use_vnorm=False)),
    ("expected:75%,sinks=1,future=64,covariance=off",
     ExpectedAttentionPress(0.25, 64, n_sink=1, use_covariance=False)),
]


def rows(stream, columns):
    """[TOKENS, columns] of numbers in [-2, 2), by a hash: the twin of Value in the test."""
    token, column = np.meshgrid(np.arange(TOKENS), np.arange(columns), indexing="ij")
    h = ((stream * 1009 + token) * 1009 + column).astype(np.uint64)
    mask = np.uint64(0xffffffff)
    h = (h * np.uint64(2654435761)) & mask
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(2246822519)) & mask
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(3266489917)) & mask
    h ^= h >> np.uint64(16)
    return torch.tensor((h & np.uint64(0xffffff)).astype(np.float64) / 2**22 - 2, dtype=torch.float32)


def tables(positions):
    inverse = 10000.0 ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    angles = positions.double().unsqueeze(-1) * inverse
    angles = torch.cat([angles, angles], -1)
    return angles.cos().float(), angles.sin().float()


def heads(x, count):
    return x.view(1, TOKENS, count, DIM).transpose(1, 2)


def main():
    module = SimpleNamespace(
        config=SimpleNamespace(num_attention_heads=HEADS, num_key_value_heads=KV_HEADS),
        head_dim=DIM, q_proj=lambda x: x, rotary_emb=lambda x, positions: tables(positions))
    queries, keys, values = rows(1, HEADS * DIM), rows(2, KV_HEADS * DIM), rows(3, KV_HEADS * DIM)
    cos, sin = tables(torch.arange(TOKENS).unsqueeze(0))
    keys = heads(keys, KV_HEADS)
    keys = keys * cos.unsqueeze(1) + rotate_half(keys) * sin.unsqueeze(1)
    lines = []
    for form, press in CASES:
        scores = press.score(module, queries.unsqueeze(0), keys, heads(values, KV_HEADS), None,
                             {"position_embeddings": (cos, sin)})[0]
        kept = int(TOKENS * (1 - press.compression_ratio))
        order = scores.sort(-1, descending=True).values
        gap = (order[:, kept - 1] - order[:, kept]).min().item() / order[:, kept].abs().max().item()
        assert gap > 1e-4, f"{form}: too close to be held by another order of sums ({gap})"
        slots = scores.topk(kept, -1).indices.sort(-1).values.tolist()
        text = ", ".join("{" + ", ".join(str(s) for s in of) + "}" for of in slots)
        lines.append(f'    {{"{form}", {{{text}}}}},\n')
    with open(sys.argv[1], "w") as out:
        out.write("// Written by scripts/goldens/choosers.py.\n#pragma once\n\n#include <cstdint>\n#include <vector>\n\n"
                  "namespace hawser {\n\nstruct ChooserGolden {\n  const char* form;\n"
                  "  std::vector<std::vector<int64_t>> places;  // of each head of keys\n};\n"
                  f"constexpr int32_t kChooserHeads = {HEADS}, kChooserKvHeads = {KV_HEADS}, kChooserDim = {DIM};\n"
                  f"constexpr int64_t kChooserTokens = {TOKENS};\n"
                  "inline const std::vector<ChooserGolden> kChooserGolden = {\n")
        out.writelines(lines)
        out.write("};\n\n}  // namespace hawser\n")


main()
