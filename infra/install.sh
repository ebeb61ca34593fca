#!/usr/bin/env bash
# Sets llavaflow up on a bare Debian with Python 3.11 or 3.12: system packages (where root), a virtual environment
# of its own with every version pinned, and the separate environment in which img2dataset lives.
# Safe to run again: it ends in a second when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${LLAVAFLOW_VENV:-.venv}"
stamp="$venv/.installed"
want="$(cat pyproject.toml infra/constraints.txt infra/img2dataset_requirements.txt infra/install.sh | sha256sum | cut -d' ' -f1)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
    exit 0
fi

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
needed=()
[ -n "$python" ] || needed+=(python3)
"${python:-false}" -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv)
command -v make >/dev/null || needed+=(make)
command -v git >/dev/null || needed+=(git)
if [ "${#needed[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "install.sh: missing ${needed[*]}. Install them with: sudo apt-get install ${needed[*]}" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}"
    python="${python:-python3}"
fi
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || {
    echo "install.sh: Python 3.11 or 3.12 is needed, $("$python" --version) was found. Set PYTHON=/path/to/python3.11" >&2
    exit 1
}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 DS_BUILD_OPS=0
pip=("$venv/bin/python" -m pip install --quiet --constraint infra/constraints.txt)
"${pip[@]}" pip setuptools wheel ninja hatchling
# deepspeed ships as source only and looks at the installed torch while it builds
"${pip[@]}" torch packaging numpy py-cpuinfo psutil pydantic hjson einops msgpack tqdm
"${pip[@]}" --no-build-isolation deepspeed
"${pip[@]}" --no-build-isolation --editable '.[dev]'
"$venv/bin/pipeline" setup
echo "$want" > "$stamp"
