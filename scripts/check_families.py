#!/usr/bin/env python3
"""Every family at the command line, against transformers (torch, f32, eager attention):
check_families.py HAWSER FOLDER [NAME...]

Tiny checkpoints (scripts/goldens/families.py) get a tokenizer of single characters. For each: `info`; `eval ppl --nll`
on 301 tokens, compared nat by nat; `generate`, greedy, compared token by token; `extend` for 20 steps, then the exported
folder in transformers and in hawser, compared nat by nat. Prints a table as docs/MODELS.md has it.
"""
import json
import pathlib
import subprocess
import sys

import torch
from safetensors.numpy import load_file

sys.path.insert(0, str(pathlib.Path(__file__).parent / "goldens"))
import families  # noqa: E402

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ012345678"  # ids 3 to 63
SPECIAL = ["<unk>", "<s>", "</s>"]


def write_tokenizer(folder):
    vocab = {piece: i for i, piece in enumerate(SPECIAL + list(LETTERS))}
    added = [{"id": i, "content": piece, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, piece in enumerate(SPECIAL)]
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": None, "post_processor": None, "decoder": None,
                 "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": False, "vocab": vocab,
                           "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def text_of(count, name="text"):
    return "".join(LETTERS[int(x) % len(LETTERS)] for x in families.mix(name, count))


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def forward_of(folder):
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    forward, _ = families.reference(folder, config, weights)
    return lambda ids: forward(torch.tensor(ids)).detach().float()


def nats_of_reference(forward, ids):
    logits = forward(ids[:-1])  # the last token is predicted, not read
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def nats(hawser, folder, text, out):
    run(hawser, "eval", folder, "ppl", "--data", text, "--bos", "off", "--context", 512, "--nll", out, "--quiet")
    return torch.tensor([float(line.split()[-1]) for line in out.read_text().splitlines()])


def check(hawser, name, folder):
    families.write_folder(name, folder)
    write_tokenizer(folder)
    text = folder / "text.txt"
    text.write_text(text_of(301))
    ids = [LETTERS.index(c) + 3 for c in text.read_text()]
    info = json.loads(run(hawser, "info", folder, "--json"))
    # Other programs cannot read interpolated biases.
    places = ["--rope", "alibi"] if info["positions"].startswith("alibi") else []
    forward = forward_of(folder)
    plain = nats(hawser, folder, text, folder / "nll.txt")
    wanted = nats_of_reference(forward, ids)
    assert len(plain) == len(wanted), (len(plain), len(wanted))
    prompt, new = text_of(40, "prompt"), 12
    at = [LETTERS.index(c) + 3 for c in prompt]
    greedy = []
    for _ in range(new):
        greedy.append(int(forward(at + greedy)[-1].argmax()))
        if greedy[-1] < len(SPECIAL):  # no letter
            greedy.pop()
            break
    said = run(hawser, "generate", folder, "--prompt", prompt, "--max-new", new, "--temperature", 0, "--bos", "off",
               "--quiet").strip()
    expected = "".join(LETTERS[i - 3] for i in greedy)
    same = said.removeprefix(prompt).startswith(expected)
    books = folder / "books"
    books.mkdir(exist_ok=True)
    for i in range(6):
        (books / f"{i}.txt").write_text(text_of(2000, f"book{i}"))
    trained = folder / "run"
    run(hawser, "extend", folder, "--data", books, "--context", max(1024, info["context"]), "--steps", 20, "--batch-tokens", 2048, "--dtype",
        "f32", "--out", trained, "--quiet", *places)
    after = nats(hawser, trained, text, folder / "nll_run.txt")
    model = next(path.parent for path in sorted(trained.rglob("config.json")))
    moved = float((after - plain).abs().max())
    wanted_after = nats_of_reference(forward_of(model), ids)
    assert moved > 1e-3, f"{name}: training changed nothing"
    return float((plain - wanted).abs().max()), same, float((after - wanted_after).abs().max())


def main():
    hawser, out, names = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:] or list(families.VARIANTS)
    print("| checkpoint | largest difference in nats | greedy text | after `extend`, exported |\n|---|---|---|---|")
    bad = 0
    for name in names:
        try:
            before, same, after = check(hawser, name, out / name)
        except SystemExit as error:
            print(f"| {name} | {error} |", flush=True)
            bad += 1
            continue
        good = before < 2e-4 and same and after < 2e-4
        bad += not good
        print(f"| {name} | {before:.1e} | {'same' if same else 'other'} | {after:.1e} |{'' if good else ' <- bad'}",
              flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
