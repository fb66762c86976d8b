#!/usr/bin/env bash
# Runs on a host, in the unpacked code: makes a virtual environment with the versions of constraints.txt, once for each version of
# that file, and links it as .launch-venv. Arguments: the Python version, and the extras of pyproject.toml, separated by commas.
set -euo pipefail
python=$1
extras=$2
home="$HOME/.launch"
uv_version=0.13.9
uv="$home/uv-$uv_version"

again() { # retries a command, since networks may fail and package locks may be busy
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
