#!/bin/sh
# Rebuilds the functions that ship with the binary and compares them, bit for bit, with the committed modules.
#
#     node/functions/build.sh            compares; exit code 1 if any differs
#     node/functions/build.sh --write    replaces the committed modules
#
# `wait` is not built here: it is a text, wait/wait.wat, and a test of the node compares its module with that.
#
# toolchain.sh says which toolchain it needs. A first build takes some minutes: it compiles the standard library.
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
repository=$(cd "$here/../.." && pwd -P)
mode=${1:-}
. "$here/toolchain.sh"

guest_begin "$repository"
guest_differing=0
for name in digest face-detect; do
    guest_build "node/functions/$name" wasm32-unknown-unknown
    guest_settle "$guest_module" "$here/$name/$name.wasm" "$mode"
done
[ "$guest_differing" -eq 0 ] || guest_fail "$guest_differing of the modules differ from the committed ones"
