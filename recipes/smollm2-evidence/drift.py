#!/usr/bin/env python3
"""What the rounding of rotary embeddings does to a real model; what is measured already is not measured again.

  drift.py WORK HAWSER MODEL BOOKS            all rows below, one after another
  drift.py WORK HAWSER MODEL BOOKS --row ROW  one of them
  drift.py WORK HAWSER MODEL BOOKS --table    the tables, the plot and the small JSON of what is there

BOOKS: a folder of PG-19 books. Four of them are read from their middle on. A row is one command; its JSON goes to
WORK/drift/ROW.json. A killed run goes on with the next row.
"""
import json
import subprocess
import sys

import row_command

NAMES = ("10146", "10321", "10356", "9931")
CHARACTERS = 5.5  # of an excerpt for each token wanted, so that it has one sequence and not two
FORMATS = "exact hf-f32 f16-qk bf16-qk all-bf16 reference".split()
# Row: tokens, books, what stands in front of an excerpt, further arguments.
ROWS = {
    "bf16-1024": (1024, 2, "", "--deltas 0 --pipeline bf16-qk --dtype bf16 --random-weights"),
    "bos-1024": (1024, 2, "", "--deltas 0 --pipeline bf16-qk --dtype bf16 --bos on"),
    "newline-1024": (1024, 2, "\n", "--deltas 0 --pipeline bf16-qk --dtype bf16"),
    "formats-1024": (1024, 1, "", "--deltas 0 --pipeline " + " ".join(FORMATS)),
    "shifts-1024": (1024, 1, "", "--deltas 0,15,17,50,500,2000 --pipeline bf16-qk --dtype bf16"),
    "bf16-2048": (2048, 2, "", "--deltas 0 --pipeline bf16-qk --dtype bf16"),
    "bf16-4096": (4096, 1, "", "--deltas 0 --pipeline bf16-qk --dtype bf16"),
    "bf16-8192": (8192, 1, "", "--deltas 0 --pipeline bf16-qk --dtype bf16"),
    "bf16-16384": (16384, 1, "", "--deltas 0 --pipeline bf16-qk --dtype bf16"),
}


