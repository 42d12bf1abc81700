#!/usr/bin/env python3
"""Which keys of a prompt hawser keeps beside those that NVIDIA's kvpress keeps, layer by layer and head by head.

    compare_kvpress.py --hawser build/release/hawser --model FOLDER --prompt-file F --kv "snapkv:25%" "tova:25%"

FOLDER: a Hugging Face model in f32. Wants torch, transformers and kvpress.
"""
import argparse
import pathlib
import re
import subprocess
import tempfile

import torch
from kvpress import ExpectedAttentionPress, SnapKVPress, TOVAPress
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer


def press_of(form):
    """The press of a form such as snapkv:25%,window=32."""
    kind, share, *options = re.split("[:,]", form)
    options = dict(option.split("=") for option in options)
    gone = 1 - float(share.rstrip("%")) / 100
    if kind == "tova":
        return TOVAPress(gone)
    if kind == "snapkv":
        return SnapKVPress(gone, window_size=int(options.get("window", 64)), kernel_size=int(options.get("kernel", 5)))
    return ExpectedAttentionPress(gone, n_future_positions=int(options.get("future", 512)),
                                  n_sink=int(options.get("sinks", 4)),
                                  use_covariance=options.get("covariance") != "off",
                                  use_vnorm=options.get("norms") != "off")


def kept_by_kvpress(model, ids, press):
    """[layer][head] sets of places: kvpress scores what a layer has attended to, and nothing is dropped, so that every
    layer reads a whole prompt."""
    seen = []

    def note(module, inputs, kwargs):
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else inputs[0]
        seen.append((module, hidden, {"position_embeddings": kwargs["position_embeddings"]}))

    hooks = [layer.self_attn.register_forward_pre_hook(note, with_kwargs=True) for layer in model.model.layers]
    count = int(round(ids.shape[1] * (1 - press.compression_ratio), 6))
    kept = []
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        for (module, hidden, rest), layer in zip(seen, cache.layers, strict=True):
            module.rotary_emb = model.model.rotary_emb
            scores = press.score(module, hidden, layer.keys, layer.values, None, rest)[0]
            kept.append([set(of.topk(count).indices.tolist()) for of in scores])
    for hook in hooks:
        hook.remove()
    return kept


def kept_by_hawser(arguments, form, prompt, heads):
    with tempfile.TemporaryDirectory() as folder:
        state = pathlib.Path(folder) / "prompt.kv"
        subprocess.run([arguments.hawser, "generate", arguments.model, "--prompt-file", prompt, "--bos", "off", "--kv", form,
                        "--max-new", "1", "--dtype", "f32", "--save-state", state, "--quiet"],
                       check=True, stdout=subprocess.DEVNULL)
        with safe_open(state, "pt") as file:
            names, kept = set(file.keys()), []
            for group in range(sum(name.endswith(".index") for name in names)):
                own = f"group.{group}.places"
                places = file.get_tensor(own) if own in names else file.get_tensor(f"group.{group}.index")[None]
                kept.append([set(of.tolist()) for of in places.expand(heads, -1)])
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hawser", default="build/release/hawser")
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt-file", required=True)
    parser.add_argument("--kv", nargs="+", default=["snapkv:25%", "tova:25%", "expected:25%"])
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa")
    text = pathlib.Path(arguments.prompt_file).read_text()
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    for form in arguments.kv:
        ours = kept_by_hawser(arguments, form, arguments.prompt_file, model.config.num_key_value_heads)
        theirs = kept_by_kvpress(model, ids, press_of(form))
        pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
        equal = sum(a == b for a, b in pairs)
        keys, same = sum(len(b) for _, b in pairs), sum(len(a & b) for a, b in pairs)
        print(f"{form}: {ids.shape[1]} tokens; {equal} of {len(pairs)} heads keep the same; {same} of {keys} places are")


main()
