#!/usr/bin/env bash
# Installs the packages that hawser builds with (Debian 12 and newer), only those that are missing.
set -euo pipefail

# libdnnl-dev's CMake files look for OpenCL, which the package does not pull in.
packages=(
  cmake ninja-build g++ make pkg-config python3
  libdnnl-dev ocl-icd-opencl-dev libhwy-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev libfmt-dev
  libpcre2-dev libutf8proc-dev librsvg2-dev libedit-dev libcurl4-openssl-dev
  libssl-dev libboost-dev libgtest-dev
)

if ! command -v dpkg-query > /dev/null; then
  echo "setup: this is no Debian system; install by hand: ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${Status}' "$package" 2> /dev/null || true)
  [[ "$state" == "install ok installed" ]] || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

sudo=()
[[ $(id -u) -eq 0 ]] || sudo=(sudo)
echo "setup: installing ${missing[*]}" >&2
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
