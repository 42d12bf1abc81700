#!/usr/bin/env python3
"""Writes hawser/quant/block_golden.h: what the package `gguf` reads from blocks of each type (pip install gguf numpy).

The bytes of a block are those of a counter; scales, which are f16, are put in range. quant.py > hawser/quant/block_golden.h
"""
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# name, type, bytes of a block, offsets of its f16 scales
TYPES = [("q8_0", T.Q8_0, 34, [0]), ("q4_0", T.Q4_0, 18, [0]), ("q4_1", T.Q4_1, 20, [0, 2]),
         ("q5_0", T.Q5_0, 22, [0]), ("q5_1", T.Q5_1, 24, [0, 2]), ("q2_k", T.Q2_K, 84, [80, 82]),
         ("q3_k", T.Q3_K, 110, [108]), ("q4_k", T.Q4_K, 144, [0, 2]), ("q5_k", T.Q5_K, 176, [0, 2]),
         ("q6_k", T.Q6_K, 210, [208])]


def block(size, scales):
    """Byte i is the top byte of a linear congruential generator after i + 1 steps."""
    state, data = 1, bytearray()
    for _ in range(size):
        state = (state * 1664525 + 1013904223) % 2**32
        data.append(state >> 24)
    for number, offset in enumerate(scales):
        data[offset:offset + 2] = np.float16(0.01 * (number + 1)).tobytes()
    return np.frombuffer(bytes(data), dtype=np.uint8)


print("// Written by scripts/goldens/quant.py: the f32 bits of a block of each type, as the package gguf reads it.")
print("#pragma once\n\n#include <cstdint>\n#include <string_view>\n#include <vector>\n\nnamespace hawser {\n")
print("struct BlockGolden {\n  std::string_view name;\n  std::vector<int> scales;\n  std::vector<uint32_t> values;\n};\n")
print("// clang-format off\ninline const std::vector<BlockGolden> kBlockGoldens = {")
for name, kind, size, scales in TYPES:
    bits = dequantize(block(size, scales), kind).astype(np.float32).view(np.uint32).ravel()
    print(f'    {{"{name}", {{{", ".join(map(str, scales))}}}, {{')
    for begin in range(0, len(bits), 10):
        print("      " + " ".join(f"0x{b:08x}," for b in bits[begin:begin + 10]))
    print("    }},")
print("};\n// clang-format on\n\n}  // namespace hawser")
