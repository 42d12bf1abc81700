#!/usr/bin/env python3
"""Runs lm-evaluation-harness (pip install "lm-eval[hf]") and hawser on the same model, data and questions, and compares
log-likelihoods, answers, accuracies and times.

    scripts/compare_lm_eval.py --model FOLDER --hawser build/release/hawser --data $HAWSER_DATA --limit 100

--data is a folder as hawser eval --data-dir takes it. The harness's own task files are used, with local data in place
of those that it would download; "ruler" is the data of hawser eval ruler gen. Seconds are of the clock, from a loaded
model to the results; those of whole commands, and of CPU, stand behind. --repeat N runs both by turns and prints least
and greatest. --cache DIR keeps what the harness gave: it is not asked again for the same model, questions and
threads."""
import argparse
import hashlib
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

TASKS = ["piqa", "arc_easy", "hellaswag", "winogrande", "lambada_openai", "gsm8k"]
SHOTS = {"gsm8k": 5, "mmlu": 5}
MMLU = ["anatomy", "astronomy"]
RULER = {"length": 1024, "tasks": ["niah_single_1", "niah_multikey_2", "niah_multivalue"], "tokens": 128}


def lines(path):
    return [json.loads(line) for line in open(path, encoding="utf-8") if line.strip()]


def write(path, rows):
    with open(path, "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row) + "\n")


def make_data(task, data, folder):
    """Splits as the harness's task reads them; returns {split: path}."""
    splits = {}
    if task == "piqa":
        labels = open(data / "piqa/valid-labels.lst").read().split()
        splits["validation"] = [dict(doc, label=int(l)) for doc, l in zip(lines(data / "piqa/valid.jsonl"), labels)]
        if (data / "piqa/train.jsonl").exists():
            labels = open(data / "piqa/train-labels.lst").read().split()
            splits["train"] = [dict(doc, label=int(l)) for doc, l in zip(lines(data / "piqa/train.jsonl"), labels)]
    elif task == "hellaswag":
        text = open(data / "hellaswag/hellaswag_val_full.txt", encoding="utf-8").read().split("\n")
        rows = []
        for at in range(0, len(text) - 5, 6):
            label, _, rest = text[at].partition(": ")
            rows.append({"activity_label": label, "ctx_a": rest, "ctx_b": "", "label": text[at + 1],
                         "endings": text[at + 2:at + 6]})
        splits["validation"] = rows
        if (data / "hellaswag/hellaswag_train.jsonl").exists():
            splits["train"] = [{key: str(row[key]) if key == "label" else row[key] for key in rows[0]}
                               for row in lines(data / "hellaswag/hellaswag_train.jsonl")]
    elif task == "winogrande":
        splits["validation"] = [
            {"sentence": "_ " + doc["continuation"], "option1": doc["context_options"][0],
             "option2": doc["context_options"][1], "answer": str(doc["gold"] + 1)}
            for doc in lines(data / "winogrande/winogrande_xl_validation.jsonl")]
        if (data / "winogrande/train_xl.jsonl").exists():
            splits["train"] = [{key: row[key] for key in splits["validation"][0]}
                               for row in lines(data / "winogrande/train_xl.jsonl")]
    elif task == "lambada_openai":
        splits["test"] = [{"text": doc["context"] + " " + doc["continuation"]}
                          for doc in lines(data / "lambada/lambada_openai_test.jsonl")]
    elif task in ("arc_easy", "arc_challenge"):
        for split in ("train", "test"):
            splits[split] = [{"id": d["id"], "question": d["question"], "answerKey": d["answerKey"],
                              "choices": {"text": d["choices"], "label": d["labels"]}}
                             for d in lines(data / f"arc/{task}_{split}.jsonl")]
    elif task == "gsm8k":
        for split in ("train", "test"):
            splits[split] = lines(data / f"gsm8k/{split}.jsonl")
    elif task.startswith("mmlu_"):
        for split in ("dev", "test"):
            splits[split] = [d for d in lines(data / f"mmlu/{split}.jsonl") if d["subject"] == task[5:]]
    paths = {}
    for split, rows in splits.items():
        paths[split] = str(folder / f"{task}_{split}.jsonl")
        write(paths[split], rows)
    return paths


PLACES = {"piqa": "piqa/piqa.yaml", "hellaswag": "hellaswag/hellaswag.yaml", "winogrande": "winogrande/default.yaml",
          "lambada_openai": "lambada/lambada_openai.yaml", "arc_easy": "arc/arc_easy.yaml",
          "arc_challenge": "arc/arc_challenge.yaml", "gsm8k": "gsm8k/gsm8k.yaml"}


def ruler_file(name, args, folder):
    """The samples of hawser eval ruler gen as a task of the harness; one of its filters keeps the text as it is."""
    run([args.hawser, "eval", "ruler", "gen", "--task", name, "--max-seq-length", RULER["length"], "--num-samples",
         args.limit, "--tokenizer", args.model, "--data-dir", args.data, "--out", folder, "--quiet"], dict(os.environ))
    place = folder / f"local_{name}.yaml"
    place.write_text(f"""task: local_{name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder / name}.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{{{input}}}}{{{{answer_prefix}}}}"
doc_to_target: "{{{{outputs[0]}}}}"
generation_kwargs:
  do_sample: false
  temperature: 0.0
  max_gen_toks: {RULER["tokens"]}
  until: []
""")


def task_file(task, data, folder):
    import lm_eval
    home = pathlib.Path(lm_eval.__file__).parent / "tasks"
    own = PLACES.get(task, f"mmlu/default/mmlu_{task[5:]}.yaml")
    paths = make_data(task, data, folder)
    text = [f"include: {home / own}", f"task: local_{task}", "dataset_path: json", "dataset_name: null",
            "dataset_kwargs:", "  data_files:"] + [f"    {split}: {path}" for split, path in paths.items()]
    if task in ("piqa", "hellaswag", "winogrande") and "train" not in paths:
        text.append("training_split: null")
    if task.startswith("arc"):
        text.append("validation_split: null")
    if task.startswith("mmlu"):
        text += ["tag: null", "validation_split: null"]
    place = folder / f"local_{task}.yaml"
    place.write_text("\n".join(text) + "\n")
    return place


def run_harness(args):
    """In a process of its own: prints {"seconds", task: {"results", "samples"}} as JSON to args.result."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    torch.set_num_threads(args.threads)
    manager = TaskManager(include_path=args.folder, include_defaults=False)
    dtype = {"f32": "float32", "bf16": "bfloat16"}[args.dtype]
    model = HFLM(pretrained=args.model, dtype=dtype, batch_size=args.batch, device="cpu")
    start = time.monotonic()
    found = simple_evaluate(
        model=model, tasks=["local_" + t for t in args.tasks], num_fewshot=args.shots, limit=args.limit,
        task_manager=manager, bootstrap_iters=0, log_samples=True, apply_chat_template=args.chat,
        fewshot_as_multiturn=args.chat)
    out = {"seconds": time.monotonic() - start}
    for task in args.tasks:
        out[task] = {"results": found["results"]["local_" + task], "samples": found["samples"]["local_" + task]}
    with open(args.result, "w") as file:
        json.dump(out, file, default=str)


def run(command, env):
    """Seconds of the clock and of CPU."""
    command = [str(word) for word in command]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return {"command": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def harness(args, names, shots, turn, env):
    """{"seconds", "command", "cpu", NAME: {"results", "samples"}}."""
    key = json.dumps([args.model, names, args.limit, shots, args.batch, args.threads, turn] +
                     ([RULER] if args.ruler else []) + ([args.dtype] if args.dtype != "f32" else []) +
                     (["chat"] if args.chat else []))
    held = args.cache and args.cache / f"{names[0]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    if held and held.exists():
        return json.load(open(held))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name in names:
            ruler_file(name, args, folder) if args.ruler else task_file(name, args.data, folder)
        result = folder / "harness.json"
        used = run([sys.executable, __file__, "--harness-run", "--model", args.model, "--limit", args.limit, "--batch",
                    args.batch, "--threads", args.threads, "--folder", folder, "--result", result, "--shots", shots,
                    "--dtype", args.dtype, *(["--chat"] if args.chat else []), "--tasks", *names], env)
        found = {**json.load(open(result)), **used}
    if held:
        held.parent.mkdir(parents=True, exist_ok=True)
        held.with_suffix(".new").write_text(json.dumps(found))
        held.with_suffix(".new").rename(held)
    return found


def hawser(args, task, names, env):
    """The same; samples by task."""
    with tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(temporary) / "out"
        used = run([args.hawser, "eval", args.model, task, "--limit", args.limit, "--data-dir", args.data, "--dtype",
                    args.dtype, "--threads", args.threads, "--output", out, "--quiet",
                    *(["--chat"] if args.chat else [])], env)
        results = json.load(open(next(out.glob("*/results_*.json"))))
        rows = {name: f"ruler_{RULER['length']}_{name}" if args.ruler else name for name in names}
        samples = {name: lines(next(out.glob(f"*/samples_{row}_*.jsonl"))) for name, row in rows.items()}
    return {"seconds": float(results["total_evaluation_time_seconds"]), **used,
            **{name: {"results": results["results"][row], "samples": samples[name]} for name, row in rows.items()}}


def harness_values(sample):
    """Log-likelihoods, or the text that was made."""
    first = sample["resps"][0][0]
    if isinstance(first, str):
        return first
    return [float(r[0][0]) for r in sample["resps"]]


def prompts(sample):
    """What was asked, in order, with what had to follow."""
    asked = sample["arguments"]
    asked = [list(a.values()) for a in asked.values()] if isinstance(asked, dict) else asked
    return [tuple(part for part in request if isinstance(part, str)) for request in asked]


def compare(names, theirs, ours):
    """Greatest difference of a log-likelihood, same choices or texts, same prompts, items."""
    worst, same, asked, items = 0.0, 0, 0, 0
    for name in names:
        mine = {}
        for line in ours[name]["samples"]:
            mine.setdefault(line["doc_id"], line)
        seen = set()
        for sample in theirs[name]["samples"]:
            doc = sample["doc_id"]
            if doc in seen:
                continue
            seen.add(doc)
            a, b = harness_values(sample), harness_values(mine[doc])
            items += 1
            asked += prompts(sample) == prompts(mine[doc])
            if isinstance(a, str):
                same += a == b
                continue
            worst = max(worst, max(abs(x - y) for x, y in zip(a, b)))
            same += max(range(len(a)), key=a.__getitem__) == max(range(len(b)), key=b.__getitem__)
    return worst, same, asked, items


def spread(values):
    low, high = min(values), max(values)
    return f"{low:.1f}" if len(values) == 1 else f"{low:.1f}-{high:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--hawser", default="build/release/hawser")
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("HAWSER_DATA"))
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16, help="batch size of the harness")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--cache", type=pathlib.Path)
    parser.add_argument("--chat", action="store_true", help="prompts as turns of a chat, examples too")
    parser.add_argument("--shots", type=int, help="examples (default: 5 of gsm8k and mmlu)")
    parser.add_argument("--harness-run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.harness_run:
        return run_harness(args)
    env = dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false",
               OMP_NUM_THREADS=str(args.threads))
    print("| task | items | same prompts | greatest difference of a log-likelihood | same choice or text | metric | "
          "harness | hawser | s harness | s hawser | ratio | of commands | of CPU |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for task in args.tasks:
        args.ruler = task == "ruler"
        names = {"mmlu": [f"mmlu_{subject}" for subject in MMLU], "ruler": RULER["tasks"]}.get(task, [task])
        shots = args.shots if args.shots is not None else SHOTS.get(task, 0)
        options = ([f"shots={shots}"] if shots or task in SHOTS else []) + (
            ["subjects=" + "+".join(MMLU)] if task == "mmlu" else [])
        asked = ":".join([task] + ([",".join(options)] if options else []))
        if args.ruler:
            asked = f"ruler:length={RULER['length']},tasks={'+'.join(names)}"
        theirs, ours = [], []
        for turn in range(args.repeat):
            theirs.append(harness(args, names, shots, turn, env))
            ours.append(hawser(args, asked, names, env))
        worst, same, same_prompts, items = compare(names, theirs[0], ours[0])
        took = lambda runs, key: [run[key] for run in runs]
        ratio = {key: min(took(theirs, key)) / min(took(ours, key)) for key in ("seconds", "command", "cpu")}
        metrics = [k for k in theirs[0][names[0]]["results"] if "," in k and "_stderr" not in k]
        for metric in metrics or [""]:
            mean = lambda found: sum(float(found[n]["results"].get(metric, math.nan)) for n in names) / len(names)
            values = [metric, f"{mean(theirs[0]):.4f}", f"{mean(ours[0]):.4f}"] if metric else ["", "", ""]
            cells = [task, items, same_prompts, f"{worst:.1e}" if worst else "", same, *values,
                     spread(took(theirs, "seconds")), spread(took(ours, "seconds")),
                     *(f"{ratio[key]:.1f}" for key in ("seconds", "command", "cpu"))]
            print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
