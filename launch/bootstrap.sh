#!/bin/sh
# On a host: fetches and unpacks the code, once for each bundle, and hands over to worker.py.
# Arguments: the bundle (gs:// or a file), its SHA-256, then those of worker.py.
set -eu
bundle=$1
sha=$2
shift 2
echo LAUNCH-HERE
trees="$HOME/.launch/trees"
if [ ! -d "$trees/$sha" ]; then
    mkdir -p "$trees"
    part=$(mktemp -d "$trees/.part-XXXXXX")
    trap 'rm -rf "$part"' EXIT
    case "$bundle" in
        gs://*) gcloud storage cp "$bundle" "$part/bundle.tar.gz" ;;
        *) cp "$bundle" "$part/bundle.tar.gz" ;;
    esac
    echo "$sha  $part/bundle.tar.gz" | sha256sum --check --quiet
    mkdir "$part/tree"
    tar -xzf "$part/bundle.tar.gz" -C "$part/tree"
    # If another start was faster, its tree is used.
    mv -T "$part/tree" "$trees/$sha" 2>/dev/null || [ -d "$trees/$sha" ]
    rm -rf "$part"
    trap - EXIT
fi
exec python3 "$trees/$sha/launch/worker.py" "$@"
