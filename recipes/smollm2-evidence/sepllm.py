#!/usr/bin/env python3
"""What SepLLM's choice of keys costs a real model without training; what is measured already is not measured again.

  sepllm.py WORK HAWSER MODEL BOOKS            all rows below, one after another
  sepllm.py WORK HAWSER MODEL BOOKS --row ROW  one of them
  sepllm.py WORK HAWSER MODEL BOOKS --table    the tables, plots and small JSON of what is there

BOOKS: a folder of PG-19 books, read from their middle on. A row is one command. Its JSON goes to WORK/sepllm/ROW.json,
and each method of a comparison to WORK/sepllm/compare/methods.jsonl as it is done. A killed run goes on behind it.
"""
import json
import math
import random
import re
import subprocess
import sys

import row_command

NAMES = ("10146", "10321", "10356", "9931", "15562", "2544", "26239", "28444")
CONTEXT = 4096
CHARACTERS = 5.5  # of an excerpt for each token wanted
# Ids of SmolLM2's vocabulary: . ? !    those and , ; :    and all of these with a space, a tab and a newline
STOPS = "30+47+17"
MARKS = "30+28+47+17+43+42"
NINE = "30+28+47+17+43+42+216+197+198"
METHODS = ("window=?", "sinks=4 window=?", "sinks=4 window=? every=6", "sinks=4 window=? sep", f"sinks=4 window=? sep={STOPS}",
           f"sinks=4 window=? sep={NINE}", f"sinks=4 window=? sep={MARKS}")
# Layers 3 to 9 spread half of their attention over far keys (`attention`); here they see all.
WIDE = "full-layers=3+4+5+6+7+8+9"
WIDE_METHODS = (f"sinks=4 window=? {WIDE}", f"sinks=4 window=? sep {WIDE}")
UNWRAPPED = (METHODS[1], METHODS[3], METHODS[4])

# Streams of one mean size, 562 keys: with separators, and with 64 neighbours more in their place (<|endoftext|>, id 0,
# never comes); then where keys stand.
STREAM = 8192
STREAMS = ("sep-stream:4,64,256,800", "sep-stream:4,1,319,800,sep=0", "sep-stream:4,64,256,800,positions=cachelen",
           "sep-stream:4,64,256,800,positions=absolute", f"sep-stream:4,64,256,800,sep={STOPS}")
# One stream of 200,000 tokens: as many keys in the mean, 562, by sinks and window too.
LONG, LONG_NAME = 200000, "30312"
LONG_STREAMS = (STREAMS[0], "sink:4,558", STREAMS[1], STREAMS[4])


