#!/usr/bin/env python3
"""Adapters of every family, trained by hawser and read by the PEFT library, and the other way round:
check_adapters.py HAWSER FOLDER [NAME...]

Tiny checkpoints (scripts/goldens/families.py) get a tokenizer of single characters. `extend` makes adapters of every
kind of matrix, PEFT puts them on the untouched checkpoint, and both predict a text of 301 tokens. Then PEFT makes
adapters of the family's own modules, and `eval --adapter` reads them. Prints the largest differences in nats.
"""
import json
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).parent / "goldens"))
import check_families as base  # noqa: E402
import families  # noqa: E402


def model_of(folder, name):
    attention = "sdpa" if name.startswith("falcon") else "eager"
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32).eval()


def nats_of(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor(ids[:-1])[None], use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def nats(hawser, folder, text, *options):
    out = folder / "nll.txt"
    base.run(hawser, "eval", folder, "ppl", "--data", text, "--bos", "off", "--context", 512, "--nll", out, "--quiet",
             *options)
    return torch.tensor([float(line.split()[-1]) for line in out.read_text().splitlines()])


def check(hawser, name, folder):
    families.write_folder(name, folder)
    base.write_tokenizer(folder)
    text = folder / "text.txt"
    text.write_text(base.text_of(301))
    ids = [base.LETTERS.index(c) + 3 for c in text.read_text()]
    plain = nats(hawser, folder, text)
    context = json.loads(base.run(hawser, "info", folder, "--json"))["context"]
    book, run = folder / "book.txt", folder / "run"
    book.write_text(base.text_of(20000, "book"))
    head = ', "lm_head"' if not model_of(folder, name).config.tie_word_embeddings else ""
    targets = f'["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"{head}]'
    base.run(hawser, "extend", folder, "--data", book, "--context", context, "--steps", 20, "--batch-tokens", 1024,
             "--lora", 3, "--set", "lora_alpha=5", "--set", f"lora_targets={targets}", "--lr", 0.01, "--dtype", "f32", "--out", run,
             "--quiet")
    ours = nats(hawser, folder, text, "--adapter", run)
    theirs = nats_of(PeftModel.from_pretrained(model_of(folder, name), run / "adapter").eval(), ids)
    moved = float((ours - plain).abs().max())
    assert moved > 1e-2, f"{name}: training changed nothing"
    out = float((ours - theirs).abs().max())
    made = get_peft_model(model_of(folder, name), LoraConfig(r=2, lora_alpha=6, task_type="CAUSAL_LM",
                                                             target_modules="all-linear")).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for key, value in made.named_parameters():
            if "lora_B" in key:
                value.normal_(0, 0.1)
    made.save_pretrained(folder / "made")
    ours, theirs = nats(hawser, folder, text, "--adapter", folder / "made"), nats_of(made, ids)
    assert float((ours - plain).abs().max()) > 1e-2
    return out, float((ours - theirs).abs().max())


def main():
    hawser, out = sys.argv[1], pathlib.Path(sys.argv[2])
    names = sys.argv[3:] or [name for name in families.VARIANTS if not name.startswith("baichuan")]
    print("| checkpoint | made by hawser, read by PEFT | made by PEFT, read by hawser |\n|---|---|---|")
    bad = 0
    for name in names:
        there, back = check(hawser, name, out / name)
        good = max(there, back) < 2e-4
        bad += not good
        print(f"| {name} | {there:.1e} | {back:.1e} |{'' if good else ' <- bad'}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
