#!/usr/bin/env python3
"""Runs lm-evaluation-harness (pip install "lm-eval[hf]") and hawser on the same model, data and questions, and compares
log-likelihoods, answers, accuracies and CPU times.

    scripts/compare_lm_eval.py --model FOLDER --hawser build/release/hawser --data $HAWSER_DATA --limit 100

--data is a folder as hawser eval --data-dir takes it. The harness's own task files are used, with local data in place of
those that it would download. Times are seconds of CPU of each process and its children, loading included; --repeat N
runs both by turns and takes the least of each."""
import argparse
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

TASKS = ["piqa", "arc_easy", "hellaswag", "winogrande", "lambada_openai", "gsm8k"]
SHOTS = {"gsm8k": 5, "mmlu": 5}
OPTIONS = {"gsm8k": ":shots=5", "mmlu": ":shots=5,subjects=anatomy+astronomy"}
MMLU = ["anatomy", "astronomy"]


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
    elif task == "hellaswag":
        text = open(data / "hellaswag/hellaswag_val_full.txt", encoding="utf-8").read().split("\n")
        rows = []
        for at in range(0, len(text) - 5, 6):
            label, _, rest = text[at].partition(": ")
            rows.append({"activity_label": label, "ctx_a": rest, "ctx_b": "", "label": text[at + 1],
                         "endings": text[at + 2:at + 6]})
        splits["validation"] = rows
    elif task == "winogrande":
        splits["validation"] = [
            {"sentence": "_ " + doc["continuation"], "option1": doc["context_options"][0],
             "option2": doc["context_options"][1], "answer": str(doc["gold"] + 1)}
            for doc in lines(data / "winogrande/winogrande_xl_validation.jsonl")]
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


def task_file(task, data, folder):
    import lm_eval
    home = pathlib.Path(lm_eval.__file__).parent / "tasks"
    own = PLACES.get(task, f"mmlu/default/mmlu_{task[5:]}.yaml")
    paths = make_data(task, data, folder)
    text = [f"include: {home / own}", f"task: local_{task}", "dataset_path: json", "dataset_name: null",
            "dataset_kwargs:", "  data_files:"] + [f"    {split}: {path}" for split, path in paths.items()]
    if task in ("piqa", "hellaswag", "winogrande"):
        text.append("training_split: null")
    if task.startswith("arc"):
        text.append("validation_split: null")
    if task.startswith("mmlu"):
        text += ["tag: null", "validation_split: null"]
    place = folder / f"local_{task}.yaml"
    place.write_text("\n".join(text) + "\n")
    return place


def run_harness(args):
    """In a process of its own: prints {task: {"results", "samples"}} as JSON to args.result."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    torch.set_num_threads(args.threads)
    folder = pathlib.Path(args.folder)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    out = {}
    found = simple_evaluate(
        model="hf", model_args=f"pretrained={args.model},dtype=float32", tasks=["local_" + t for t in args.tasks],
        num_fewshot=args.shots, limit=args.limit, batch_size=args.batch, device="cpu", task_manager=manager,
        bootstrap_iters=0, log_samples=True)
    for task in args.tasks:
        out[task] = {"results": found["results"]["local_" + task], "samples": found["samples"]["local_" + task]}
    with open(args.result, "w") as file:
        json.dump(out, file, default=str)


def cpu_seconds(command, env):
    command = [str(word) for word in command]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def harness_values(sample):
    """Log-likelihoods, or the text that was made."""
    first = sample["resps"][0][0]
    if isinstance(first, str):
        return first
    return [float(r[0][0]) for r in sample["resps"]]


def compare(task, names, limit, theirs, ours):
    worst, same, items = 0.0, 0, 0
    texts = 0
    for name in names:
        mine = {}
        for line in lines(ours[name]):
            mine.setdefault(line["doc_id"], line)
        seen = set()
        for sample in theirs[name]["samples"]:
            doc = sample["doc_id"]
            if doc in seen:
                continue
            seen.add(doc)
            other = mine[doc]
            a, b = harness_values(sample), harness_values(other)
            items += 1
            if isinstance(a, str):
                texts += a == b
                continue
            worst = max(worst, max(abs(x - y) for x, y in zip(a, b)))
            same += max(range(len(a)), key=a.__getitem__) == max(range(len(b)), key=b.__getitem__)
    return worst, same, texts, items


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--hawser", default="build/release/hawser")
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("HAWSER_DATA"))
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16, help="batch size of the harness")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--harness-run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    parser.add_argument("--shots", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.harness_run:
        return run_harness(args)
    env = dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false",
               OMP_NUM_THREADS=str(args.threads))
    print("| task | items | greatest difference of a log-likelihood | same choice or text | "
          "metric | harness | hawser | CPU s harness | CPU s hawser | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for task in args.tasks:
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            names = [f"mmlu_{subject}" for subject in MMLU] if task == "mmlu" else [task]
            for name in names:
                task_file(name, args.data, folder)
            shots = SHOTS.get(task, 0)
            result = folder / "harness.json"
            theirs_cpu, ours_cpu = math.inf, math.inf
            for turn in range(args.repeat):
                cpu = cpu_seconds([sys.executable, __file__, "--harness-run", "--model", args.model, "--limit",
                                   args.limit, "--batch", args.batch, "--threads", args.threads, "--folder", folder,
                                   "--result", result, "--shots", shots, "--tasks", *names], env)
                theirs_cpu = min(theirs_cpu, cpu)
                out = folder / f"out{turn}"
                cpu = cpu_seconds([args.hawser, "eval", args.model, task + OPTIONS.get(task, ""), "--limit", args.limit,
                                   "--data-dir", args.data, "--dtype", "f32", "--threads", args.threads, "--output",
                                   out, "--quiet"], env)
                ours_cpu = min(ours_cpu, cpu)
            theirs = json.load(open(result))
            ours = {name: next(out.glob(f"*/samples_{name}_*.jsonl")) for name in names}
            results = json.load(open(next(out.glob("*/results_*.json"))))["results"]
            worst, same, texts, items = compare(task, names, args.limit, theirs, ours)
            for metric in [k for k in theirs[names[0]]["results"] if "," in k and "_stderr" not in k]:
                a = [float(theirs[n]["results"][metric]) for n in names]
                b = [float(results[n].get(metric, math.nan)) for n in names]
                ll = task != "gsm8k"
                print(f"| {task} | {items} | {f'{worst:.1e}' if ll else ''} | {same if ll else texts} | {metric} | "
                      f"{sum(a) / len(a):.4f} | {sum(b) / len(b):.4f} | {theirs_cpu:.1f} | {ours_cpu:.1f} | "
                      f"{theirs_cpu / ours_cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()
