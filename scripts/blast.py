#!/usr/bin/env python3
"""How many files an addition touches: a commit whose message has the trailer `Adds: family`, `Adds: quant` or
`Adds: method` may change at most 3, 3 or 4 files besides tests, their data and pages.
blast.py [ROOT]    checks every such commit of the history; prints and fails on those that touch more."""
import pathlib
import re
import subprocess
import sys

MOST = {"family": 3, "quant": 3, "method": 4}
BESIDE = re.compile(r"(_test\.(cc|py)$|_golden\.h$|/testdata/|/testing/|^docs/|\.md$|^scripts/goldens/|^fuzz/)")


def git(root, *words):
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    try:
        log = git(root, "log", "--format=%H%x09%s%x09%(trailers:key=Adds,valueonly,separator=%x2C)")
    except (OSError, subprocess.CalledProcessError):
        print("no git history here: nothing to check")
        return 0
    checked = bad = 0
    for line in log.splitlines():
        commit, subject, added = line.split("\t")
        if not added:
            continue
        checked += 1
        if added not in MOST:
            print(f"{commit[:9]} {subject}: 'Adds: {added}'; known are {', '.join(MOST)}")
            bad += 1
            continue
        names = git(root, "show", "--format=", "--name-only", commit).split()
        touched = [name for name in names if not BESIDE.search(name)]
        if len(touched) > MOST[added]:
            print(f"{commit[:9]} {subject}: a {added} may touch {MOST[added]} files, this one touches {touched}")
            bad += 1
    print(f"{checked} additions checked, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
