#!/bin/sh
# Rebuilds the committed test guests and compares them, bit for bit, with the committed modules.
#
#     tests/guests/build.sh            compares; exit code 1 if any differs
#     tests/guests/build.sh --write    replaces the committed modules
#
# node/functions/toolchain.sh says which toolchain it needs.
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
repository=$(cd "$here/../.." && pwd -P)
mode=${1:-}
. "$repository/node/functions/toolchain.sh"

guest_begin "$repository"
guest_differing=0
guest_build tests/guests/probe wasm32-unknown-unknown
guest_settle "$guest_module" "$here/probe/probe.wasm" "$mode"
guest_build tests/guests/chain wasm32-unknown-unknown
guest_settle "$guest_module" "$here/chain/chain.wasm" "$mode"
guest_build tests/guests/wasip1 wasm32-wasip1
guest_settle "$guest_module" "$here/wasip1/wasip1.wasm" "$mode"
[ "$guest_differing" -eq 0 ] || guest_fail "$guest_differing of the modules differ from the committed ones"
