#!/usr/bin/env python3
"""FocusLLM on a real model: candidates of SmolLM2 learn to tell what their chunk holds, and find passkeys in texts
eight times as long as its context.

  focus_smollm2.py WORK HAWSER MODEL BOOKS            all of it: text, candidates, passkeys; what is done is not done again
  focus_smollm2.py WORK HAWSER MODEL BOOKS --table    the table of what is there

MODEL is a Hugging Face folder of SmolLM2-135M-Instruct, BOOKS a folder of plain-text books (packages: tokenizers,
numpy). A killed run goes on after its last checkpoint.
"""
import argparse
import json
import random
from pathlib import Path

import text
from focus import call

HERE = Path(__file__).parent
CONTEXT, DEPTHS, SEED, DOCUMENTS = 8192, 5, 3, 2400
SMALLEST, LARGEST = 900, 1535  # tokens of a document, which is to fill a sequence
# Name: options, and (length, samples at each depth). A text of 65,536 tokens under full attention takes minutes.
WAYS = {
    "plain": ([], ((4096, 2), (8192, 2), (16384, 1), (65536, 1))),
    "FocusLLM": (["--focus", "{focus},chunk=4096"], ((4096, 2), (8192, 2), (16384, 2), (32768, 2), (65536, 4))),
}


def lines(writer, tokenizer):
    """Documents as ids, which end somewhere in the number that is asked for."""
    count = 0
    while count < DOCUMENTS:
        before, behind = writer.hidden(writer.rng.randint(450, 1300))
        ids, own = tokenizer.encode(before).ids, tokenizer.encode(behind, add_special_tokens=False).ids
        if len(ids) < SMALLEST or len(ids) + len(own) > LARGEST:
            continue
        yield {"source": "hidden", "input_ids": ids + own[:writer.rng.randint(1, len(own) - 1)]}
        count += 1


def prepare(options):
    path = options.work / "documents.jsonl"
    if path.exists():
        return
    from tokenizers import Tokenizer

    options.work.mkdir(parents=True, exist_ok=True)
    writer = text.Writer(random.Random(SEED), text.read_books(options.books, 0, 6), text.asked_for(20))
    part = path.with_suffix(".part")
    text.write_lines(part, lines(writer, Tokenizer.from_file(str(options.model / "tokenizer.json"))))
    part.rename(path)


def train(options):
    if not (options.work / "focus" / "hawser.json").exists():
        call(options.hawser, "extend", options.model, "--recipe", HERE / "focus-smollm2.toml", "--data",
             options.work / "documents.jsonl", "--out", options.work / "focus", "--resume", "--json", "--threads",
             options.threads)


def ask(options):
    path = options.work / "passkeys.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for way, (flags, lengths) in WAYS.items():
        for length, trials in lengths:
            name = f"{way} {length}"
            if name in results or not any(name.startswith(only) for only in options.only):
                continue
            given = [flag.format(focus=options.work / "focus") for flag in flags]
            answer = call(options.hawser, "eval", options.model,
                          f"passkey:variant=focusllm,lengths={length},depths={DEPTHS},trials={trials}", "--context",
                          max(length, CONTEXT), "--dtype", "bf16", "--threads", options.threads, "--json", *given)
            found = answer["results"]["passkey"]
            results[name] = {"way": way, "length": length, "found": found["acc,none"], "error": found["acc_stderr,none"],
                             "samples": found["sample_count"]["acc,none"],
                             "seconds": float(answer["total_evaluation_time_seconds"])}
            path.write_text(json.dumps(results, indent=1) + "\n")


def table(options):
    results = json.loads((options.work / "passkeys.json").read_text())
    lengths = sorted({found["length"] for found in results.values()})
    print("| read as | " + " | ".join(f"{length:,}" for length in lengths) + " |\n" + "|---" * (1 + len(lengths)) + "|")
    for way in WAYS:
        found = [results.get(f"{way} {length}") for length in lengths]
        print(f"| {way} | " + " | ".join(f"{round(c['found'] * c['samples'])} of {c['samples']}" if c else ""
                                         for c in found) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("model", type=Path)
    parser.add_argument("books", type=Path)
    parser.add_argument("--threads", default="0")
    parser.add_argument("--only", nargs="+", default=[""], help="ways, and lengths, whose names begin so")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        prepare(options)
        train(options)
        ask(options)
    table(options)


if __name__ == "__main__":
    main()
