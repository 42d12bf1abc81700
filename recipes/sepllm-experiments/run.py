#!/usr/bin/env python3
"""SepLLM on a small model, in four experiments; what is measured already is not measured again.

  run.py WORK HAWSER training-free     full, window, sinks, SepLLM and FixLLM at equal mean keys
  run.py WORK HAWSER from-scratch      one model trained with each pattern, each measured under all of them
  run.py WORK HAWSER post-training     a full-attention model adapted to SepLLM
  run.py WORK HAWSER stream            four million tokens in constant memory
  run.py WORK HAWSER PART --table      the tables and plots of what is there

WORK is that of ../anchor-experiment: data/ (prepare.py) and base/ (pretrain.toml). Results go to WORK/sepllm, plots to
WORK/sepllm/*.svg. A killed run goes on. --model: the model to measure (default: the built-in one).
"""
import argparse
import json
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CONTEXT = 4096
SINKS = 4
BUDGETS = (0.25, 0.5, 0.75)
SWEEP = (64, 128, 256, 512, 1024)
SCRATCH = {"full": "full", "window": "sinks=4 window=64", "sep-64": "sinks=4 window=64 sep",
           "sep-128": "sinks=4 window=128 sep"}
STREAMS = ("sep-stream:4,64,256,800", "sep-stream:4,32,224,324", "sink:4,796")


