#!/usr/bin/env python3
"""Trains, kills, resumes, evaluates and streams for hours, with choices from a seed, and compares bits.

Each round makes up a recipe and runs it once undisturbed. Then the same recipe runs again and again under a random
disturbance (a signal at a random time, or a fault of one file call, see hawser/base/file_fault.h), with another number
of threads each time, until one run gets through. Weights, losses and the files of the folder must be the same. Then
the model is measured and streamed, whole and in pieces through saved states, with one and two threads.

    scripts/soak.py --hawser build/release/hawser --hours 1 --seed 1
"""
import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

WORDS = "sea ship moon harbour rope anchor wind sail deck storm captain star shore wave net crew".split()
POLICIES = ["full", "window:24", "sink:2,24", "sep:2,12", "sep-stream:2,8,16,40", "sink:2,24,dtype=q8_0"]
FAULTS = ["kill", "tear", "fail", "full", "short"]


class Finding(Exception):
    pass


class Soak:
    def __init__(self, binary: str, seed: int, folder: pathlib.Path, threads: int):
        self.binary, self.rng, self.folder, self.most_threads = binary, random.Random(seed), folder, threads
        self.counts: collections.Counter = collections.Counter()

    def threads(self) -> list:
        return ["--threads", str(self.rng.randint(1, self.most_threads)), "--quiet"]

    def start(self, *args, fault: str = "") -> subprocess.Popen:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "GOMP_SPINCOUNT": "1000"}
        if fault:
            env["HAWSER_FILE_FAULT"] = fault
        return subprocess.Popen([self.binary, *map(str, args)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *args) -> str:
        process = self.start(*args)
        out, err = process.communicate(timeout=900)
        if process.returncode != 0:
            raise Finding(f"exit code {process.returncode} of {' '.join(map(str, args))}: {err.decode()[-600:]}")
        return out.decode()

    def write_data(self) -> None:
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        for number in range(self.rng.randint(3, 9)):
            words = [self.rng.choice(WORDS) + self.rng.choice(["", "", ",", "."])
                     for _ in range(self.rng.randint(20, 400))]
            (data / f"{number}.txt").write_text(" ".join(words) + "\n")

    def write_recipe(self) -> None:
        rng, continued = self.rng, self.rng.random() < 0.3
        steps = rng.randint(2, 12)
        keys = {
            "data": "data", "context": rng.choice([16, 32, 48, 64]), "steps": steps,
            "attention": rng.choice(["full", "intra", "anchor", "multi-bos", "anchor-reset", "intra-reset"]),
            "checkpoint_every": rng.choice([0, 1, 2, 3]), "keep": rng.randint(1, 3), "warmup": rng.randint(0, 1),
            "lr": rng.choice([1e-3, 3e-3]), "seed": rng.randint(0, 1000), "dtype": rng.choice(["f32", "bf16"]),
            "recompute": rng.choice(["none", "layer"]), "schedule": rng.choice(["cosine", "linear", "constant"]),
        }
        keys["batch_tokens"] = keys["context"] * rng.randint(1, 4)
        keys["checkpoint_every"] = min(keys["checkpoint_every"], steps)
        if rng.random() < 0.4:
            keys |= {"holdout": 1, "validate_every": rng.randint(1, 3)}
        model = ""
        if continued:
            keys |= {"model": "builtin", "lora_rank": rng.choice([0, 2]), "shrink_context": True}
        else:
            keys["tokenizer"] = str(self.folder / "builtin")
            heads = rng.choice([1, 2, 4])
            model = f"[model]\nwidth = {8 * heads}\nlayers = {rng.randint(1, 3)}\nheads = {heads}\n"
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        (self.folder / "r.toml").write_text(text + model)

    @staticmethod
    def losses(run: pathlib.Path) -> list:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [[line[key] for key in ("step", "loss", "grad_norm", "lr")] + [line.get("validation_loss")]
                for line in lines]

    @staticmethod
    def files(run: pathlib.Path) -> set:
        return {re.sub(r"tfevents\.\d+", "tfevents", str(path.relative_to(run))) for path in run.rglob("*")}

    def disturb(self, out: pathlib.Path, seconds: float) -> bool:
        """One try at the run. True if it got through."""
        choice = self.rng.random()
        fault = f"{self.rng.choice(FAULTS)}@{self.rng.randint(1, 250)}" if choice < 0.6 else ""
        process = self.start("train", self.folder / "r.toml", "--out", out, "--resume", *self.threads(), fault=fault)
        if not fault:
            name = signal.SIGKILL if choice < 0.85 else signal.SIGTERM
            try:
                process.wait(timeout=self.rng.random() * seconds * 1.2)
            except subprocess.TimeoutExpired:
                process.send_signal(name)
            fault = name.name
        _, err = process.communicate(timeout=900)
        code = process.returncode
        self.counts[fault.split("@")[0]] += 1
        allowed = {0, -9, -15, 130} | ({3} if "@" in fault else set())
        if code not in allowed:
            raise Finding(f"exit code {code} under {fault}: {err.decode()[-600:]}")
        if code == 0 and (out / "hawser.json").exists():
            return True
        if self.rng.random() < 0.1:
            self.damage(out)
        return False

    def damage(self, out: pathlib.Path) -> None:
        """One bit of the newest checkpoint, where there is one before it."""
        checkpoints = sorted((out / "checkpoints").glob("step_*"))
        if len(checkpoints) < 2:
            return
        path = self.rng.choice(sorted(checkpoints[-1].iterdir()))
        data = bytearray(path.read_bytes())
        data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        path.write_bytes(data)
        self.counts["damaged checkpoints"] += 1

    def train(self) -> pathlib.Path:
        straight, broken = self.folder / "straight", self.folder / "broken"
        for run in (straight, broken):
            shutil.rmtree(run, ignore_errors=True)
        begin = time.monotonic()
        self.run("train", self.folder / "r.toml", "--out", straight, *self.threads())
        seconds = time.monotonic() - begin
        tries = 1
        while not self.disturb(broken, seconds):
            tries += 1
            if tries > 60:  # a run of few steps without checkpoints may never get through: let it
                self.run("train", self.folder / "r.toml", "--out", broken, "--resume", *self.threads())
                break
        self.run("train", self.folder / "r.toml", "--out", broken, "--resume", *self.threads())  # says it is finished
        for name in ("model.safetensors", "config.json", "recipe.toml"):
            if (straight / name).read_bytes() != (broken / name).read_bytes():
                raise Finding(f"{name} differs after {tries} tries")
        if self.losses(straight) != self.losses(broken):
            raise Finding(f"metrics.jsonl differs after {tries} tries")
        if {f for f in self.files(broken) if "step_" not in f} != {f for f in self.files(straight) if "step_" not in f}:
            raise Finding(f"other files: {self.files(broken) ^ self.files(straight)}")
        self.counts["runs"] += 1
        self.counts["starts"] += tries + 1
        return straight

    def evaluate(self, model) -> None:
        policy, results = self.rng.choice(POLICIES), []
        for threads in (1, self.most_threads):
            args = ["eval", model, "ppl", "--data", self.folder / "data", "--max-tokens", 400, "--json", "--quiet"]
            whole = json.loads(self.run(*args, "--context", 16, "--threads", threads))
            stream = json.loads(self.run(*args, "--kv", policy, "--threads", threads))
            results.append([[r["buckets"], r["bits_per_byte"]] for r in (whole, stream)])
        if results[0] != results[1]:
            raise Finding(f"eval ppl with {policy} gives other numbers with {self.most_threads} threads")
        self.counts["evaluations"] += 2

    def stream(self, model) -> None:
        policy, total = self.rng.choice(POLICIES), self.rng.randint(4, 40)
        state, prompt = self.folder / "s.kv", " ".join(self.rng.choices(WORDS, k=self.rng.randint(1, 30)))
        common = ["--temperature", 0, "--context", 256, "--json"]
        whole = json.loads(self.run("generate", model, "--prompt", prompt, "--max-new", total, "--kv", policy, *common,
                                    *self.threads()))
        pieces, left, first = "", total, True
        while left > 0:
            count = self.rng.randint(1, left)
            start = ["--prompt", prompt, "--kv", policy] if first else ["--load-state", state]
            piece = json.loads(self.run("generate", model, *start, "--max-new", count, "--save-state", state, *common,
                                        *self.threads()))
            pieces += piece["text"]
            left, first = left - count, False
        if whole["text"] != pieces and "\ufffd" not in whole["text"] + pieces:
            raise Finding(f"{policy}: {whole['text']!r} in one piece, {pieces!r} in several; prompt {prompt!r}")
        self.counts["streams"] += 1

    @staticmethod
    def contents(folder: pathlib.Path) -> dict:
        """The lock may stay where the fault was its removal."""
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".hawser.lock"}

    @staticmethod
    def is_whole(folder: pathlib.Path) -> bool:
        """Killed, but behind the last file."""
        return not (folder / "tokens.unfinished").exists() and any(folder.glob("*.tokens"))

    def tokens(self) -> None:
        """Written under faults until it gets through: the same files as at once."""
        want, got = self.folder / "tokens", self.folder / "tokens2"
        args = ["--data", self.folder / "data", "--shard-tokens", 200, "--quiet"]
        for out in (want, got):
            shutil.rmtree(out, ignore_errors=True)
        self.run("tokenize", "builtin", *args, "--out", want)
        for _ in range(8):
            fault = f"{self.rng.choice(FAULTS)}@{self.rng.randint(1, 60)}"
            process = self.start("tokenize", "builtin", *args, "--out", got, fault=fault)
            process.communicate(timeout=900)
            self.counts["tokenize under faults"] += 1
            if process.returncode == 0 or (process.returncode == -9 and self.is_whole(got)):
                break
            if process.returncode not in (3, -9):
                raise Finding(f"exit code {process.returncode} of tokenize under {fault}")
        else:
            self.run("tokenize", "builtin", *args, "--out", got)
        if self.contents(want) != self.contents(got):
            raise Finding("tokenize wrote other files")

    def round(self) -> None:
        self.write_data()
        self.write_recipe()
        model = self.train()
        self.evaluate(model)
        self.stream("builtin" if self.rng.random() < 0.5 else model)
        self.tokens()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hawser", default="build/release/hawser", help="the binary")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="the most threads of a command")
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hawser-soak-"))
    binary = str(pathlib.Path(args.hawser).resolve())
    shutil.copytree(pathlib.Path(__file__).parent.parent / "models" / "hawser-4m", folder / "builtin")
    total, findings, begin, number = collections.Counter(), 0, time.monotonic(), 0
    while time.monotonic() - begin < args.hours * 3600:
        soak = Soak(binary, args.seed * 1000003 + number, folder, args.threads)
        try:
            soak.round()
        except (Finding, subprocess.TimeoutExpired, OSError, ValueError, KeyError) as error:
            findings += 1
            kept = pathlib.Path(f"{folder}-round{number}")
            shutil.copytree(folder, kept)
            print(f"round {number} (seed {args.seed}): {type(error).__name__}: {error}; its files: {kept}", flush=True)
        total += soak.counts
        number += 1
    shutil.rmtree(folder)
    print(f"{number} rounds, {(time.monotonic() - begin) / 3600:.2f} hours, {findings} findings")
    for name, count in sorted(total.items()):
        print(f"  {count:6} {name}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
