#!/usr/bin/env python3
"""Prompts and single tokens in llama.cpp and in hawser, turn by turn, on the same GGUF files:
compare_llama_cpp.py HAWSER FILE.gguf... [options]

llama.cpp comes from the package `llama-cpp-python`, whose source builds with this machine's instructions
(pip install --no-binary llama-cpp-python with CMAKE_ARGS=-DGGML_NATIVE=ON). It is timed around its calls; hawser by
`hawser bench prefill` and `hawser bench decode`, which hold prompts and single tokens against each other first. A round
is one turn of each. Medians of the rounds, and the ratio's median with least and most; shares are those of the bench:
of the measured peak for prompts, of the measured bandwidth for single tokens.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import time
from pathlib import Path

import llama_cpp


def load(file, context, options):
    parameters = {"model_path": str(file), "n_ctx": context, "n_batch": 2048, "n_ubatch": 512, "verbose": False,
                  "n_threads": options.threads, "n_threads_batch": options.threads, "flash_attn": options.flash_attention}
    if options.no_repack:
        default = llama_cpp.llama_model_default_params

        def without():
            found = default()
            found.use_extra_bufts = False
            return found
        llama_cpp.llama_cpp.llama_model_default_params = without
    return llama_cpp.Llama(**parameters)


def theirs(llama, context, tokens):
    """Tokens/s of a prompt, and of those that follow it one by one."""
    rng = random.Random(context)
    ids = [rng.randrange(300, llama.n_vocab()) for _ in range(context + tokens)]
    llama.reset()
    begin = time.perf_counter()
    llama.eval(ids[:context])
    middle = time.perf_counter()
    for token in ids[context:]:
        llama.eval([token])
    return context / (middle - begin), tokens / (time.perf_counter() - middle)


def ours(options, direction, file, context):
    command = [options.hawser, "bench", direction, file, "--context", context, "--threads", options.threads, "--json"]
    if direction == "decode":
        command += ["--tokens", options.tokens]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True)
    row = json.loads(done.stdout)["rows"][0]
    return row["tokens_per_second"], row["peak_fraction" if direction == "prefill" else "memory_fraction"]


def show(file, direction, context, rounds):
    peer, mine, share = (statistics.median(values) for values in zip(*((p, m, s) for p, (m, s) in rounds)))
    ratios = sorted(m / p for p, (m, _) in rounds)
    print(f"| {file.stem} | {direction} | {context:,} | {peer:,.0f} | {mine:,.0f} | {share:.0%} | "
          f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser", help="the hawser binary")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--prefill", type=int, nargs="*", default=[512, 4096, 8192], help="lengths of prompts")
    parser.add_argument("--decode", type=int, nargs="*", default=[512, 16384], help="depths of single tokens")
    parser.add_argument("--tokens", type=int, default=24, help="single tokens timed at each depth")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--flash-attention", action="store_true", help="llama.cpp's flash attention")
    parser.add_argument("--no-repack", action="store_true", help="llama.cpp without repacked weights")
    options = parser.parse_args()
    print(llama_cpp.llama_print_system_info().decode().strip(), flush=True)
    print("| file | | tokens | llama.cpp, tokens/s | hawser, tokens/s | share | ratio |\n|---|---|---|---|---|---|---|")
    sizes = sorted({*options.prefill, *options.decode})
    for file in options.files:
        llama = load(file, max(sizes) + options.tokens + 8, options)
        for context in sizes:
            of = {direction: [] for direction in ("prefill", "decode") if context in getattr(options, direction)}
            for _ in range(options.rounds):
                peer = dict(zip(("prefill", "decode"), theirs(llama, context, options.tokens)))
                for direction, rounds in of.items():
                    rounds.append((peer[direction], ours(options, direction, file, context)))
            for direction, rounds in of.items():
                show(file, direction, context, rounds)
        llama.close()


if __name__ == "__main__":
    main()