class Bench:
    def __init__(self, work, hawser, model):
        self.work, self.hawser, self.model = work, hawser, model
        self.out = work / "sepllm"
        self.out.mkdir(parents=True, exist_ok=True)

    def call(self, *arguments):
        done = subprocess.run([self.hawser, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)

    def once(self, name, *arguments):
        """The JSON of a command, from its file where it has run before."""
        path = self.out / f"{name}.json"
        if not path.exists():
            result = self.call(*arguments, "--json")
            path.write_text(json.dumps(result) + "\n")
        return json.loads(path.read_text())

    def texts(self):
        return sorted((self.work / "data" / "validation").glob("*.txt"), key=lambda path: path.name)

    def ppl(self, name, model, pattern, context=CONTEXT, tokens=200000):
        return self.once(name, "eval", model, "ppl", "--data", *self.texts(), "--context", context, "--attention",
                         pattern, "--max-tokens", tokens, "--dtype", "bf16")

    def retrieval(self, name, model, kv):
        return self.once(name, "eval", model, "retrieval", "--context", CONTEXT, "--documents", 32, "--seed", 7,
                         "--kv", kv, "--dtype", "bf16")

    def plot(self, name, plot):
        path = self.out / f"{name}.plot.json"
        path.write_text(json.dumps(plot))
        subprocess.run([self.hawser, "plot", path, "--out", self.out / f"{name}.svg"], check=True)


def mean_keys(window, sinks, density, context=CONTEXT):
    """Mean keys of a query that sees itself and window - 1 before, the first `sinks`, and separators."""
    total = 0.0
    for seen in range(1, context + 1):
        recent = min(seen, window)
        total += recent + min(sinks, seen - recent) + density * max(0, seen - recent - sinks)
    return total / context


def window_for(budget, sinks, density):
    """The window whose mean keys are `budget` of those of full attention."""
    wanted = budget * (CONTEXT + 1) / 2
    low, high = 1, CONTEXT
    while low < high:
        middle = (low + high + 1) // 2
        if mean_keys(middle, sinks, density) <= wanted:
            low = middle
        else:
            high = middle - 1
    return low


def methods(density):
    """Name, method, pattern, cache policy. A cache of window c + 1 shows what sink:a,c shows."""
    yield "full", "full", "full", "full"
    for budget in BUDGETS:
        share = f"{100 * budget:.0f}"
        window = window_for(budget, 0, 0)
        yield f"window-{share}", "window", f"window={window}", f"window:{window}"
        window = window_for(budget, SINKS, 0)
        yield f"sink-{share}", "sinks", f"sinks={SINKS} window={window}", f"sink:{SINKS},{window - 1}"
        window = window_for(budget, SINKS, density)
        yield f"sep-{share}", "SepLLM", f"sinks={SINKS} window={window} sep", f"sep:{SINKS},{window}"
        every = round(1 / density)  # as many tokens, but any
        window = window_for(budget, SINKS, 1 / every)
        yield (f"fix-{share}", "FixLLM", f"sinks={SINKS} window={window} every={every}",
               f"fix:{SINKS},{window},{every}")
    for window in SWEEP:
        yield f"sep-n{window}", "SepLLM", f"sinks={SINKS} window={window} sep", f"sep:{SINKS},{window}"


def accuracy(retrieval, begin, end):
    rows = [b for b in retrieval["buckets"] if begin <= b["begin"] < end]
    questions = sum(b["questions"] for b in rows)
    return 100 * sum(b["correct"] for b in rows) / questions if questions else float("nan")


def training_free(bench):
    found = bench.once("separators", "inspect", "separators", bench.model, "--data", bench.texts()[-1])
    density = found["data"]["density"]
    rows, lines = [], {}
    for name, method, pattern, kv in methods(density):
        ppl = bench.ppl(f"free-{name}-ppl", bench.model, pattern)
        retrieval = bench.retrieval(f"free-{name}-retrieval", bench.model, kv)
        ratio = 100 * ppl["kv"]["mean"] / ((CONTEXT + 1) / 2)
        rows.append((method, pattern, ratio, ppl["ppl"], retrieval))
        lines.setdefault(method, []).append((ratio, ppl["ppl"]))
    print("| method | pattern | mean keys | ppl | retrieval < 256 | 256-1023 | 1024+ |\n|---|---|---|---|---|---|---|")
    for method, pattern, ratio, ppl, retrieval in rows:
        print(f"| {method} | `{pattern}` | {ratio:.1f} % | {ppl:.2f} | {accuracy(retrieval, 0, 256):.0f} % | "
              f"{accuracy(retrieval, 256, 1024):.0f} % | {accuracy(retrieval, 1024, 1 << 30):.0f} % |")
    full = lines.pop("full")[0][1]
    series = [{"name": method, "x": [x for x, _ in sorted(points)], "y": [y for _, y in sorted(points)]}
              for method, points in lines.items()]
    series.append({"name": "full attention", "x": [0, 100], "y": [full, full], "dashed": True})
    bench.plot("training-free", {"title": "Training-free, by keys kept", "subtitle": f"windows of {CONTEXT} tokens of held-out books",
                                 "x": {"label": "mean keys a query (% of full)", "min": 0, "max": 100},
                                 "y": {"label": "perplexity"}, "series": series})


def scratch_model(bench, name, pattern, tokens):
    out = bench.out / f"scratch-{name}"
    bench.once(f"scratch-{name}-run", "train", HERE / "../anchor-experiment/pretrain.toml", "--data",
               bench.work / "data" / "short", "--out", out, "--resume", "--set",
               f"tokenizer={bench.work / 'data' / 'tokenizer'}", "--set", f"attention={pattern}", "--set",
               f"tokens={tokens}")
    return out


def from_scratch(bench, tokens=3000000):
    print("| trained with | s a step | training loss | " + " | ".join(f"ppl as {name}" for name in SCRATCH) + " |")
    print("|---" * (3 + len(SCRATCH)) + "|")
    by_step, by_time = [], []
    for name, pattern in SCRATCH.items():
        out = scratch_model(bench, name, pattern, tokens)
        curve = [json.loads(line) for line in (out / "metrics.jsonl").open()]
        steps = [later["seconds"] - earlier["seconds"] for earlier, later in zip(curve, curve[1:])]
        step = sorted(steps)[len(steps) // 2] / (curve[1]["step"] - curve[0]["step"])
        ppl = [bench.ppl(f"scratch-{name}-as-{other}", out, seen, context=512)["ppl"] for other, seen in SCRATCH.items()]
        last = sum(row["loss"] for row in curve[-10:]) / 10
        print(f"| {name} | {step:.2f} | {last:.3f} | " + " | ".join(f"{value:.2f}" for value in ppl) + " |")
        losses = [row["loss"] for row in curve]
        by_step.append({"name": name, "x": [row["step"] for row in curve], "y": losses})
        by_time.append({"name": name, "x": [row["step"] * step for row in curve], "y": losses})
    for label, key, series in (("steps", "scratch-steps", by_step), ("seconds (steps times the median step)", "scratch-time", by_time)):
        bench.plot(key, {"title": "From scratch, by pattern", "subtitle": "training loss", "x": {"label": label},
                         "y": {"label": "nats a token"}, "series": series})


def post_training(bench, tokens=1200000, window=64):
    sep = f"sinks={SINKS} window={window} sep"
    before = {name: bench.ppl(f"post-before-as-{name}", bench.model, pattern) for name, pattern in
              (("full", "full"), ("sep", sep))}
    print("| model | ppl as full | ppl as SepLLM | gap |\n|---|---|---|---|")
    gaps = {}

    def row(name, full, as_sep):
        gaps[name] = as_sep["ppl"] - full["ppl"]
        print(f"| {name} | {full['ppl']:.2f} | {as_sep['ppl']:.2f} | {gaps[name]:.2f} |")

    row("before", before["full"], before["sep"])
    for name, pattern in (("full", "full"), ("sep", sep)):
        out = bench.out / f"post-{name}"
        bench.once(f"post-{name}-run", "train", HERE / "post-training.toml", "--set", f"model={bench.model}", "--data",
                   bench.work / "data" / "long", "--out", out, "--resume", "--set", f"attention={pattern}", "--set",
                   f"tokens={tokens}")
        row(f"{tokens / 1e6:g}M tokens of {name} more", bench.ppl(f"post-{name}-as-full", out, "full"),
            bench.ppl(f"post-{name}-as-sep", out, sep))
    adapted = json.loads((bench.out / "post-sep-as-sep.json").read_text())["ppl"]
    control = json.loads((bench.out / "post-full-as-full.json").read_text())["ppl"]
    print(f"\nclosed: {100 * (1 - (adapted - control) / gaps['before']):.0f} % of the gap (against full attention trained "
          "for the same tokens)")


def stream(bench):
    print("| cache | ppl | mean slots | peak | time a token, first and last 100K | resident after 400K, at the end |")
    print("|---|---|---|---|---|---|")
    series = []
    books = sorted((bench.work / "books").glob("*.txt"), key=lambda path: path.name)
    for kv in STREAMS:
        name = "stream-" + kv.replace(":", "-").replace(",", "-")
        run = bench.once(name, "eval", bench.model, "ppl", "--protocol", "streaming", "--kv", kv, "--data", *books,
                         "--max-tokens", 4000000, "--stretch", 100000)
        rows = [row for row in run["windows"] if row["tokens"] == 100000]
        early = [row for row in rows if row["end"] <= 400000][-1]
        series.append({"name": kv, "x": [row["end"] / 1e6 for row in rows], "y": [row["ppl"] for row in rows]})
        print(f"| `{kv}` | {run['ppl']:.2f} | {run['kv']['mean']:.1f} | {run['kv']['peak']} | "
              f"{10 * rows[0]['seconds']:.0f}, {10 * rows[-1]['seconds']:.0f} us | "
              f"{early['rss_bytes'] / 2**20:.1f}, {rows[-1]['rss_bytes'] / 2**20:.1f} MiB |")
    bench.plot("stream", {"title": "Perplexity of each 100K tokens of a stream", "x": {"label": "million tokens read"},
                          "y": {"label": "perplexity", "min": 0}, "series": series})


PARTS = {"training-free": training_free, "from-scratch": from_scratch, "post-training": post_training, "stream": stream}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("part", choices=PARTS, nargs="+")
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()
    for part in arguments.part:
        PARTS[part](Bench(arguments.work, arguments.hawser, arguments.model))


if __name__ == "__main__":
    main()