def excerpt(text, tokens, unwrap):
    """From the first paragraph of the second half on; `unwrap`: a paragraph becomes one line."""
    begin = text.index("\n\n", len(text) // 2)
    text = text[begin:].lstrip()
    if unwrap:
        text = re.sub(r"(?<!\n)\n *(?!\n)", " ", text)
    return text[: int(CHARACTERS * tokens)]


def texts(options, names, tokens, folder, unwrap=False):
    folder = options.work / "sepllm" / folder
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.txt" for name in names]
    for path in paths:
        if not path.exists():
            path.write_text(excerpt((options.books / path.name).read_text(encoding="utf-8"), tokens, unwrap), encoding="utf-8")
    return paths


def compare(options, folder, kept, methods, paths, context=CONTEXT, stretch=CONTEXT):
    sizes = ["--kept", kept] if kept else []
    return ["eval", options.model, "compare", "--data", *paths, "--context", context, "--dtype", "bf16", *sizes, "--stretch",
            stretch, "--methods", "; ".join(methods), "--output", options.work / "sepllm" / folder, "--resume"]


def books(options):
    return texts(options, NAMES, CONTEXT, "texts")


def unwrapped(options):
    return compare(options, "unwrapped", 512, ("full",) + UNWRAPPED, texts(options, NAMES[:4], CONTEXT, "unwrapped-texts", True))


def stream(options):
    return compare(options, "stream", 0, STREAMS, texts(options, NAMES[:2], STREAM, "stream-texts"), STREAM, 1024)


def long_stream(options):
    paths = texts(options, (LONG_NAME,), LONG, "long-texts")
    return compare(options, "long", 0, LONG_STREAMS, paths, LONG, 4096)


def attention(options):
    return ["inspect", "separators", options.model, "--data", *books(options)[:4], "--attention",
            "--window", 256, "--tokens", 2048, "--sequences", 4, "--svg", options.work / "sepllm" / "attention.svg"]


ROWS = {
    "attention": attention,
    "kept-25": lambda options: compare(options, "compare", 512, ("full",) + METHODS, books(options)),
    "kept-50": lambda options: compare(options, "half", 1024, METHODS[1:5], books(options)[:4]),
    "unwrapped-25": unwrapped,
    "wide-50": lambda options: compare(options, "wide", 1024, WIDE_METHODS, books(options)[:2]),
    "stream": stream,
    "stream-200k": long_stream,
    "kept-75": lambda options: compare(options, "half", 1536, METHODS[1:5], books(options)[:4]),
}


def measure(options, row):
    path = options.work / "sepllm" / f"{row}.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [options.hawser, *ROWS[row](options), "--threads", options.threads, "--json"]
    print(" ".join(map(str, command)), file=sys.stderr, flush=True)
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    json.loads(done.stdout)
    path.with_suffix(".part").write_text(done.stdout)
    path.with_suffix(".part").rename(path)


def methods(folder):
    """Runs of a comparison by name."""
    with (folder / "methods.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    return {row["name"]: row for row in rows if "stretches" in row}


def interval(base, other, draws=10000, seed=1):
    """Perplexity of `other` over that of `base`, and where 95 of 100 draws of stretches fall."""
    pairs = [(a[0][0], b[0][1] - a[0][1]) for a, b in zip(base["stretches"], other["stretches"])]
    generator = random.Random(seed)
    ratios = []
    for _ in range(draws):
        drawn = generator.choices(pairs, k=len(pairs))
        ratios.append(math.exp(sum(nats for _, nats in drawn) / sum(tokens for tokens, _ in drawn)))
    ratios.sort()
    ratio = math.exp(sum(nats for _, nats in pairs) / sum(tokens for tokens, _ in pairs))
    return ratio, ratios[int(0.025 * draws)], ratios[int(0.975 * draws)]


def label(name):
    """What a method is called in tables and plots."""
    for form, text in ((f"sep={STOPS}", "`.?!`"), (f"sep={NINE}", "nine"), (f"sep={MARKS}", "six marks")):
        if form in name:
            return f"SepLLM, {text}"
    if WIDE in name:
        return ("SepLLM, text rule" if " sep " in name else "sinks + window") + ", layers 3-9 full"
    if name.endswith(" sep"):
        return "SepLLM, text rule"
    return "FixLLM" if "every=" in name else "sinks + window" if "sinks=" in name else "window" if "window=" in name else "full"


def table(options):
    folder = options.work / "sepllm"
    runs = methods(folder / "compare")
    full = runs["full"]
    kept = {}
    for part in ("compare", "half", "wide"):
        for name, run in (methods(folder / part) if (folder / part).exists() else {}).items():
            if name == "full":
                continue
            kept.setdefault(round(100 * run["kept"] / full["kept"]), {})[name] = run
    print(f"full: {full['ppl']:.2f}, {full['kept']:.0f} keys, {full['seconds']:.0f} s")
    print("\n| keys | method | pattern | books | ppl | times full | times sinks + window | s |\n|---|---|---|---|---|---|---|---|")
    series = {}
    for share, group in sorted(kept.items()):
        sinks = next((run for name, run in group.items() if label(name) == "sinks + window"), None)
        for name, run in group.items():
            over_full, low, high = interval(full, run)
            cell = ""
            if sinks is not None and sinks is not run:
                cell = "{:.3f} ({:.3f}-{:.3f})".format(*interval(sinks, run))
            print(f"| {share} % | {label(name)} | `{name}` | {len(run['stretches'])} | {run['ppl']:.2f} | "
                  f"{over_full:.3f} ({low:.3f}-{high:.3f}) | {cell} | {run['seconds']:.0f} |")
            series.setdefault(label(name).replace("`", ""), []).append((share, over_full))
    plot(options, series, full)
    if (folder / "unwrapped" / "methods.jsonl").exists():
        lines = methods(folder / "unwrapped")
        print("\n| paragraphs in one line | pattern | ppl | times full | times sinks + window |\n|---|---|---|---|---|")
        sinks = next((run for name, run in lines.items() if label(name) == "sinks + window"), lines["full"])
        for name, run in lines.items():
            cells = ["{:.3f} ({:.3f}-{:.3f})".format(*interval(base, run)) for base in (lines["full"], sinks)]
            print(f"| {label(name)} | `{name}` | {run['ppl']:.2f} | {cells[0]} | {cells[1]} |")
    for part in ("stream", "long"):
        if not (folder / part / "methods.jsonl").exists():
            continue
        streams = methods(folder / part)
        first = next(iter(streams.values()))
        print("\n| cache | mean keys | ppl | times the first | s |\n|---|---|---|---|---|")
        for name, run in streams.items():
            ratio, low, high = interval(first, run)
            print(f"| `{name}` | {run['kept']:.0f} | {run['ppl']:.2f} | {ratio:.3f} ({low:.3f}-{high:.3f}) | {run['seconds']:.0f} |")
    data = {}
    for part in ("compare", "half", "wide", "unwrapped", "stream", "long"):
        if (folder / part / "methods.jsonl").exists():
            data[part] = [{key: run[key] for key in ("name", "kept", "ppl", "tokens", "seconds")} |
                          {"stretches": [[s[0][0], round(s[0][1], 2)] for s in run["stretches"]]}
                          for run in methods(folder / part).values()]
    found = folder / "attention.json"
    if found.exists():
        data["attention"] = rounded(json.loads(found.read_text())["attention"])
        layers(data["attention"])
    (options.work / "smollm2-sepllm.json").write_text(json.dumps(data) + "\n")


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return {key: rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


def layers(found):
    print("\n| layer | first token | separators | times | far | far separators | times |\n|---|---|---|---|---|---|---|")
    rows = [(str(i), layer) for i, layer in enumerate(found["by_layer"])] + [("mean", found["mean"])]
    for name, layer in rows:
        every, far = layer["all"], layer["far"]
        print(f"| {name} | {100 * every['first']:.1f} % | {100 * every['separators']:.1f} % | {every['times']:.2f} | "
              f"{100 * (far['separators'] + far['plain']):.1f} % | {100 * far['separators']:.1f} % | {far['times']:.2f} |")
    print("\n| separator | keys | attention | times | far times |\n|---|---|---|---|---|")
    for row in found["by_separator"][:14]:
        print(f"| `{row['token']}` | {100 * row['keys']:.2f} % | {100 * row['mass']:.2f} % | {row['times'] or 0:.2f} | "
              f"{row['far_times'] or 0:.2f} |")


def plot(options, series, full):
    lines = [{"name": name, "x": [x for x, _ in sorted(points)], "y": [y for _, y in sorted(points)]}
             for name, points in series.items() if name != "window" and "layers" not in name]
    lines.append({"name": "full attention", "x": [0, 100], "y": [1, 1], "dashed": True})
    source = options.work / "smollm2-sepllm.plot.json"
    source.write_text(json.dumps({
        "title": "SmolLM2-135M-Instruct, training-free, by keys kept",
        "subtitle": f"windows of {CONTEXT} tokens of PG-19",
        "x": {"label": "mean keys a query (% of full)", "min": 0, "max": 100}, "y": {"label": "perplexity, times that of full attention"},
        "series": lines}))
    subprocess.run([options.hawser, "plot", source, "--out", options.work / "smollm2-sepllm.svg"], check=True)


if __name__ == "__main__":
    row_command.main(__doc__, ROWS, measure, table)
