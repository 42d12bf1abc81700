#!/usr/bin/env python3
"""Does LongCE raise what far copies gain? The model of focus.py is taken from 256 to 1024 tokens by cross-entropy and
by LongCE, on the same documents, three seeds each.

  longce.py WORK HAWSER BOOKS            all runs; what is done is not done again
  longce.py WORK HAWSER BOOKS --table    the table of what is there

WORK is the folder of focus.py, whose base/ is made first where it is not there. A killed run goes on after its last
checkpoint.
"""
import json
import random
import statistics
from pathlib import Path

import focus
import text

HERE = Path(__file__).parent
CONTEXT, NEAR = 1024, 128  # K and delta: the last 128 to 255 tokens are near
OBJECTIVES = {"ce": "ce", "longce": f"longce:k={NEAR},delta={NEAR}"}
KINDS = ("hidden", "recurring")
SEEDS = (1, 2, 3)
DOCUMENTS, HELD_OUT = 3000, 150  # held out: of each kind


def document(writer, kind, tokenizer):
    """A text that ends in a copy, and its ids; where the copy begins and ends, how far back its last original begins."""
    before, behind = (writer.hidden if kind == "hidden" else writer.recurring)(writer.rng.randint(350, 650))
    encoded = tokenizer.encode(before)
    ids, own = encoded.ids, tokenizer.encode(behind, add_special_tokens=False).ids
    written = behind.rstrip(".") if kind == "hidden" else behind
    at = before.rfind(written.strip())
    original = next((i for i, (_, end) in enumerate(encoded.offsets) if end > at), len(ids))
    end = len(own) - (1 if kind == "hidden" else 0)  # without the full stop
    return before + behind, ids + own, len(ids), len(ids) + end, len(ids) - original


def prepare(work, folder):
    out = work / "copies"
    if (out / "held-out.json").exists():
        return
    from tokenizers import Tokenizer

    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(focus.BUILTIN / "tokenizer.json"))
    avoid = text.asked_for(focus.TRIALS)
    writer = text.Writer(random.Random(10), text.read_books(folder, 4, 12), avoid)
    text.write_lines(out / "train.jsonl", ({"text": document(writer, writer.rng.choice(KINDS), tokenizer)[0]}
                                           for _ in range(DOCUMENTS)))
    writer = text.Writer(random.Random(11), text.read_books(folder, 12, 16), avoid)
    lines, places = [], []
    for kind in KINDS:
        while len(places) < HELD_OUT * (1 + KINDS.index(kind)):
            whole, ids, begin, end, back = document(writer, kind, tokenizer)
            if len(ids) <= CONTEXT and back >= 2 * NEAR and tokenizer.encode(whole).ids == ids:
                lines.append({"text": whole})
                # What comes again is to be found first: its first three tokens are no copies yet.
                places.append([kind, len(ids), begin + (3 if kind == "recurring" else 0), end])
    text.write_lines(out / "held-out.jsonl", lines)
    (out / "held-out.json").write_text(json.dumps(places) + "\n")


def far_copies(work, nats):
    """Mean nats of tokens copied from beyond the near ones, of each kind, and of all else; copies as likely as not."""
    at, copied, whole, rest = 0, {"hidden": [], "recurring": []}, [], []
    for kind, size, begin, end in json.loads((work / "copies" / "held-out.json").read_text()):
        own = nats[at:at + size - 1]  # the first token of a document is not predicted
        copied[kind] += own[begin - 1:end - 1]
        if kind == "hidden":
            whole.append(sum(own[begin - 1:end - 1]) < 0.6931)
        rest += own[:begin - 1] + own[end - 1:]
        at += size - 1
    assert at == len(nats), f"{len(nats)} values for {at} tokens"
    return {"nats_number": statistics.mean(copied["hidden"]), "nats_again": statistics.mean(copied["recurring"]),
            "numbers": statistics.mean(whole), "nats_else": statistics.mean(rest)}


def score(work, hawser, threads, model, flags):
    nll = work / "copies" / "nats.txt"
    focus.call(hawser, "eval", model, "ppl", "--data", work / "copies" / "held-out.jsonl", "--context", CONTEXT, "--json",
               "--quiet", "--threads", threads, "--nll", nll, *flags)
    row = far_copies(work, [float(line) for line in nll.open()])
    for length in (512, CONTEXT):
        task = f"passkey:variant=focusllm,lengths={length},depths={focus.DEPTHS},trials={focus.TRIALS}"
        found = focus.call(hawser, "eval", model, task, "--context", CONTEXT, "--json", "--quiet", "--threads", threads, *flags)
        row[f"passkeys_{length}"] = found["results"]["passkey"]["acc,none"]
    return row


def measure(work, hawser, threads, objective, seed):
    run = work / "copies" / f"{objective}_{seed}"
    if (run / "result.json").exists():
        return
    if not (run / "hawser.json").exists():
        focus.call(hawser, "extend", work / "base", "--recipe", HERE / "copy.toml", "--data",
                   work / "copies" / "train.jsonl", "--out", run, "--resume", "--json", "--threads", threads, "--set",
                   f"seed={seed}", "--set", f"objective={OBJECTIVES[objective]}")
    last = [json.loads(line) for line in (run / "metrics.jsonl").open()][-1]
    row = {"objective": objective, "seed": seed, **score(work, hawser, threads, run, []),
           "last": {key: last[key] for key in ("tokens", "cross_entropy", "gain_mean", "gain_at_most") if key in last}}
    (run / "result.json").write_text(json.dumps(row) + "\n")


COLUMNS = (("nats a token of far numbers", "nats_number", 1, 3), ("of far words", "nats_again", 1, 3),
           ("numbers, p > 1/2", "numbers", 100, 1), ("passkeys at 512", "passkeys_512", 100, 0),
           ("at 1,024", "passkeys_1024", 100, 0), ("nats elsewhere", "nats_else", 1, 3))


def table(work):
    print("| trained by | seeds | " + " | ".join(column[0] for column in COLUMNS) + " |\n" +
          "|---" * (2 + len(COLUMNS)) + "|")
    found = []
    for objective in ("none", *OBJECTIVES):
        paths = sorted((work / "copies").glob(f"{objective}_*/result.json"))
        rows = [json.loads(path.read_text()) for path in paths]
        cells = []
        for _, key, factor, digits in COLUMNS if rows else ():
            values = [factor * row[key] for row in rows]
            error = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{error}")
        print(f"| {objective} | {len(rows)} | " + " | ".join(cells) + " |")
        found += rows
    (work / "copies" / "longce-copies.json").write_text(json.dumps(found, indent=1) + "\n")


def main():
    options = focus.read_options(__doc__)
    if not options.table:
        focus.prepare(options.work, options.books)
        focus.train_base(options.work, options.hawser, options.threads)
        prepare(options.work, options.books)
        none = options.work / "copies" / "none_0"
        if not (none / "result.json").exists():
            none.mkdir(exist_ok=True)
            row = score(options.work, options.hawser, options.threads, options.work / "base", ["--rope", "ntk:factor=4"])
            (none / "result.json").write_text(json.dumps({"objective": "none", **row}) + "\n")
        for seed in SEEDS:
            for objective in OBJECTIVES:
                measure(options.work, options.hawser, options.threads, objective, seed)
    table(options.work)


if __name__ == "__main__":
    main()
