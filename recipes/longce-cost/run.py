#!/usr/bin/env python3
"""What LongCE's short passes add to a step: cross-entropy and LongCE by turns, on one layer.

  run.py WORK HAWSER BOOKS                      the two small shapes; what is done is not done again
  run.py WORK HAWSER BOOKS --shape llama2-7b --threads 2    a layer in its own size: nine minutes of two cores, 23 GiB do
  run.py WORK HAWSER BOOKS --table              the table of what is there

BOOKS is a folder of plain-text books. Needs the package `tokenizers`.
"""
import argparse
import json
import shutil
import statistics
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
VOCABULARY = 512
# One layer each. Attention's share of a layer's work depends on context / width alone, so the second is the first, a
# layer of LLaMA-2-7B at 32,768 tokens with k = delta = 4096, at a quarter of its size in everything. The first step of a
# turn warms up.
SHAPES = {
    "llama2-7b": {"width": 4096, "heads": 32, "kv_heads": 32, "mlp": 11008, "context": 32768, "k": 4096, "steps": 3,
                  "turns": {"layer": 1}},
    "llama2-7b / 4": {"width": 1024, "heads": 8, "kv_heads": 8, "mlp": 2752, "context": 8192, "k": 1024, "steps": 3,
                      "turns": {"layer": 7, "none": 2}},
    "smollm2": {"width": 576, "heads": 9, "kv_heads": 3, "mlp": 1536, "context": 32768, "k": 4096, "steps": 2,
                "turns": {"layer": 2}},
}


def forward_flops(shape, rows, pairs):
    """Of the layer, without the head of a small vocabulary."""
    width, kv = shape["width"], shape["width"] // shape["heads"] * shape["kv_heads"]
    return 2 * rows * (2 * width * width + 2 * width * kv + 3 * width * shape["mlp"]) + 4 * width * pairs


def short_over_forward(shape):
    def triangle(n):
        return n * (n + 1) // 2

    context, k = shape["context"], shape["k"]
    lengths = [min(2 * k, context - begin) for begin in range(k, context - k, k)]
    return (forward_flops(shape, sum(lengths), sum(map(triangle, lengths))) /
            forward_flops(shape, context, triangle(context)))


def make_tokenizer(folder, book):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if (folder / "tokenizer.json").exists():
        return
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([book.read_text()], trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|eos|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def turn(options, books, shape, objective, recompute):
    """Seconds of the steps behind the first, and what the run counts as FLOPs of one."""
    out = options.work / "run"
    shutil.rmtree(out, ignore_errors=True)
    settings = {"tokenizer": options.work / "tokenizer", "context": shape["context"], "batch_tokens": shape["context"],
                "steps": shape["steps"], "objective": objective, "recompute": recompute, "model.width": shape["width"],
                "model.heads": shape["heads"], "model.kv_heads": shape["kv_heads"], "model.mlp_width": shape["mlp"]}
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    subprocess.run([options.hawser, "train", HERE / "layer.toml", "--data", *books, "--out", out, "--threads",
                    options.threads, "--json", "--quiet", *pairs], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    shutil.rmtree(out)
    seconds = [later["seconds"] - earlier["seconds"] for earlier, later in zip(lines, lines[1:])]
    return [round(s, 3) for s in seconds], round(lines[-1]["gflops"] * seconds[-1] * 1e9)


def measure(options):
    books = sorted(options.books.glob("*.txt"))[:2]
    make_tokenizer(options.work / "tokenizer", books[0])
    path = options.work / "longce-cost.json"
    results = json.loads(path.read_text()) if path.exists() else []
    for name in options.shape:
        shape = SHAPES[name]
        for recompute, turns in shape["turns"].items():
            if any(r["shape"] == name and r["recompute"] == recompute for r in results):
                continue
            row = {"shape": name, "recompute": recompute, "ce": [], "longce": []}
            for _ in range(turns):
                for key, objective in (("ce", "ce"), ("longce", f"longce:k={shape['k']},delta={shape['k']}")):
                    seconds, row[key + "_flops"] = turn(options, books, shape, objective, recompute)
                    row[key] += seconds
            results.append(row)
            path.write_text(json.dumps(results) + "\n")


def times(seconds):
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


def table(options):
    print("| shape | recompute | short / forward | of 4 forwards | of 3 | steps | s a step, CE | LongCE | more time |\n" +
          "|---" * 9 + "|")
    for row in json.loads((options.work / "longce-cost.json").read_text()):
        short = 100 * short_over_forward(SHAPES[row["shape"]])
        more = 100 * (statistics.median(row["longce"]) / statistics.median(row["ce"]) - 1)
        print(f"| {row['shape']} | {row['recompute']} | {short / 100:.2f} | {short / 4:.1f} % | {short / 3:.1f} % | "
              f"{len(row['ce'])} | {times(row['ce'])} | {times(row['longce'])} | {more:.0f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("books", type=Path)
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=list(SHAPES)[1:])
    parser.add_argument("--threads", default="1")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        measure(options)
    table(options)


if __name__ == "__main__":
    main()
