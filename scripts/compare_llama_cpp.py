#!/usr/bin/env python3
"""Reading a prompt and decoding after it, in llama.cpp and in hawser, turn by turn, on one model in bf16:
compare_llama_cpp.py HAWSER MODEL TEXT [options]

MODEL is a Hugging Face folder of a Llama, TEXT a file that is long enough. llama.cpp comes from the packages
`llama-cpp-python` (whose source builds with this machine's instructions) and `gguf`: the folder is written as GGUF in
bf16, with rows as llama.cpp wants them and a vocabulary of numbered tokens. Both read the same ids. hawser runs
`hawser generate`, whose own figures count; llama.cpp is timed around its calls.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np
from llama_cpp import Llama, llama_print_system_info
from safetensors.numpy import load_file

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}


def gguf_name(name):
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def write_gguf(folder, path, context):
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    rope = config.get("rope_parameters") or config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("llama")
    pieces = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % byte for byte in range(256)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
    pieces += [b"t%d" % i for i in range(len(pieces), config["vocab_size"])]
    kinds += [gguf.TokenType.NORMAL] * (config["vocab_size"] - len(kinds))
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * config["vocab_size"])
    writer.add_token_types(kinds)
    for name, values in load_file(folder / "model.safetensors").items():
        values = values.astype(np.float32)
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
            continue
        parts = heads if ".q_proj" in name else kv_heads if ".k_proj" in name else 0
        if parts:  # halves of a head become adjacent pairs
            rows, cols = values.shape
            values = values.reshape(parts, 2, rows // parts // 2, cols).swapaxes(1, 2).reshape(rows, cols)
        bits = np.ascontiguousarray(values).view(np.uint32)
        bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        writer.add_tensor(gguf_name(name), bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def peer(llama, ids, new):
    """Tokens/s of the prompt and of what is decoded after it."""
    llama.reset()
    begin = time.perf_counter()
    llama.eval(ids)
    middle = time.perf_counter()
    for token in range(new):
        llama.eval([300 + token])
    return len(ids) / (middle - begin), new / (time.perf_counter() - middle)


def ours(options, ids, new):
    text = subprocess.run([options.hawser, "tokenize", options.model, "--ids", ",".join(map(str, ids)), "--json"],
                          check=True, stdout=subprocess.PIPE, text=True).stdout
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as prompt:
        prompt.write(json.loads(text)["text"])
        prompt.flush()
        done = subprocess.run([options.hawser, "generate", options.model, "--prompt-file", prompt.name, "--max-new",
                               str(new), "--dtype", "bf16", "--temperature", "0", "--threads", str(options.threads),
                               "--ignore-eos", "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(done)
    return result["prefill_tokens_per_second"], result["decode_tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser", help="the hawser binary")
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 4096, 7936])
    parser.add_argument("--new", type=int, default=64, help="tokens decoded behind each prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    done = subprocess.run([options.hawser, "tokenize", options.model, "--file", options.text, "--json"], check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    ids = json.loads(done)["ids"]
    longest = max(options.lengths)
    if len(ids) < longest:
        raise SystemExit(f"{options.text} has {len(ids)} tokens, {longest} are wanted")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(options.model, path, longest + options.new + 8)
        llama = Llama(str(path), n_ctx=longest + options.new + 8, n_batch=512, n_ubatch=512, verbose=False,
                      n_threads=options.threads, n_threads_batch=options.threads)
        print(llama_print_system_info().decode().strip())
        print("| prompt | llama.cpp reads | hawser reads | ratio | llama.cpp decodes | hawser decodes | ratio |")
        print("|---|---|---|---|---|---|---|")
        for length in options.lengths:
            rounds = [(peer(llama, ids[:length], options.new), ours(options, ids[:length], options.new))
                      for _ in range(options.rounds)]
            cells = []
            for part in (0, 1):
                theirs, mine = [r[0][part] for r in rounds], [r[1][part] for r in rounds]
                ratios = sorted(m / t for m, t in zip(mine, theirs))
                cells.append(f"{statistics.median(theirs):.0f} | {statistics.median(mine):.0f} | "
                             f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
            print(f"| {length} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
