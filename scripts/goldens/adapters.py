#!/usr/bin/env python3
"""Writes hawser/train/peft_golden.h: logits of a tiny Llama with adapters, as the PEFT library computes them
(pip install torch transformers peft). adapters.py > hawser/train/peft_golden.h

Every tensor is drawn from a counter, so that only the logits are kept; adapters are saved and loaded again by PEFT.
"""
import json
import pathlib
import tempfile
import zlib

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

IDS = [1, 7, 19, 4, 30, 12, 12, 3, 25]
CASES = [("plain", dict(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj", "down_proj"])),
         ("rslora", dict(r=2, lora_alpha=5, use_rslora=True, target_modules=["k_proj", "o_proj", "up_proj"])),
         ("regex", dict(r=2, lora_alpha=4, target_modules=r".*layers\.1\..*(gate|q)_proj", init_lora_weights="gaussian"))]


def values(name, shape):
    """Element i is the top byte of a linear congruential generator, which begins with the CRC of the name, centred."""
    state, out = zlib.crc32(name.encode()), []
    for _ in range(int(np.prod(shape))):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(((state >> 24) - 127.5) / 256.0)
    centre = 1.0 if "norm" in name else 0.0
    return torch.from_numpy((centre + np.array(out)).astype(np.float32).reshape(shape))


def fill(named):
    with torch.no_grad():
        for name, tensor in named:
            tensor.copy_(values(name.replace(".default", "").replace(".base_layer", ""), tensor.shape))


def golden(name, keys):
    base = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=24, num_hidden_layers=2,
                                        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                                        rms_norm_eps=1e-5, tie_word_embeddings=False)).eval()
    fill(base.named_parameters())
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **keys)).eval()
    fill((n, p) for n, p in model.named_parameters() if ".lora_" in n)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())
        names = sorted(n.replace(".default", "") for n, _ in model.named_parameters() if ".lora_" in n)
        again = PeftModel.from_pretrained(model.unload(), folder).eval()
        with torch.no_grad():
            logits = again(torch.tensor([IDS])).logits[0].numpy()
    config["target_modules"] = sorted(config["target_modules"]) if isinstance(config["target_modules"], list) \
        else config["target_modules"]
    print(f'    {{"{name}", R"json({json.dumps(config)})json",\n     {{{", ".join(json.dumps(n) for n in names)}}},\n     {{')
    flat = [f"{x:.9g}f" if "." in f"{x:.9g}" or "e" in f"{x:.9g}" else f"{x:.9g}.0f" for x in logits.ravel()]
    for begin in range(0, len(flat), 8):
        print("      " + " ".join(f"{x}," for x in flat[begin:begin + 8]))
    print("    }},")


print("// Written by scripts/goldens/adapters.py: logits of a tiny Llama with adapters, as the PEFT library computes them.")
print("#pragma once\n\n#include <cstdint>\n#include <string>\n#include <vector>\n\nnamespace hawser {\n")
print("struct PeftGolden {\n  std::string name, config;\n  std::vector<std::string> tensors;\n"
      "  std::vector<float> logits;  // [ids, 32]\n};\n")
print(f"inline const std::vector<int32_t> kPeftIds = {{{', '.join(map(str, IDS))}}};\n")
print("// clang-format off\ninline const std::vector<PeftGolden> kPeftGoldens = {")
for case, keys in CASES:
    golden(case, keys)
print("};\n// clang-format on\n\n}  // namespace hawser")
