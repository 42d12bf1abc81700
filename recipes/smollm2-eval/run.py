#!/usr/bin/env python3
"""Needles under position schemes and caches, and tasks dense against SepLLM; what is there is not asked again.

  run.py WORK HAWSER MODEL DATA              all runs below, one after another
  run.py WORK HAWSER MODEL DATA --run NAME   those alone whose names begin so
  run.py WORK HAWSER MODEL DATA --table      the tables, and the small JSON, of what is there

DATA: a folder as hawser eval --data-dir takes it. A run is one command. Its answers lie in WORK/NAME as they come, so
that a killed run goes on behind the last one."""
import argparse
import json
import subprocess
import sys
from pathlib import Path

# What a token sees, and where it stands. Up to the model's own context dynamic NTK is the model as it is.
METHODS = {
    "full": [],
    "dynamic": ["--rope", "dynamic:factor=2"],
    "yarn": ["--rope", "yarn:factor=2"],
    "string": ["--rope", "string:shift=2730,window=128"],
    "sink": ["--kv", "sink:4,796"],
    "sep": ["--kv", "sep:3,256"],
    "sep-stream": ["--kv", "sep-stream:4,64,256,800"],
}
RULER = "niah_single_1+vt"
# Name of a group: lengths, depths and trials of passkeys, samples of each RULER task.
LENGTHS = {"short": ((1024, 2048, 4096), "depths=5,trials=1", 4), "8k": ((8192,), "depths=5,trials=1", 2),
           "16k": ((16384,), "depths=3,trials=1", 1)}

# Dense against SepLLM: the paper's window of 256 where prompts are longer, 32 where they are not.
VIEWS = {"dense": [], "sep": ["--kv", "sep:3,256"]}
NARROW = {"dense": [], "sep": ["--kv", "sep:3,32"]}
TASKS = {
    "narrow": (["hellaswag", "piqa", "winogrande", "arc_easy", "arc_challenge", "lambada_openai"], 1000, NARROW),
    "gsm8k_cot": (["gsm8k_cot"], 100, VIEWS),
    "mmlu": (["mmlu:shots=5"], 5, VIEWS),
    "lambada": (["lambada_openai:shots=8"], 200, VIEWS),
    "arc": (["arc_easy:shots=12", "arc_challenge:shots=12"], 200, VIEWS),
}


def runs():
    """{name: (tasks, options)} in the order of asking."""
    found = {}
    for name, (tasks, limit, views) in TASKS.items():
        for view, options in views.items():
            found[f"tasks-{name}-{view}"] = (tasks, ["--limit", str(limit), *options])
    for group, (lengths, passkey, samples) in LENGTHS.items():
        joined = "+".join(map(str, lengths))
        tasks = [f"passkey:lengths={joined},{passkey}", f"ruler:length={joined},tasks={RULER},samples={samples}"]
        for method, options in METHODS.items():
            if group == "16k" and method == "string":
                continue  # it reaches less than twice the context
            if group == "16k":
                options = options + ["--context", "16384"]
            elif method == "dynamic":
                continue
            found[f"needles-{group}-{method}"] = (tasks, options)
    return found


def results(options, name):
    files = sorted((options.work / name).glob("*/results_*.json"))
    return json.loads(files[-1].read_text()) if files else None


def measure(options, name):
    if results(options, name):
        return
    tasks, more = runs()[name]
    command = [options.hawser, "eval", options.model, *tasks, *more, "--dtype", "bf16", "--data-dir", options.data,
               "--threads", options.threads, "--output", options.work / name]
    if (options.work / name).exists():
        command.append("--resume")
    command = [str(word) for word in command]
    print(" ".join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def small(found):
    """{row: {metric: [value, standard error], "samples": N}} and the command."""
    rows = {}
    for row, values in {**found["results"], **found["groups"]}.items():
        kept = {key.removesuffix(",none"): [values[key], values.get(key.replace(",", "_stderr,", 1))]
                for key in values if "," in key and "_stderr" not in key}
        rows[row] = {**kept, "samples": values["sample_len"]}
    return {"command": found["engine"]["command"], "seconds": found["total_evaluation_time_seconds"], "rows": rows}


def print_head(cells):
    print("\n| " + " | ".join(cells) + " |\n" + "|---" * len(cells) + "|")


def shown(value, digits=2):
    number, error = value
    return f"{number:.{digits}f}" + (f" ± {error:.{digits}f}" if isinstance(error, float) else "")


def table(options):
    there = {name: small(found) for name in runs() if (found := results(options, name))}
    Path(options.json).write_text(json.dumps(there, indent=1) + "\n")
    lengths = [length for group in LENGTHS.values() for length in group[0]]
    for title, row_of, metric in (("passkey", "passkey_landmark_{}", "acc"), ("RULER", "ruler_{}", "score")):
        print_head([title, *(f"{length:,}" for length in lengths)])
        for method in METHODS:
            cells = []
            for group, (of_group, _, _) in LENGTHS.items():
                rows = there.get(f"needles-{group}-{method}", {}).get("rows", {})
                cells += [shown(rows[row_of.format(length)][metric]) if rows else "" for length in of_group]
            print(f"| `{method}` | " + " | ".join(cells) + " |")
    for name, (_, _, views) in TASKS.items():
        of_view = {view: there[f"tasks-{name}-{view}"]["rows"] for view in views if f"tasks-{name}-{view}" in there}
        if not of_view:
            continue
        print_head([name, "samples", "metric", *of_view])
        for row, values in next(iter(of_view.values())).items():
            if row.startswith("mmlu_"):  # a subject or category
                continue
            for metric in values:
                if metric != "samples":
                    print(f"| {row} | {values['samples']} | {metric} | " +
                          " | ".join(shown(rows[row][metric], 3) for rows in of_view.values()) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--run", nargs="+", default=[""])
    parser.add_argument("--threads", default="0")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", default="smollm2-eval.json", help="where --table puts the small JSON")
    options = parser.parse_args()
    if options.table:
        return table(options)
    for name in runs():
        if any(name.startswith(run) for run in options.run):
            measure(options, name)


if __name__ == "__main__":
    main()
