#!/usr/bin/env bash
# Everything a machine needs for this project, into .venv. Run it through `make setup`.
#
#   PYTHON3  which Python (3.11 or newer) the environment is made from; default python3
#   TORCH    pip arguments that choose another build of torch, for example on a GPU machine:
#            make setup TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
#            It stays chosen; another one takes its place.
#   INTO     where to, for use and not for work on it: no tools, a copy of the code (install.sh)
set -euo pipefail
cd "$(dirname "$0")/.."

python3=${PYTHON3:-python3}
into=${INTO:-.venv}
me=${INTO:+install.sh}
me=${me:-make setup}
ready=$into/ready # holds what the operator chose, if anything
was_chosen=$(cat "$ready" 2>/dev/null || true)
chosen=${TORCH:-$was_chosen}
torch=${chosen:-torch==2.13.0}
packages="python3-venv python3-dev gcc libgmp-dev"

fail() { echo "$me: $1" >&2; exit 1; }

echo "$me: downloads about 0.4 GB with a CPU build of torch, takes 1.5 GB in $into"
free_mb=$(df -Pm "$(dirname "$into")" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge 3000 ] || fail "only $free_mb MB are free here; make room for 3 GB"

command -v "$python3" >/dev/null || fail "there is no $python3; install Python 3.11 or newer"
"$python3" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python3" --version) is too old; set PYTHON3 to a Python 3.11 or newer"

# fastecdsa, which py-libp2p needs, is compiled here against gmp.
can_build() {
    "$python3" -c 'import ensurepip, venv' 2>/dev/null &&
        command -v gcc >/dev/null &&
        echo '#include <gmp.h>' | gcc -E -x c - >/dev/null 2>&1 &&
        [ -e "$("$python3" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ]
}
if ! can_build; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "$me: installing $packages"
        apt-get update -qq
        # shellcheck disable=SC2086  # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
        can_build || fail "$python3 still lacks its venv module or headers; set PYTHON3=/usr/bin/python3"
    else
        fail "a compiler, headers or the venv module are missing; run: sudo apt-get install $packages"
    fi
fi

[ -x "$into/bin/python" ] || "$python3" -m venv "$into"
pip=("$into/bin/python" -m pip --disable-pip-version-check -qq)
constraints=deploy/constraints.txt
if [ "$torch" != "torch==2.13.0" ]; then # a build of the operator's own choice
    grep -v '^torch==' "$constraints" >"$into/constraints.txt"
    constraints=$into/constraints.txt
fi
if [ -e "$ready" ] && [ "$chosen" != "$was_chosen" ]; then
    "${pip[@]}" uninstall --yes torch # to pip, builds of one version are the same
fi
rm -f "$ready"
# torch first: any other order would take the registry's newest build, with gigabytes of CUDA.
# shellcheck disable=SC2086  # TORCH may hold several arguments
"${pip[@]}" install $torch
if [ -n "${INTO:-}" ]; then
    "${pip[@]}" install --constraint "$constraints" .
else
    # The dev group of pyproject.toml, read by Python: pip learned --group only lately.
    mapfile -t dev < <("$into/bin/python" -c '
import tomllib
for item in tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"]:
    print(item)')
    "${pip[@]}" install --constraint "$constraints" --editable ".[hivemind]" "${dev[@]}"
fi
echo "$chosen" >"$ready"
"$into/bin/python" -c 'import sys, demo_node.native.build as b; sys.exit(not b.LIBRARY.exists())' ||
    echo "$me: the codec was not compiled; torch does its work, in three times the time"
[ -n "${INTO:-}" ] || echo "make setup: done; next: make swarm"