def excerpt(book, tokens, front):
    """Text from the first paragraph of the second half of a book on."""
    text = book.read_text(encoding="utf-8")
    begin = text.index("\n\n", len(text) // 2)
    return front + text[begin:].lstrip()[: int(CHARACTERS * tokens)]


def measure(options, row):
    path = options.work / "drift" / f"{row}.json"
    if path.exists():
        return
    tokens, books, front, arguments = ROWS[row]
    folder = options.work / "drift" / f"{row}-texts"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES[:books]:
        (folder / f"{name}.txt").write_text(excerpt(options.books / f"{name}.txt", tokens, front), encoding="utf-8")
    command = [options.hawser, "drift", options.model, "--data", folder, "--tokens", tokens, "--sequences", books,
               *arguments.split(), "--threads", options.threads, "--json"]
    print(" ".join(map(str, command)), file=sys.stderr, flush=True)
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    json.loads(done.stdout)
    path.with_suffix(".part").write_text(done.stdout)
    path.with_suffix(".part").rename(path)


def shown(run):
    """The shift that tables by layer are about: 0 against 16."""
    return next(shift for shift in run["shifts"] if shift["delta"] == 0)


def first_unweighted(shift):
    """The first token's share of sum over columns of |C - C'|, without the weights n_j that lift the last columns."""
    tokens = len(shift["tokens_abs"])
    columns = [value * (tokens - j) for j, value in enumerate(shift["tokens_abs"])]
    return columns[0] / sum(columns)


def middle_column(shift):
    """Median of the columns of the middle half."""
    tokens = shift["tokens_abs"]
    middle = sorted(tokens[len(tokens) // 4: 3 * len(tokens) // 4])
    return middle[len(middle) // 2]


def digits(value):
    """A number, or all numbers of a value, with four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list):
        return [digits(item) for item in value]
    if isinstance(value, dict):
        return {key: digits(item) for key, item in value.items()}
    return value


def small(run):
    """What docs/data keeps of a run: columns in eighths of octaves, heads of the shown shift alone."""
    run = json.loads(json.dumps(run))
    for shift in run["shifts"]:
        tokens = shift.pop("tokens_abs", None)
        shift.pop("tokens", None)
        heads = shift.pop("by_head")
        if tokens is None:
            continue
        shift["by_head_d_abs"] = [head["d_abs"] for head in heads]
        shift["by_head_first_abs"] = [head["first_abs"] for head in heads]
        binned, begin = [], 0
        while begin < len(tokens):
            end = min(len(tokens), max(begin + 1, begin + begin // 8))
            binned.append([begin, sum(tokens[begin:end]) / (end - begin)])
            begin = end
        shift["columns"] = binned
    return digits(run)


def table(options):
    results = {}
    for row in ROWS:
        path = options.work / "drift" / f"{row}.json"
        if path.exists():
            results[row] = json.loads(path.read_text())
    print("| row | run | tokens | sequences | D | D_abs | D_l1 | first of D_abs | of D_l1 | unweighted | first column / middle | "
          "logit of the first key | s |\n|---" + "|---" * 12 + "|")
    for row, result in results.items():
        for run in result["runs"]:
            s = shown(run)
            print(f"| {row} | {run['name']} | {run['tokens']} | {run['sequences']} | {s['d']:.3f} ± {s['spread']['d']:.3f} | "
                  f"{s['d_abs']:.3g} ± {s['spread']['d_abs']:.2g} | {s['d_l1']:.3g} | {100 * s['first_abs'] / s['d_abs']:.2f} % | "
                  f"{100 * s['first_l1'] / s['d_l1']:.1f} % | {100 * first_unweighted(s):.1f} % | "
                  f"{s['tokens_abs'][0] / middle_column(s):.0f} | {s['logits'][-1]['abs']:.3g} | {run['seconds']:.0f} |")
    for row, result in results.items():
        for run in result["runs"]:
            if len(run["shifts"]) > 1:
                print(f"\n{row}, {run['name']}, D_abs by shift: " +
                      ", ".join(f"{shift['delta']}: {shift['d_abs']:.3g}" for shift in run["shifts"]))
            s = shown(run)
            print(f"\n{row}, {run['name']}, by layer D_abs (first of D_abs, of D_l1): " +
                  ", ".join(f"{i}: {layer['d_abs']:.3f} ({100 * layer['first_abs'] / layer['d_abs']:.0f}, "
                            f"{100 * layer['first_l1'] / layer['d_l1']:.0f})" for i, layer in enumerate(s["by_layer"])))
            print("logit of the first key by T: " + ", ".join(f"{l['length']}: {l['abs']:.3g}" for l in s["logits"]))
    data = {row: {"rope": result["rope"], "runs": [small(run) for run in result["runs"]]} for row, result in results.items()}
    (options.work / "smollm2-drift.json").write_text(json.dumps(data) + "\n")
    plot(options, results)


def plot(options, results):
    """Columns by key token, and the first token's share by layer."""
    columns, layers = [], []
    for row in ("bf16-1024", "bf16-2048", "bf16-4096", "bf16-8192", "bf16-16384", "bos-1024"):
        for run in results.get(row, {}).get("runs", []):
            name = f"{run['tokens']}" + (" BOS" if row.startswith("bos") else " random weights" if "random" in run["name"] else "")
            s = shown(run)
            small_run = small(run)["shifts"]
            binned = next(shift for shift in small_run if "columns" in shift)["columns"]
            columns.append({"name": name, "x": [begin + 1 for begin, _ in binned], "y": [value for _, value in binned],
                            "dashed": "random" in name})
            layers.append({"name": name, "x": list(range(run["layers"])), "dashed": "random" in name,
                           "y": [100 * layer["first_l1"] / layer["d_l1"] for layer in s["by_layer"]]})
    for name, title, x, y, series in (
            ("columns", "Drift by key token, shift 0 against 16", {"label": "key token, counted from 1", "scale": "log2"},
             {"label": "n |C - C'|", "scale": "log10"}, columns),
            ("layers", "First token's share of D_l1", {"label": "layer"}, {"label": "share (%)", "min": 0}, layers)):
        source = options.work / f"smollm2-drift-{name}.plot.json"
        source.write_text(json.dumps({"title": title, "subtitle": "SmolLM2-135M-Instruct, bf16", "x": x, "y": y, "series": series}))
        subprocess.run([options.hawser, "plot", source, "--out", options.work / f"smollm2-drift-{name}.svg"], check=True)


if __name__ == "__main__":
    row_command.main(__doc__, ROWS, measure, table)
