#!/usr/bin/env python3
"""RULER at 4096 tokens under caches that keep a part of the keys; what is measured already is not measured again.

  ruler.py WORK HAWSER MODEL DATA                   all rows below, one after another
  ruler.py WORK HAWSER MODEL DATA --row ROW...      some of them
  ruler.py WORK HAWSER MODEL DATA --table           the tables and the small JSON of what is there

DATA: a folder as hawser eval --data-dir takes it.

A row is one command: a method at a share of the keys, `--samples` samples of each of four tasks that need no other
text. Its answers go to WORK/ruler/ROW as they come, and a killed run goes on behind them. The question is part of the
prompt, so methods that look at queries see it before they choose.

Squeezed Attention indexes what many prompts share, and here each has a text of its own. So its rows index each prompt
but for its last BEHIND tokens, which hold the question, and ask that prompt alone behind it.
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
BEHIND = 96


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
        found[f"squeezed-{share}"] = (share, "Squeezed", f"index,keep={share / 100}")
    return found


ROWS = rows()


def command(options, row):
    return [options.hawser, "eval", options.model,
            f"ruler:length={LENGTH},tasks={'+'.join(TASKS)},samples={options.samples}", "--dtype", "bf16", "--kv",
            ROWS[row][2], "--data-dir", options.data, "--threads", str(options.threads), "--output",
            str(options.work / "ruler" / row), "--resume"]


def prompts(options):
    """One folder a sample: its line, and an index of all but the end of its prompt."""
    common = ["--data-dir", options.data, "--quiet"]
    made = options.work / "ruler" / "prompts"
    subprocess.run([options.hawser, "eval", "ruler", "gen", "--task", ",".join(TASKS), "--max-seq-length", str(LENGTH),
                    "--num-samples", str(options.samples), "--tokenizer", options.model, "--out", str(made), "--force",
                    *common], check=True, stdout=subprocess.DEVNULL)
    for task in TASKS:
        for i, line in enumerate((made / f"{task}.jsonl").read_text().splitlines()):
            folder = made / f"{task}-{i}"
            folder.mkdir(exist_ok=True)
            (folder / f"{task}.jsonl").write_text(line + "\n")
            sample = json.loads(line)
            text = folder / "prompt.txt"
            text.write_text(sample["input"] + sample["answer_prefix"])
            if not (folder / "x.idx").exists():
                ids = json.loads(subprocess.run([options.hawser, "tokenize", options.model, "--text", text.read_text(),
                                                 "--json"], check=True, capture_output=True, text=True).stdout)["ids"]
                subprocess.run([options.hawser, "index", options.model, "--prefix", str(text), "--max-tokens",
                                str(len(ids) - BEHIND), "--dtype", "bf16", "--threads", str(options.threads), "--quiet",
                                "--out", str(folder / "x.idx")], check=True, stdout=subprocess.DEVNULL)
            yield task, folder


def measure_squeezed(options, row):
    share, folder = ROWS[row][0], options.work / "ruler" / row / "own"
    folder.mkdir(parents=True, exist_ok=True)
    for task, place in list(prompts(options)):
        out = place / f"keep-{share}"
        if not list(out.glob("*/results_*.json")):
            subprocess.run([options.hawser, "eval", options.model, f"ruler:data={place},tasks={task},length={LENGTH}",
                            "--dtype", "bf16", "--index", str(place / "x.idx"), "--keep", str(share / 100), "--data-dir",
                            options.data, "--threads", str(options.threads), "--quiet", "--output", str(out), "--resume"],
                           check=True, stdout=subprocess.DEVNULL)
    for task in TASKS:
        found = sorted((options.work / "ruler" / "prompts").glob(f"{task}-*/keep-{share}/*/samples_ruler_*.jsonl"))
        lines = [json.dumps({"score": json.loads(path.read_text())["score"]}) for path in found]
        (folder / f"samples_ruler_{LENGTH}_{task}_all.jsonl").write_text("\n".join(lines) + "\n")
    (folder.parent / "done").touch()


def measure(options, row):
    folder = options.work / "ruler" / row
    if (folder / "done").exists():
        return
    if row.startswith("squeezed"):
        return measure_squeezed(options, row)
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
