#!/usr/bin/env bash
# On a host, in the unpacked code: a virtual environment with what constraints.txt locks, made once for each lock file.
# Arguments: the version of Python, the extras of pyproject.toml with commas between. Links it as .launch-venv.
set -euo pipefail
python=$1
extras=$2
home="$HOME/.launch"
uv_version=0.13.9
uv="$home/uv-$uv_version"

again() { # a command, some times over: networks and package locks are busy at times
    local pause
    for pause in 5 15 45; do
        "$@" && return
        echo "setup: once more in $pause s: $*" >&2
        sleep "$pause"
    done
    "$@"
}

key=$( (cat pyproject.toml constraints.txt; echo "$python $extras") | sha256sum | cut -c1-16)
venv="$home/venvs/$key"
mkdir -p "$home/venvs"
exec 9>"$home/venvs/lock"
flock 9
if [ ! -e "$venv/.complete" ]; then
    if [ ! -d "$uv" ]; then
        again python3 -m pip install --quiet --upgrade --target "$uv.part" "uv==$uv_version"
        mv "$uv.part" "$uv"
    fi
    again "$uv/bin/uv" venv --quiet --clear --force --python "$python" "$venv"
    wanted=()
    IFS=, read -ra names <<<"$extras"
    for name in "${names[@]}"; do wanted+=(--extra "$name"); done
    again "$uv/bin/uv" pip install --quiet --python "$venv/bin/python" \
        --constraint constraints.txt --requirement pyproject.toml "${wanted[@]}"
    touch "$venv/.complete"
fi
ln -sfn "$venv" .launch-venv
echo "setup: $venv"
