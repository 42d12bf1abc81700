#!/usr/bin/env python3
"""A real model trained with the views that sepllm.py measures without training: how much of their price is left.

  post_training.py WORK HAWSER MODEL BOOKS             all cells below, one after another
  post_training.py WORK HAWSER MODEL BOOKS --row sep   one of them; a killed one goes on after its last checkpoint
  post_training.py WORK HAWSER MODEL BOOKS --table     the table and small JSON of what is there

A cell trains on 2 million tokens of books, the same for all, without those that are asked afterwards: eight windows of
4096 tokens, under full attention and under each view. "untrained" is the model as it is, "full" has seen the books alone.
"""
import json
import subprocess
import sys
from pathlib import Path

import row_command
import sepllm

HERE = Path(__file__).parent
VIEWS = {"full": "full", "sinks": "sinks=4 window=545", "sep": "sinks=4 window=164 sep",
         "stops": f"sinks=4 window=473 sep={sepllm.STOPS}"}
ROWS = ("untrained", *VIEWS)


def run(words):
    print(" ".join(map(str, words)), file=sys.stderr, flush=True)
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def measure(options, row):
    folder = options.work / "post-training"
    folder.mkdir(parents=True, exist_ok=True)
    model = options.model
    if row != "untrained":
        model = folder / row
        data = [book for book in sorted(options.books.glob("*.txt")) if book.stem not in sepllm.NAMES]
        run([options.hawser, "train", HERE / "post-training.toml", "--data", *data, "--out", model, "--resume", "--set",
             f"model={options.model}", "--set", f"attention={VIEWS[row]}", "--threads", options.threads, "--json", "--quiet"])
    run([options.hawser, "eval", model, "compare", "--data", *sepllm.books(options), "--context", sepllm.CONTEXT, "--stretch",
         sepllm.CONTEXT, "--dtype", "bf16", "--methods", "; ".join(VIEWS.values()), "--output", folder / f"{row}-views",
         "--resume", "--threads", options.threads, "--json", "--quiet"])


def table(options):
    found = {}
    for row in ROWS:
        folder = options.work / "post-training" / f"{row}-views"
        if (folder / "methods.jsonl").exists():
            found[row] = sepllm.methods(folder)
    print("| trained under | " + " | ".join(f"under {sepllm.label(view)}" for view in VIEWS.values()) + " |")
    print("|" + "---|" * (len(VIEWS) + 1))
    out = {}
    for row, methods in found.items():
        cells, out[row] = [], {}
        for view in VIEWS.values():
            if view not in methods:
                cells.append("-")
                continue
            out[row][view] = {"ppl": methods[view]["ppl"]}
            text = f"{methods[view]['ppl']:.2f}"
            if view != "full" and "full" in methods:
                out[row][view]["times_full"] = sepllm.interval(methods["full"], methods[view])
                text += " ({:.3f}, {:.3f}-{:.3f})".format(*out[row][view]["times_full"])
            cells.append(text)
        print(f"| {row} | " + " | ".join(cells) + " |")
    (options.work / "post-training" / "table.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    row_command.main(__doc__, ROWS, measure, table)
