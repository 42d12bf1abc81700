#!/usr/bin/env python3
"""Continued training of a real model from 8K to 32K tokens, under attention variants and numerics.

  extend.py WORK HAWSER MODEL BOOKS --prepare          documents of log-normal length, and ten held-out books
  extend.py WORK HAWSER MODEL BOOKS --time             what a step costs at 8K and at 32K, a layer at a time
  extend.py WORK HAWSER MODEL BOOKS --cell V2 bf16-qk  one cell; a killed one goes on after its last checkpoint
  extend.py WORK HAWSER MODEL BOOKS --table            what is there

BOOKS: a folder of PG-19 books. Cells go to WORK/extend/VARIANT-NUMERICS, their measures beside them. --set KEY=VALUE
changes the recipe of a cell (steps=8); --lora RANK trains adapters.
"""
import argparse
import json
import math
import random
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
VARIANTS = {"V0": "full", "V1r": "intra-reset", "V2": "anchor"}
NUMERICS = ("bf16-qk", "f32-qk")
HELD_OUT = 10
MEDIAN = 8000  # characters of a document: about 2,000 tokens
# Of SmolLM2-135M; --time measures one layer of it with a small vocabulary, and once the head.
SHAPE = "--width 576 --heads 9 --kv-heads 3 --mlp 1536"
LAYERS, VOCABULARY = 30, 49152
TIMES = {
    "layer-8192": "--layers 1 --vocab 512 --tokens 8192 --docs 2048",
    "layer-32768": "--layers 1 --vocab 512 --tokens 32768 --docs 2048",
    "head-8192": f"--layers 1 --vocab {VOCABULARY} --tokens 8192 --docs 2048 --attention anchor",
}


def pieces(text, rng):
    """Runs of whole paragraphs, each at least as long as a draw from the log-normal distribution."""
    piece, size, wanted = [], 0, rng.lognormvariate(math.log(MEDIAN), 1.1)
    for paragraph in text.split("\n\n"):
        if not paragraph.strip():
            continue
        piece.append(paragraph.strip("\n"))
        size += len(paragraph) + 2
        if size >= wanted:
            yield "\n\n".join(piece)
            piece, size, wanted = [], 0, rng.lognormvariate(math.log(MEDIAN), 1.1)
    if piece:
        yield "\n\n".join(piece)


def prepare(options):
    files = sorted(options.books.glob("*.txt"), key=lambda file: file.name)
    rng = random.Random(1)
    documents = [piece for book in files[:-HELD_OUT] for piece in pieces(book.read_text(encoding="utf-8"), rng)]
    rng.shuffle(documents)
    (options.work / "extend" / "validation").mkdir(parents=True, exist_ok=True)
    with (options.work / "extend" / "documents.jsonl").open("w", encoding="utf-8") as out:
        for text in documents:
            out.write(json.dumps({"source": "book", "text": text}) + "\n")
    for book in files[-HELD_OUT:]:
        (options.work / "extend" / "validation" / book.name).write_text(book.read_text(encoding="utf-8"), encoding="utf-8")


def once(path, command):
    """The JSON of a command, from its file where it has run before."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(" ".join(map(str, command)), file=sys.stderr, flush=True)
        done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
        json.loads(done.stdout)
        path.write_text(done.stdout)
    return json.loads(path.read_text())


def time_steps(options):
    for name, sizes in TIMES.items():
        attention = [] if "--attention" in sizes else ["--attention", *VARIANTS.values()]
        once(options.work / "extend" / f"time-{name}.json",
             [options.hawser, "bench", "train", *SHAPE.split(), *sizes.split(), *attention, "--dtype", "bf16", "--recompute",
              "layer", "--repeat", options.repeat, "--threads", options.threads, "--json"])


def cell(options, variant, numerics):
    out = options.work / "extend" / f"{variant}-{numerics}{f'-lora{options.lora}' if options.lora else ''}"
    sets = [f"attention={VARIANTS[variant]}", f"rope_numerics={numerics}", *options.set]
    if options.lora:
        sets.append(f"lora_rank={options.lora}")
    once(out.with_suffix(".run.json"),
         [options.hawser, "train", HERE / "extend.toml", "--data", options.work / "extend" / "documents.jsonl", "--out", out,
          "--resume", *(word for key in (f"model={options.model}", *sets) for word in ("--set", key)), "--threads",
          options.threads, "--json"])
    books = sorted((options.work / "extend" / "validation").glob("*.txt"))
    once(out.with_suffix(".ppl.json"),
         [options.hawser, "eval", out, "ppl", "--data", *books, "--context", options.context, "--max-tokens", options.tokens, "--dtype", "bf16",
          "--threads", options.threads, "--json"])
    once(out.with_suffix(".retrieval.json"),
         [options.hawser, "eval", out, "retrieval", "--context", options.context, "--documents", options.documents, "--seed", 7, "--dtype", "bf16",
          "--threads", options.threads, "--json"])


def table(options):
    folder = options.work / "extend"
    times = {name: json.loads(path.read_text())["rows"] for name in TIMES
             if (path := folder / f"time-{name}.json").exists()}
    if times:
        print("| tokens | attention | s a layer | of full | by FLOPs | density |\n|---|---|---|---|---|---|")
    for name in ("layer-8192", "layer-32768"):
        for row in times.get(name, []):
            print(f"| {row['tokens']} | {row['pattern']} | {row['seconds']:.2f} | {row['time_over_full']:.3f} | "
                  f"{row['flops_over_full']:.3f} | {row['density']:.3f} |")
    for run in sorted(folder.glob("*.ppl.json")):
        ppl = json.loads(run.read_text())
        print(run.name, ppl["ppl"], [(b["begin"], round(b["ppl"], 2)) for b in ppl["buckets"] if b["begin"] >= 1024])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("model")
    parser.add_argument("books", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--cell", nargs=2, metavar=("VARIANT", "NUMERICS"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--context", type=int, default=32768, help="of the measures")
    parser.add_argument("--tokens", type=int, default=327680, help="of the perplexity")
    parser.add_argument("--documents", type=int, default=8, help="of the retrieval")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", default="0")
    options = parser.parse_args()
    if options.cell and (options.cell[0] not in VARIANTS or options.cell[1] not in NUMERICS):
        parser.error(f"--cell: wanted {', '.join(VARIANTS)} and {' or '.join(NUMERICS)}")
    if options.prepare:
        prepare(options)
    if options.time:
        time_steps(options)
    if options.cell:
        cell(options, *options.cell)
    if options.table:
        table(options)


if __name__ == "__main__":
    main()
