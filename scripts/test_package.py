#!/usr/bin/env python3
"""Uses hawser from a project outside: test_package.py BUILD [--whole]

Installs the finished build folder BUILD into a folder of its own, finds it from examples/embed, builds that and
compares what it says with the program. Then examples/embed adds the sources as a folder, and its targets are looked at;
with --whole all of it is built, which takes as long as hawser does.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPT = "The old captain looked at the"


def run(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\nexit code {done.returncode}")
    return done.stdout


def configure(build, *settings):
    run("cmake", "-G", "Ninja", "-S", ROOT / "examples/embed", "-B", build, *settings)


def check(embed, said):
    got = subprocess.run([embed, "builtin", PROMPT], stdout=subprocess.PIPE, text=True, check=True).stdout
    if got != said:
        sys.exit(f"{embed} says {got!r}, hawser {said!r}")
    print(f"{embed.parent.name}: {got.strip()}")


def main():
    if len(sys.argv) < 2 or any(word != "--whole" for word in sys.argv[2:]):
        sys.exit(__doc__)
    build, whole = pathlib.Path(sys.argv[1]).resolve(), len(sys.argv) > 2
    said = subprocess.run(
        [build / "hawser", "generate", "builtin", "-p", PROMPT, "-n", "24", "--temperature", "0", "--quiet"],
        stdout=subprocess.PIPE, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run("cmake", "--install", build, "--prefix", folder / "prefix")
        installed = [path for path in (folder / "prefix").rglob("*.h") if "testing" in path.parts]
        if installed:
            sys.exit(f"headers of tests are installed: {installed}")
        configure(folder / "found", f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}")
        run("cmake", "--build", folder / "found")
        check(folder / "found/embed", said)

        configure(folder / "added", f"-DHAWSER_SOURCE={ROOT}", "-DCMAKE_BUILD_TYPE=Release")
        commands = (folder / "added/build.ninja").read_text()
        ours = commands.split("embed.dir/main.cc.o:")[1].split("\n\n")[0]
        if f"-I{ROOT}\n" not in ours or "-Wextra" in ours:
            sys.exit(f"wanted hawser's headers without its warnings, found {ours}")
        if whole:
            run("cmake", "--build", folder / "added")
            check(folder / "added/embed", said)
    print("a project outside finds hawser, and may add it as a folder")


if __name__ == "__main__":
    main()
