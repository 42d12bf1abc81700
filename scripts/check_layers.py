#!/usr/bin/env python3
"""Checks that every room includes only rooms below it, that none of them names a sibling, and that nobody goes round
what checks files for everybody: they are read by base/file, JSON by io/json, TOML by train/toml, and disks are changed
through base/file.h and base/lock.h alone, where faults can be put in."""
import pathlib
import re
import sys

LAYERS = [
    ["base"],
    ["quant"],
    ["attn", "pos", "io", "jinja"],
    ["ops", "tok"],
    ["kv", "data", "cpu", "cuda"],
    ["model"],
    ["zoo", "device"],
    ["train", "infer"],
    ["serve", "eval"],
    ["cli"],
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# The one room that names the kinds of devices, and the rooms that may name it.
DEVICE_USERS = {"device": {"cpu", "cuda"}, "cli": {"device"}}

# What may be written in one file alone, tests apart.
ONE_PLACE = [
    (re.compile(r"\bjson::(parse|sax_parse|accept)\("), "io/json.cc", "ParseJson"),
    (re.compile(r"\btoml::parse\w*\("), "train/toml.cc", "ParseToml"),
    (re.compile(r"\b(i?fstream\b|fopen\()"), "base/", "MappedFile, ReadFile or ReadPieces"),
]


WRITES = re.compile(
    r"\b(ofstream|std::fstream|fopen|O_CREAT|O_RDWR|remove_all|create_directory|create_directories|resize_file|copy_file|"
    r"rename\(|unlink\(|rmdir\(|mkdir\(|truncate\(|mkstemp|fs::remove|filesystem::remove)")
WRITERS = {"base/file.cc", "base/lock.cc", "base/file_fault.cc", "base/file_fault.h"}


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    bad = []
    count = 0
    for path in sorted((root / "hawser").rglob("*")):
        if path.suffix not in {".h", ".cc", ".cu", ".cuh"}:
            continue
        room = path.relative_to(root / "hawser").parts[0]
        is_test = path.stem.endswith("_test")
        if room == "testing":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for pattern, place, instead in ONE_PLACE:
                if not is_test and place not in path.as_posix() and pattern.search(line):
                    bad.append(f"{path}:{number}: use {instead}: {line.strip()}")
            if not is_test and str(path.relative_to(root / "hawser")) not in WRITERS and WRITES.search(line):
                bad.append(f"{path}:{number}: writes past base/file.h: {line.strip()}")
            match = re.match(r'\s*#include "hawser/(\w+)/', line)
            if not match:
                continue
            count += 1
            other = match.group(1)
            if other == room or (is_test and other == "testing"):
                continue
            allowed = other in LEVEL and room in LEVEL and LEVEL[other] < LEVEL[room]
            if other in {"cpu", "cuda"} and other not in DEVICE_USERS.get(room, set()):
                allowed = False
            if other == "device" and room != "cli":
                allowed = False
            if other == "testing":
                allowed = False
            # Model and data tests may run on the real backend; their code may not know it.
            if is_test and other == "cpu" and LEVEL.get(room, 0) >= LEVEL["model"]:
                allowed = True
            if is_test and other == "device":
                allowed = True
            if not allowed:
                bad.append(f"{path}:{number}: {room} must not include {other}: {line.strip()}")
    for line in bad:
        print(line)
    print(f"{count} includes between rooms checked, {len(bad)} wrong")
    return 1 if bad or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
