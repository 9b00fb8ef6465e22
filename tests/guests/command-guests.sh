#!/bin/sh
# Builds the guests that other people's tools make: FOLDER/python.wasm and FOLDER/javascript.wasm, components of the world
# wasi:cli/command, from the WIT that ships inside the crate wasmtime-wasi.
#
#     tests/guests/command-guests.sh FOLDER
#
# Needs python3 with venv, node with npm, and cargo; the tools come from PyPI and npm into FOLDER/tools.
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd -P)
tools=$out/tools
mkdir -p "$tools"

host=$(rustc -vV | sed -n 's/^host: //p')
manifest=$(cargo metadata --locked --quiet --format-version 1 --filter-platform "$host" \
    --manifest-path "$here/../../Cargo.toml" | python3 -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "wasmtime-wasi"))')
wit=$(dirname "$manifest")/src/p2/wit

[ -x "$tools/python/bin/componentize-py" ] || {
    python3 -m venv "$tools/python"
    "$tools/python/bin/pip" install --quiet componentize-py==0.25.1
}
mkdir -p "$tools/python-app"
cp "$here/python/app.py" "$tools/python-app/"
(cd "$tools/python-app" && "$tools/python/bin/componentize-py" --quiet --wit-path "$wit" --world wasi:cli/command@0.2.12 \
    componentize app --output "$out/python.wasm")

mkdir -p "$tools/javascript"
cp "$here"/javascript/app.js "$here"/javascript/build.mjs "$here"/javascript/package.json "$tools/javascript/"
# Once: a second `npm install` over its own lock file drops a package that the first one brought.
[ -d "$tools/javascript/node_modules" ] ||
    (cd "$tools/javascript" && npm install --silent --no-audit --no-fund --no-package-lock >&2)
(cd "$tools/javascript" && node build.mjs "$wit" "$out/javascript.wasm")

ls -l "$out/python.wasm" "$out/javascript.wasm"
