#!/usr/bin/env python3
"""Compares the memory that a dry run expects with the peak resident set of a run of two steps.

    scripts/compare_memory.py HAWSER train RECIPE.toml --data TEXT ...
    scripts/compare_memory.py HAWSER extend MODEL --context L --data TEXT ...

Arguments are those of `hawser train` or `hawser extend`, without --out and --steps.
"""

import json
import os
import subprocess
import sys
import tempfile


def main() -> int:
    if len(sys.argv) < 4 or sys.argv[2] not in ("train", "extend"):
        print(__doc__, file=sys.stderr)
        return 2
    command = sys.argv[1:] + ["--steps", "2", "--quiet"]
    plan = subprocess.run(command + ["--dry-run", "--json"], check=True, capture_output=True).stdout
    memory = json.loads(plan)["memory"]
    with tempfile.TemporaryDirectory() as out:
        run = subprocess.Popen(command + ["--out", out], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(run.pid, 0)
    if status != 0:
        return 1
    peak = usage.ru_maxrss * 1024
    for part, size in memory.items():
        if part.startswith(("activation_", "activations_")) or part == "total":
            continue
        print(f"{part:18} {size / 2**20:9.1f} MiB")
    print(f"{'expected':18} {memory['total'] / 2**20:9.1f} MiB")
    print(f"{'peak resident set':18} {peak / 2**20:9.1f} MiB  {memory['total'] / peak - 1:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
