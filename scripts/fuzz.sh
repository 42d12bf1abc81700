#!/usr/bin/env bash
# Builds hawser_fuzz and runs every target one after the other: scripts/fuzz.sh [MINUTES [TARGET...]]. Corpora grow in
# build/fuzz/corpus. Prints a table of executions; an input that is a finding lies in build/fuzz/findings.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-1}
build=build/fuzz
corpus=$build/corpus
findings=$build/findings

if ! command -v clang++ > /dev/null || ! ls /usr/lib/llvm-*/lib/libomp.so > /dev/null 2>&1; then
  sudo=()
  [[ $(id -u) -eq 0 ]] || sudo=(sudo)
  echo "fuzz: installing clang and libomp-dev" >&2
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends clang libomp-dev > /dev/null
fi
[[ -f $build/build.ninja ]] || cmake --preset fuzz > /dev/null
cmake --build $build -j "${JOBS:-$(nproc)}" --target hawser_fuzz

fuzz=$build/hawser_fuzz
export ASAN_OPTIONS=malloc_context_size=2${ASAN_OPTIONS:+:$ASAN_OPTIONS}  # unwinding each allocation costs most
mkdir -p "$findings" "$build/seeds"
$fuzz --make-corpus=$build/seeds
targets=("${@:2}")
[[ ${#targets[@]} -gt 0 ]] || mapfile -t targets < <($fuzz --list)
printf '%-20s %14s %10s  %s\n' target executions seconds result
status=0
for target in "${targets[@]}"; do
  mkdir -p "$corpus/$target"
  log=$build/$target.log
  begin=$SECONDS
  result=clean
  dictionary=()
  [[ -s $build/seeds/$target.dict ]] && dictionary=("-dict=$build/seeds/$target.dict")
  # Inputs have at most 4 KiB, or what the longest in the corpus has: many small ones find more. 10 seconds or 2 GiB
  # for one of them are findings.
  $fuzz "--target=$target" -max_total_time=$((minutes * 60)) -timeout=10 -rss_limit_mb=3072 -malloc_limit_mb=2048 \
    "${dictionary[@]}" -artifact_prefix="$findings/$target-" -print_final_stats=1 \
    "$corpus/$target" "$build/seeds/$target" > "$log" 2>&1 || { result="FINDING, see $log"; status=1; }
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  printf '%-20s %14s %10s  %s\n' "$target" "${runs:-?}" "$((SECONDS - begin))" "$result"
done
exit $status
