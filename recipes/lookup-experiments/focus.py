#!/usr/bin/env python3
"""FocusLLM on a small model: candidates learn to find numbers in texts many times as long as its context.

  focus.py WORK HAWSER BOOKS            all of it: text, model, candidates, passkeys; what is done is not done again
  focus.py WORK HAWSER BOOKS --table    the table of what is there

BOOKS is a folder of plain-text books (package: tokenizers, numpy). A killed run goes on after its last checkpoint.
"""
import argparse
import json
import random
import subprocess
from pathlib import Path

import text

HERE = Path(__file__).parent
BUILTIN = HERE.parent.parent / "models" / "hawser-4m"
CONTEXT, TRIALS, DEPTHS, SEED = 256, 10, 5, 1
BASE_DOCUMENTS, LONG_DOCUMENTS = 4000, 5000
LENGTHS = (256, 512, 1024, 2048, 4096)
WAYS = {
    "plain": [],
    "`ntk:factor=8`": ["--rope", "ntk:factor=8"],
    "`yarn:factor=8`": ["--rope", "yarn:factor=8"],
    "`string:shift=128,window=32`": ["--rope", "string:shift=128,window=32"],
    "`sink:4,252`": ["--kv", "sink:4,252"],
    "FocusLLM, `sync=1`": ["--focus", "{focus}"],
    "FocusLLM, `sync=8`": ["--focus", "{focus},sync=8"],
}


def base_lines(writer, tokenizer):
    """Short documents that ask for numbers: one in the layout of passkeys, or some, each twice."""
    for _ in range(BASE_DOCUMENTS):
        if writer.rng.random() < 0.35:
            prompt, completion = writer.hidden(writer.rng.randint(95, 170), task_first=0.3)
            parts = [(prompt, False), (completion[:-1], True), (".", False)]
        else:
            parts = writer.facts(60)
        yield text.weighted(tokenizer, parts, 0.1)


def long_lines(writer, tokenizer):
    """Long documents as ids, which end somewhere in what has to be looked up."""
    for _ in range(LONG_DOCUMENTS):
        hidden = writer.rng.random() < 0.6
        before, behind = writer.hidden(writer.rng.randint(150, 880)) if hidden else writer.recurring(
            writer.rng.randint(150, 880))
        ids, own = tokenizer.encode(before).ids, tokenizer.encode(behind, add_special_tokens=False).ids
        last = len(own) - 1 if hidden else len(own)  # not the full stop
        first = 1 if hidden else 4
        yield {"source": "hidden" if hidden else "recurring", "input_ids": ids + own[:writer.rng.randint(first, last)]}


def prepare(work, folder):
    if (work / "long.jsonl").exists():
        return
    from tokenizers import Tokenizer

    work.mkdir(parents=True, exist_ok=True)
    books, avoid = text.read_books(folder, 0, 4), text.asked_for(TRIALS)
    tokenizer = Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))
    text.write_lines(work / "base.jsonl", base_lines(text.Writer(random.Random(SEED), books, avoid), tokenizer))
    part = work / "long.part"
    text.write_lines(part, long_lines(text.Writer(random.Random(SEED + 1), books, avoid), tokenizer))
    part.rename(work / "long.jsonl")


def call(hawser, *arguments):
    done = subprocess.run([hawser, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def train_base(work, hawser, threads):
    if not (work / "base" / "hawser.json").exists():
        call(hawser, "train", HERE / "focus-base.toml", "--data", work / "base.jsonl", "--out", work / "base", "--resume",
             "--json", "--threads", threads)


def train(work, hawser, threads):
    train_base(work, hawser, threads)
    if not (work / "focus" / "hawser.json").exists():
        call(hawser, "extend", work / "base", "--recipe", HERE / "focus.toml", "--data", work / "long.jsonl", "--out",
             work / "focus", "--resume", "--json", "--threads", threads)


def ask(work, hawser, threads):
    path = work / "passkeys.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for way, flags in WAYS.items():
        for length in LENGTHS:
            name = f"{way} {length}"
            if name in results:
                continue
            given = [flag.format(focus=work / "focus") for flag in flags]
            task = f"passkey:variant=focusllm,lengths={length},depths={DEPTHS},trials={TRIALS}"
            answer = call(hawser, "eval", work / "base", task, "--context", max(length, CONTEXT), "--threads", threads,
                          "--json", "--quiet", *given)
            found = answer["results"]["passkey"]
            results[name] = {"way": way, "length": length, "found": found["acc,none"], "error": found["acc_stderr,none"],
                             "samples": found["sample_count"]["acc,none"], "cells": answer["cells"]}
            path.write_text(json.dumps(results, indent=1) + "\n")


def table(work):
    results = json.loads((work / "passkeys.json").read_text())
    print("| read as | " + " | ".join(f"{length:,}" for length in LENGTHS) + " |\n" + "|---" * (1 + len(LENGTHS)) + "|")
    for way in WAYS:
        cells = [results.get(f"{way} {length}") for length in LENGTHS]
        print(f"| {way} | " + " | ".join("" if c is None else f"{100 * c['found']:.0f}" for c in cells) + " |")


def read_options(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("books", type=Path)
    parser.add_argument("--threads", default="0")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


def main():
    options = read_options(__doc__)
    if not options.table:
        prepare(options.work, options.books)
        train(options.work, options.hawser, options.threads)
        ask(options.work, options.hawser, options.threads)
    table(options.work)


if __name__ == "__main__":
    main()
