# How everything of ours that runs inside a worker is compiled, so that the same sources give the same bytes anywhere.
# Sourced by build.sh here and by tests/guests/build.sh; defines `guest_begin` and `guest_build`.
#
# The toolchain is Debian's, in exactly these versions (bookworm, amd64):
#
#     apt-get install --no-install-recommends rustc-web=1.96.0+dfsg1-1~deb12u2 cargo-web=1.96.0+dfsg1-1~deb12u2 \
#         rust-web-src=1.96.0+dfsg1-1~deb12u2 lld-22=1:22.1.8-1~deb12u1 wasi-libc=0.0~git20220510.9886d3d-2
#
# Any Rust that has the target builds the same sources (`cargo build --release --target wasm32-unknown-unknown`), into a
# module that does the same but has other bytes.
#
# What would make bytes differ, and what is done about it:
# - paths: the sources are built through a symbolic link with a fixed name, since cargo puts the path of a dependency
#   outside of the workspace into its symbols; other paths (registry, target, standard library) are remapped;
# - versions: Cargo.lock and --locked; the standard library comes from rust-web-src (-Zbuild-std);
# - what was built before: the target folder is new, unless SHOAL_GUEST_TARGET_DIR names one to keep (for work on a guest).

GUEST_RUSTC=/usr/bin/rustc
GUEST_CARGO=/usr/bin/cargo
GUEST_RUST_VERSION='rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)'
GUEST_RUST_SOURCE=/usr/lib/rustlib/src/rust
GUEST_WASI_LIBC=/usr/lib/wasm32-wasi
# Bytes of a guest's stack. Why 128 KiB: nothing of ours goes deep, and a small memory is quick to make.
GUEST_STACK_LEN=131072
GUEST_BUILD_ROOT=/tmp/shoal-guest-build

guest_fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# guest_begin REPOSITORY: checks the toolchain and claims the fixed path for as long as the script runs.
guest_begin() {
    [ "$("$GUEST_RUSTC" --version 2>/dev/null)" = "$GUEST_RUST_VERSION" ] ||
        guest_fail "this needs $GUEST_RUSTC to be: $GUEST_RUST_VERSION (see $1/node/functions/toolchain.sh)"
    [ -d "$GUEST_RUST_SOURCE/library" ] || guest_fail "this needs Debian's package rust-web-src"
    command -v wasm-ld-22 >/dev/null || guest_fail "this needs Debian's package lld-22"
    mkdir "$GUEST_BUILD_ROOT" 2>/dev/null ||
        guest_fail "$GUEST_BUILD_ROOT exists: another build runs, or was killed; then remove it"
    trap 'rm -rf "$GUEST_BUILD_ROOT"' EXIT
    trap 'exit 130' INT TERM
    ln -s "$1" "$GUEST_BUILD_ROOT/source"
    guest_target_dir=${SHOAL_GUEST_TARGET_DIR:-$GUEST_BUILD_ROOT/target}
}

# guest_build FOLDER TARGET: builds the crate in FOLDER (from the repository's root) and sets guest_module to the file.
guest_build() {
    flags="-C link-arg=-zstack-size=$GUEST_STACK_LEN"
    flags="$flags --remap-path-prefix=$GUEST_BUILD_ROOT/source=shoal --remap-path-prefix=$guest_target_dir=target"
    flags="$flags --remap-path-prefix=$GUEST_RUST_SOURCE=rust"
    flags="$flags --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=registry"
    if [ "$2" = wasm32-wasip1 ]; then
        [ -f "$GUEST_WASI_LIBC/crt1-command.o" ] || guest_fail "this needs Debian's package wasi-libc"
        flags="$flags -C link-self-contained=no -C link-arg=$GUEST_WASI_LIBC/crt1-command.o -L $GUEST_WASI_LIBC"
    fi
    # Not from the folder of a rustup override, and with none of the caller's own settings.
    (
        cd "$GUEST_BUILD_ROOT/source"
        unset RUSTUP_TOOLCHAIN RUSTC_WRAPPER CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
        RUSTC_BOOTSTRAP=1 RUSTC="$GUEST_RUSTC" RUSTFLAGS="$flags" CARGO_TARGET_DIR="$guest_target_dir" \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld-22 CARGO_TARGET_WASM32_WASIP1_LINKER=wasm-ld-22 \
            "$GUEST_CARGO" build --quiet --locked --release --target "$2" -Zbuild-std=std,panic_abort \
            ${SHOAL_GUEST_JOBS:+-j "$SHOAL_GUEST_JOBS"} --manifest-path "$GUEST_BUILD_ROOT/source/$1/Cargo.toml"
    ) || guest_fail "$1 does not build"
    name=$(sed -n 's/^name = "\(.*\)"$/\1/p' "$GUEST_BUILD_ROOT/source/$1/Cargo.toml" | head -n 1)
    guest_module=$guest_target_dir/$2/release/$name.wasm
    # A library's file name has no hyphens.
    [ -f "$guest_module" ] || guest_module=$guest_target_dir/$2/release/$(printf %s "$name" | tr - _).wasm
}

# guest_settle MODULE FILE MODE: compares the built module with the committed file, or writes it there (MODE is `--write`).
# Counts what differs in guest_differing.
guest_settle() {
    sum=$(sha256sum "$1" | cut -d ' ' -f 1)
    size=$(wc -c <"$1")
    if [ "$3" = --write ]; then
        install -m 644 "$1" "$2"
        printf 'written    %s  %7d bytes  %s\n' "$sum" "$size" "$2"
    elif cmp -s "$1" "$2"; then
        printf 'identical  %s  %7d bytes  %s\n' "$sum" "$size" "$2"
    else
        printf 'DIFFERENT  %s  %7d bytes  %s\n' "$sum" "$size" "$2"
        guest_differing=$((${guest_differing:-0} + 1))
    fi
}
