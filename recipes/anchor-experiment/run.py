#!/usr/bin/env python3
"""Runs the cells of the experiment and prints its table; cells that are done are not run again.

  run.py WORK HAWSER                              every cell
  run.py WORK HAWSER --cell anchor reference 1    one: attention, numerics, seed
  run.py WORK HAWSER --table                      the table of what is there

WORK holds data/ (prepare.py) and base/ (pretrain.toml); cells go to WORK/cells. A killed run goes on after its last
checkpoint.
"""
import argparse
import json
import math
import statistics
import subprocess
from pathlib import Path

VARIANTS = ["full", "intra", "intra-reset", "anchor", "anchor-reset"]
# (i) the reference pipeline with bf16 frequencies, (ii) bf16 q and k with exact phases, (iii) q, k and v in f32 through
# rotation and attention; all else in bf16.
NUMERICS = {
    "reference": ["rope_numerics=reference"],
    "bf16-qk": ["rope_numerics=bf16-qk"],
    "f32-qk": ["rope_numerics=f32-qk"],
}
SEEDS = {"bf16-qk": {"full": 3, "intra-reset": 3, "anchor": 3}}
HERE = Path(__file__).parent
CONTEXT = 4096


def cells():
    for numerics in ("bf16-qk", "reference", "f32-qk"):
        for seed in (1, 2, 3):
            for variant in VARIANTS:
                if seed <= SEEDS.get(numerics, {}).get(variant, 1):
                    yield variant, numerics, seed


def call(hawser, *arguments):
    done = subprocess.run([hawser, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def step_seconds(out):
    """Median over the steps: what else the machine did for a while does not count."""
    ends = [json.loads(line)["seconds"] for line in (out / "metrics.jsonl").open()]
    return statistics.median(later - earlier for earlier, later in zip(ends, ends[1:]) if later > earlier)


def run_cell(work, hawser, variant, numerics, seed):
    out = work / "cells" / f"{variant}_{numerics}_{seed}"
    result = out / "result.json"
    if result.exists():
        return
    settings = [f"seed={seed}", *NUMERICS[numerics]]
    run = call(hawser, "extend", work / "base", "--recipe", HERE / "extend.toml", "--data", work / "data" / "long",
               "--context", CONTEXT, "--attention", variant, "--out", out, "--resume", "--json",
               *[part for setting in settings for part in ("--set", setting)])
    text = sorted((work / "data" / "validation").glob("*.txt"))
    ppl = call(hawser, "eval", out, "ppl", "--data", *text, "--context", CONTEXT, "--max-tokens", 200000, "--json",
               "--dtype", "bf16")
    retrieval = call(hawser, "eval", out, "retrieval", "--context", CONTEXT, "--documents", 32, "--seed", 7, "--json",
                     "--dtype", "bf16")
    result.write_text(json.dumps({"variant": variant, "numerics": numerics, "seed": seed, "run": run, "step_seconds": step_seconds(out), "ppl": ppl,
                                  "retrieval": retrieval}) + "\n")


def bucket_ppl(result, begin, end):
    rows = [b for b in result["ppl"]["buckets"] if begin <= b["begin"] and b["end"] <= end]
    return math.exp(sum(b["nll"] for b in rows) / sum(b["tokens"] for b in rows))


def accuracy(result, begin, end):
    rows = [b for b in result["retrieval"]["buckets"] if begin <= b["begin"] < end]
    questions = sum(b["questions"] for b in rows)
    return 100 * sum(b["correct"] for b in rows) / questions if questions else float("nan")


def spread(values, digits):
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


COLUMNS = [("ppl 256-511", lambda r: bucket_ppl(r, 256, 512), 2), ("1024-2047", lambda r: bucket_ppl(r, 1024, 2048), 2),
           ("2048-3071", lambda r: bucket_ppl(r, 2048, 3072), 2),
           ("3072-4095", lambda r: bucket_ppl(r, 3072, 4096), 2), ("retrieval < 512", lambda r: accuracy(r, 0, 512), 1),
           ("512-1023", lambda r: accuracy(r, 512, 1024), 1), ("1024-2047", lambda r: accuracy(r, 1024, 2048), 1),
           ("s a step", lambda r: r["step_seconds"], 2)]


def table(work):
    """Mean and standard deviation over seeds; then the same of the differences from full attention, seed by seed."""
    results = {}
    for path in sorted((work / "cells").glob("*/result.json")):
        result = json.loads(path.read_text())
        results.setdefault((result["numerics"], result["variant"]), {})[result["seed"]] = result
    names = [name for name, _, _ in COLUMNS]
    print("| numerics | attention | seeds | " + " | ".join(names) + " |\n" + "|---" * (3 + len(names)) + "|")
    for numerics, variant in ((n, v) for n in NUMERICS for v in VARIANTS):
        rows = results.get((numerics, variant), {}).values()
        if rows:
            print(f"| {numerics} | {variant} | {len(rows)} | " +
                  " | ".join(spread([value(r) for r in rows], digits) for _, value, digits in COLUMNS) + " |")
    print("\n| less full, by seed | " + " | ".join(names[:-1]) + " |\n" + "|---" * len(names) + "|")
    for numerics, variant in ((n, v) for n in NUMERICS for v in VARIANTS[1:]):
        full, rows = results.get((numerics, "full"), {}), results.get((numerics, variant), {})
        seeds = sorted(full.keys() & rows.keys())
        if seeds:
            print(f"| {numerics}, {variant} | " + " | ".join(
                spread([value(rows[s]) - value(full[s]) for s in seeds], digits + 1) for _, value, digits in COLUMNS[:-1]) +
                " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("--cell", nargs=3, metavar=("ATTENTION", "NUMERICS", "SEED"))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        chosen = [tuple(arguments.cell[:2]) + (int(arguments.cell[2]),)] if arguments.cell else cells()
        for cell in chosen:
            run_cell(arguments.work, arguments.hawser, *cell)
    table(arguments.work)


if __name__ == "__main__":
    main()
