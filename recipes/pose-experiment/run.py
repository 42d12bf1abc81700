#!/usr/bin/env python3
"""Runs the ways of the experiment and prints its table; what is done is not run again.

  run.py WORK HAWSER                     every way
  run.py WORK HAWSER --way pose ntk 1    one: way, rope, seed
  run.py WORK HAWSER --table             the table of what is there

WORK is the folder of ../anchor-experiment with data/ (prepare.py) and base/ (pretrain.toml); ways go to WORK/pose. A
killed run goes on after its last checkpoint.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
from pathlib import Path

WINDOW, CONTEXT = 512, 4096
# Keys of the recipe beside extend.toml; None: no training. All others train on as many tokens.
WAYS = {
    "none": None,
    "short": [f"context={WINDOW}", "rope=default"],
    "pose": [f"positions=pose:window={WINDOW}"],
    "pose-skip": ["attention=intra", f"positions=pose:window={WINDOW},text=skip"],
    "randpos": [f"positions=randpos:window={WINDOW}"],
    "full-length": [],
}
ROPES = {"ntk": f"ntk:factor={CONTEXT // WINDOW}", "linear": f"linear:factor={CONTEXT // WINDOW}"}
SEEDS = (1, 2, 3)
HERE = Path(__file__).parent


def ways():
    for seed in SEEDS:
        for rope in ROPES:
            for way in WAYS:
                if seed == SEEDS[0] or way not in ("none", "short"):
                    yield way, rope, seed


def call(hawser, *arguments):
    done = subprocess.run([hawser, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def call_measured(hawser, *arguments):
    """The result, and the largest resident set in MiB."""
    child = subprocess.Popen([hawser, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        raise subprocess.CalledProcessError(status, child.args)
    return json.loads(text), usage.ru_maxrss / 1024


def step_seconds(out):
    """Median over the steps: what else the machine did for a while does not count."""
    ends = [json.loads(line)["seconds"] for line in (out / "metrics.jsonl").open()]
    return statistics.median(later - earlier for earlier, later in zip(ends, ends[1:]) if later > earlier)


def run_way(work, hawser, threads, way, rope, seed):
    out = work / "pose" / f"{way}_{rope}_{seed}"
    result = out / "result.json"
    if result.exists():
        return
    keys, model, own = WAYS[way], work / "base", []
    every = ["--json", "--threads", threads]
    measured = {"way": way, "rope": rope, "seed": seed}
    if keys is not None:
        settings = [f"seed={seed}", f"rope={ROPES[rope]}", *keys]
        model = out
        measured["run"], measured["peak_mib"] = call_measured(
            hawser, "extend", work / "base", "--recipe", HERE / "extend.toml", "--data", work / "data" / "whole", "--out",
            out, "--resume", *every, *[part for setting in settings for part in ("--set", setting)])
        measured["step_seconds"] = step_seconds(out)
    if way in ("none", "short"):
        own = ["--rope", ROPES[rope]]
    out.mkdir(parents=True, exist_ok=True)
    text = sorted((work / "data" / "validation").glob("*.txt"))
    measured["ppl"] = call(hawser, "eval", model, "ppl", "--data", *text, "--context", CONTEXT, "--max-tokens", 200000,
                           "--dtype", "bf16", *every, *own)
    measured["retrieval"] = call(hawser, "eval", model, "retrieval", "--context", CONTEXT, "--documents", 32, "--seed",
                                 7, "--dtype", "bf16", *every, *own)
    result.write_text(json.dumps(measured) + "\n")


def bucket_ppl(result, begin, end):
    rows = [b for b in result["ppl"]["buckets"] if begin <= b["begin"] and b["end"] <= end]
    return math.exp(sum(b["nll"] for b in rows) / sum(b["tokens"] for b in rows))


def accuracy(result, begin, end):
    rows = [b for b in result["retrieval"]["buckets"] if begin <= b["begin"] < end]
    questions = sum(b["questions"] for b in rows)
    return 100 * sum(b["correct"] for b in rows) / questions if questions else float("nan")


def spread(values, digits):
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


COLUMNS = [("ppl 256-511", lambda r: bucket_ppl(r, 256, 512), 2), ("1024-2047", lambda r: bucket_ppl(r, 1024, 2048), 2),
           ("2048-3071", lambda r: bucket_ppl(r, 2048, 3072), 2),
           ("3072-4095", lambda r: bucket_ppl(r, 3072, 4096), 2), ("retrieval < 512", lambda r: accuracy(r, 0, 512), 1),
           ("512-1023", lambda r: accuracy(r, 512, 1024), 1), ("1024-2047", lambda r: accuracy(r, 1024, 2048), 1),
           ("s a step", lambda r: r.get("step_seconds"), 2), ("peak MiB", lambda r: r.get("peak_mib"), 0)]


def table(work):
    results = {}
    for path in sorted((work / "pose").glob("*/result.json")):
        result = json.loads(path.read_text())
        results.setdefault((result["rope"], result["way"]), []).append(result)
    print("| rope | way | seeds | " + " | ".join(name for name, _, _ in COLUMNS) + " |\n" + "|---" * (3 + len(COLUMNS)) +
          "|")
    for rope in ROPES:
        for way in WAYS:
            rows = results.get((rope, way))
            if rows:
                print(f"| {rope} | {way} | {len(rows)} | " +
                      " | ".join(spread([value(r) for r in rows], digits) for _, value, digits in COLUMNS) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("--way", nargs=3, metavar=("WAY", "ROPE", "SEED"))
    parser.add_argument("--threads", default="0")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        for way in [tuple(arguments.way[:2]) + (int(arguments.way[2]),)] if arguments.way else ways():
            run_way(arguments.work, arguments.hawser, arguments.threads, *way)
    table(arguments.work)


if __name__ == "__main__":
    main()
