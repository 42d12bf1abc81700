#!/usr/bin/env python3
"""Tokens one at a time after a long context, in llama.cpp and in hawser, turn by turn: compare_llama_cpp.py HAWSER [options]

llama.cpp comes from the packages `xllamacpp` and `gguf`: a Llama of random 16-bit weights is written as GGUF, read through
the server of the package and asked to go on from a prompt of random tokens; its own timings of the tokens it
generates count. hawser runs `hawser bench decode` with the same sizes. A package that was built without this machine's
instructions is compared unfairly: what it was built with is printed, and --isa holds hawser to as much.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

SIZES = dict(width=768, layers=12, heads=12, mlp=2048, vocab=50304)  # `--shape 125m` of hawser


def write_model(path, weights, width, layers, heads, mlp, vocab, context):
    """A Llama with random weights and a vocabulary of numbered tokens."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if weights == "bf16" else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    pieces = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % byte for byte in range(256)]
    pieces += [b"t%d" % i for i in range(len(pieces), vocab)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
    kinds += [gguf.TokenType.NORMAL] * (vocab - len(kinds))
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types(kinds)

    rng = np.random.default_rng(0)

    def matrix(name, rows, cols):
        values = rng.standard_normal((rows, cols), dtype=np.float32) / np.float32(np.sqrt(cols))
        if weights == "f16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
            writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)

    def norm(name):
        writer.add_tensor(name, np.ones(width, dtype=np.float32))

    matrix("token_embd.weight", vocab, width)
    norm("output_norm.weight")
    for layer in range(layers):
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
        for part in ("q", "k", "v", "output"):
            matrix(f"blk.{layer}.attn_{part}.weight", width, width)
        for part in ("gate", "up"):
            matrix(f"blk.{layer}.ffn_{part}.weight", mlp, width)
        matrix(f"blk.{layer}.ffn_down.weight", width, mlp)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(path, options):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = options.context + options.tokens + 256
    params.n_parallel = 1
    params.n_batch = params.n_ubatch = 512
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.verbosity = 0
    return xllamacpp.Server(params)


def peer_milliseconds(server, prompt, tokens):
    done = server.handle_completions({"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "cache_prompt": True,
                                      "temperature": 0.0, "samplers": ["top_k"], "top_k": 1})
    timings = done["timings"]
    if timings["predicted_n"] < tokens:
        raise SystemExit(f"llama.cpp generated {timings['predicted_n']} of {tokens} tokens")
    return timings["predicted_ms"] / timings["predicted_n"]


def hawser_rows(options):
    command = [options.hawser, "bench", "decode", "--shape", "125m", "--dtype", "bf16", "--context", options.context,
               "--far", options.context, "--threads", options.threads, "--json"]
    command += [part for kv in options.kv for part in ("--kv", kv)]
    environment = dict(os.environ, HAWSER_ISA=options.isa) if options.isa else None
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True,
                          env=environment)
    return {row["kv"]: 1000 * row["seconds"] for row in json.loads(done.stdout)["rows"] if "context" in row}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser", help="the hawser binary")
    parser.add_argument("--context", type=int, default=16384, help="tokens in front of those timed")
    parser.add_argument("--tokens", type=int, default=32, help="tokens that llama.cpp generates in a round")
    parser.add_argument("--kv", nargs="+", default=["full", "sep-stream:4,64,256,800"])
    parser.add_argument("--weights", choices=["bf16", "f16"], default="f16", help="those of llama.cpp; hawser has bf16")
    parser.add_argument("--isa", help="hold hawser to an instruction set, such as avx2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    generator = random.Random(0)
    prompt = [generator.randrange(300, SIZES["vocab"]) for _ in range(options.context)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_model(path, options.weights, context=options.context + options.tokens + 256, **SIZES)
        server = serve(path, options)
        peer_milliseconds(server, prompt, 1)  # reads the prompt
        peer, ours = [], []
        for _ in range(options.rounds):
            peer.append(peer_milliseconds(server, prompt, options.tokens))
            ours.append(hawser_rows(options))
    print(f"xllamacpp {xllamacpp.__version__} ({xllamacpp.get_system_info().strip(' |')}), {options.threads} threads, "
          f"{options.context} tokens of context, {options.rounds} rounds")
    print("| engine, cache | ms a token, median (least, most) | llama.cpp over it |\n|---|---|---|")

    def row(name, values):
        middle = statistics.median(values)
        print(f"| {name} | {middle:.1f} ({min(values):.1f}, {max(values):.1f}) | {statistics.median(peer) / middle:.2f} |")

    row(f"llama.cpp, {options.weights}, all tokens", peer)
    for kv in options.kv:
        row(f"hawser, `{kv}`", [rows[kv] for rows in ours])


if __name__ == "__main__":
    main()
