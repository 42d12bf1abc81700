#!/usr/bin/env python3
"""GGUF files that hawser writes, read by other programs: check_gguf.py HAWSER MODEL TEXT [options]

MODEL is anything that hawser opens, TEXT a file; its first --characters are the text. For each type hawser writes
MODEL as GGUF. The package `gguf` reads every key and tensor of the file, `llama-cpp-python` (llama.cpp) loads it. Both
llama.cpp and hawser cut the text into tokens and predict each from those before it, in one window; hawser reads the
same file. Ids have to be the same, and perplexities within a thousandth for f32, f16 and bf16, half a percent for
quantised types. With --quantize FILE (a GGUF file in f32 or f16) each quantised type is also made from FILE by
llama.cpp, and the perplexities of both files are compared, as llama.cpp has them.
"""
import argparse
import ctypes
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k", "q6_k"]
PLAIN = {"f32", "f16", "bf16"}
MOSTLY = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
          "q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1, "q4_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
          "q6_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K}
F32 = 0  # ggml_type of a cache


def read_all(path):
    """Keys and tensors of a file, every one of them decoded."""
    reader = gguf.GGUFReader(path)
    for field in reader.fields.values():
        field.contents()
    for tensor in reader.tensors:
        if not np.all(np.isfinite(gguf.quants.dequantize(tensor.data, tensor.tensor_type))):
            raise SystemExit(f"{path}: {tensor.name} holds values that are not finite")
    return len(reader.fields), len(reader.tensors)


class Peer:
    def __init__(self, path, tokens, batch):
        self.llama = llama_cpp.Llama(str(path), n_ctx=tokens, n_batch=batch or tokens, logits_all=True, verbose=False,
                                     type_k=F32, type_v=F32)

    def ids(self, text):
        return self.llama.tokenize(text.encode(), add_bos=False, special=False)

    def nll(self, ids):
        """Nats of every id but the first."""
        self.llama.reset()
        self.llama.eval(ids)
        scores = np.asarray(self.llama.scores[:len(ids) - 1], dtype=np.float64)
        top = scores.max(axis=1)
        total = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        return total - scores[np.arange(len(ids) - 1), ids[1:]]


def hawser(options, *arguments):
    done = subprocess.run([options.hawser, *map(str, arguments), "--json", "--quiet"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def ppl(nll):
    return math.exp(float(np.mean(nll)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser", help="the hawser binary")
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--characters", type=int, default=6000)
    parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES)
    parser.add_argument("--batch", type=int, default=0, help="tokens that llama.cpp reads at a time (0: all; builds of it "
                        "that crash on quantised weights with several tokens want 1)")
    parser.add_argument("--quantize", type=Path, metavar="FILE")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(options.text.read_text()[:options.characters])
        print("| type | keys | tensors | tokens | llama.cpp | hawser | difference | tokens/greatest | by llama.cpp |")
        print("|---|---|---|---|---|---|---|---|---|")
        for kind in options.types:
            path = Path(folder) / f"{kind}.gguf"
            hawser(options, "convert", options.model, path, "--type", kind)
            keys, tensors = read_all(path)
            ids = hawser(options, "tokenize", path, "--file", text)["ids"]
            peer = Peer(path, len(ids) + 8, options.batch)
            same_ids = ids == peer.ids(text.read_text())
            nats = Path(folder) / "nats"
            bos = hawser(options, "eval", path, "ppl", "--data", text, "--context", len(ids) + 1, "--nll", nats)["bos_id"]
            ours = np.loadtxt(nats, ndmin=2)[:, -1]
            theirs = peer.nll([bos] + ids)
            difference = ppl(ours) / ppl(theirs) - 1
            good = same_ids and len(ours) == len(theirs) and abs(difference) <= (1e-3 if kind in PLAIN else 5e-3)
            other = ""
            if options.quantize and kind in MOSTLY:
                made = Path(folder) / "made.gguf"
                params = llama_cpp.llama_model_quantize_default_params()
                params.ftype = MOSTLY[kind]
                llama_cpp.llama_model_quantize(str(options.quantize).encode(), str(made).encode(), ctypes.byref(params))
                of_made = ppl(Peer(made, len(ids) + 8, options.batch).nll([bos] + ids))
                other = f"{of_made:.4f} ({ppl(theirs) / of_made - 1:+.2%})"
                good = good and ppl(theirs) / of_made - 1 <= 5e-3
            wrong += not good
            print(f"| {kind} | {keys} | {tensors} | {len(ids)} {'same' if same_ids else 'OTHER'} | {ppl(theirs):.4f} | "
                  f"{ppl(ours):.4f} | {difference:+.3%} | {np.abs(ours - theirs).max():.4f} | {other} |"
                  f"{'' if good else ' WRONG'}", flush=True)
            path.unlink()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
