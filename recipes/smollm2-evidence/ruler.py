#!/usr/bin/env python3
"""RULER at 4096 tokens under caches that keep a part of the keys; what is measured already is not measured again.

  ruler.py WORK HAWSER MODEL DATA                   all rows below, one after another
  ruler.py WORK HAWSER MODEL DATA --row ROW...      some of them
  ruler.py WORK HAWSER MODEL DATA --table           the tables and the small JSON of what is there

DATA: a folder as hawser eval --data-dir takes it.

A row is one command: a method at a share of the keys, `--samples` samples of each of four tasks that need no other
text. Its answers go to WORK/ruler/ROW as they come, and a killed run goes on behind them. The question is part of the
prompt, so methods that look at queries see it before they choose.
"""
import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

LENGTH = 4096
TASKS = ("niah_single_1", "vt", "fwe", "qa_1")
SHARES = (25, 50, 75)


def forms(share):
    """Caches of at most `share` percent of LENGTH keys. SepLLM has the parts of 4,64,256,800."""
    keys = LENGTH * share // 100
    return {
        "SepLLM": f"sep-stream:4,{keys * 8 // 100},{keys * 32 // 100},{keys}",
        "sinks + window": f"sink:4,{keys - 4}",
        "window": f"window:{keys}",
        "SnapKV": f"snapkv:{share}%",
        "TOVA": f"tova:{share}%",
        "Expected Attention": f"expected:{share}%",
    }


def rows():
    found = {"full": (100, "full", "full")}
    for share in SHARES:
        for name, form in forms(share).items():
            found[f"{form.split(':')[0]}-{share}"] = (share, name, form)
    return found


ROWS = rows()


def command(options, row):
    return [options.hawser, "eval", options.model,
            f"ruler:length={LENGTH},tasks={'+'.join(TASKS)},samples={options.samples}", "--dtype", "bf16", "--kv",
            ROWS[row][2], "--data-dir", options.data, "--threads", str(options.threads), "--output",
            str(options.work / "ruler" / row), "--resume"]


def measure(options, row):
    folder = options.work / "ruler" / row
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(" ".join(command(options, row)), file=sys.stderr, flush=True)
    subprocess.run(command(options, row), check=True, stdout=subprocess.DEVNULL)
    (folder / "done").touch()


def scores(folder):
    """Scores of the samples of each task, those of the newest results."""
    newest = {}
    for path in sorted(folder.glob("*/samples_ruler_*.jsonl"), key=lambda found: found.stat().st_mtime):
        task = next(task for task in TASKS if f"_{task}_" in path.name)
        newest[task] = [json.loads(line)["score"] for line in path.read_text().splitlines()]
    return newest


def error(by_task):
    """Standard error of the mean over tasks, by the spread of samples within each; None where there is one sample."""
    if any(len(values) < 2 for values in by_task.values()):
        return None
    return sum(statistics.variance(v) / len(v) for v in by_task.values()) ** 0.5 / len(by_task)


def table(options):
    print("| keys | method | cache | " + " | ".join(TASKS) + " | mean | standard error |")
    print("|---" * (5 + len(TASKS)) + "|")
    data = []
    for row, (share, name, form) in ROWS.items():
        folder = options.work / "ruler" / row
        if not (folder / "done").exists():
            continue
        by_task = scores(folder)
        spread = error(by_task)
        means = [statistics.mean(by_task[task]) for task in TASKS]
        cells = " | ".join(f"{100 * value:.0f}" for value in means)
        shown = "" if spread is None else f"{100 * spread:.0f}"
        print(f"| {share} % | {name} | `{form}` | {cells} | {100 * statistics.mean(means):.0f} | {shown} |")
        data.append({"keys": share, "method": name, "cache": form, "scores": by_task})
    (options.work / "smollm2-ruler.json").write_text(json.dumps(data) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--row", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        return table(options)
    for row in options.row:
        measure(options, row)


if __name__ == "__main__":
    main()
