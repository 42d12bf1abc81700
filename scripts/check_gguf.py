#!/usr/bin/env python3
"""GGUF files that hawser writes, read by other programs: check_gguf.py HAWSER MODEL TEXT [options]
or check_gguf.py HAWSER families [NAME...]

MODEL is anything that hawser opens, TEXT a file; its first --characters are the text. For each type hawser writes
MODEL as GGUF. The package `gguf` reads every key and tensor of the file, `llama-cpp-python` (llama.cpp) loads it. Both
llama.cpp and hawser cut the text into tokens and predict each from those before it, in one window; hawser reads the
same file. Ids have to be the same, and perplexities within a thousandth for f32, f16 and bf16, half a percent for
quantised types. With --quantize FILE (a GGUF file in f32 or f16) each quantised type is also made from FILE by
llama.cpp, and the perplexities of both files are compared, as llama.cpp has them.

The second form takes the tiny checkpoints of scripts/goldens/families.py, some of them changed to what llama.cpp
computes. Each becomes GGUF in f32, f16 and bf16 and a folder again, which has to hold the same bits as its source in
that type. llama.cpp reads the f32 file, and its logits are compared with those of transformers: within a thousandth of
the largest, as llama.cpp looks GELU up in a table of f16.
"""
import argparse
import ctypes
import io
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


# What llama.cpp knows no key for: windows it passes over, scales of scores, layers without positions.
AS_LLAMA_CPP = {"mistral": dict(sliding_window=None), "phi3": dict(sliding_window=None),
                "phi3_longrope": dict(original_max_position_embeddings=300), "qwen2_windows": dict(use_sliding_window=False),
                "gemma2": dict(query_pre_attn_scalar=16), "gemma3_text": dict(query_pre_attn_scalar=16),
                "gemma3_text_old": dict(query_pre_attn_scalar=16), "baichuan_7b": dict(num_hidden_layers=32),
                "baichuan_13b": dict(num_hidden_layers=40), "smollm3": dict(no_rope_layer_interval=4, num_hidden_layers=5),
                "mpt_old": dict(attn_config=dict(alibi=True, alibi_bias_max=8, clip_qkv=None, softmax_scale=None))}
TOKENS = 96


def come_back(hawser, folder, weights, kind, out):
    """Whether a folder in `kind` that became GGUF and a folder again has the same bits."""
    import torch
    from safetensors.torch import load_file
    source, file, again = out / "source", out / "there.gguf", out / "again"
    for command in (["convert", folder, source, "--type", kind], ["convert", source, file], ["convert", file, again]):
        subprocess.run([hawser, *map(str, command), "--quiet", "--force"], check=True, stdout=subprocess.DEVNULL)
    a, b = load_file(source / "model.safetensors"), load_file(again / "model.safetensors")
    same = a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)
    before, after = (json.loads((f / "config.json").read_text()) for f in (source, again))
    return same and all(before.get(key) == value for key, value in after.items())  # others change nothing


def logits_of(path, ids):
    """What llama.cpp makes of ids, in a process of its own: it ends the one it is in where a model is not to its taste."""
    code = f"import llama_cpp, numpy, sys\n" \
           f"m = llama_cpp.Llama({str(path)!r}, n_ctx={len(ids) + 8}, n_batch={len(ids)}, logits_all=True, verbose=False," \
           f" type_k={F32}, type_v={F32})\n" \
           f"m.eval({ids})\n" \
           f"numpy.save(sys.stdout.buffer, numpy.asarray(m.scores[:{len(ids)}], dtype=numpy.float32))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return np.load(io.BytesIO(done.stdout)) if done.returncode == 0 else None


def check_families(hawser, names):
    sys.path.insert(0, str(Path(__file__).parent / "goldens"))
    import families
    import torch
    print("| checkpoint | and back in f32, f16, bf16 | keys | tensors | llama.cpp, logits |\n|---|---|---|---|---|")
    bad = 0
    for name in names or families.VARIANTS:
        families.VARIANTS[name].update(AS_LLAMA_CPP.get(name, {}))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            config, weights = families.write_folder(name, folder)
            path = Path(temporary) / "x.gguf"
            done = subprocess.run([hawser, "convert", folder, path, "--type", "f32"], capture_output=True, text=True)
            if done.returncode == 4:
                print(f"| {name} | refused: {done.stderr.strip().splitlines()[-1].removeprefix('hawser: ')} | | | |", flush=True)
                continue
            if done.returncode:
                raise SystemExit(done.stderr)
            back = [come_back(hawser, folder, weights, kind, Path(temporary)) for kind in ("f32", "f16", "bf16")]
            keys, tensors = read_all(path)
            ids = families.token_ids(TOKENS, 64)
            forward, _ = families.reference(folder, config, weights)
            with torch.no_grad():
                wanted = forward(torch.from_numpy(ids)).float().numpy()
            found = logits_of(path, ids.tolist())
            error = None if found is None else float(np.abs(found - wanted).max() / np.abs(wanted).max())
            good = all(back) and (error is None or error <= 1e-3)
            bad += not good
            print(f"| {name} | {'same bits' if all(back) else back} | {keys} | {tensors} | "
                  f"{'does not load it' if error is None else f'{error:.1e}'} |{'' if good else ' WRONG'}", flush=True)
    return 1 if bad else 0


def main():
    if sys.argv[2:3] == ["families"]:
        return check_families(sys.argv[1], sys.argv[3:])
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
