#!/usr/bin/env bash
# Builds and tests for AArch64 on an x86-64 machine with Debian's packages: cross compiler, emulator, and, where rustup
# cannot add the target, Debian's own Rust.
#
#     tools/aarch64.sh cargo test --profile checked -p kvant-kernels
set -euo pipefail
target=aarch64-unknown-linux-gnu
folder=$PWD/target/aarch64-rust

if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static >/dev/null
fi

# rustc with its libraries and the standard library of both processors, unpacked beside the system.
debian_rust() {
    mkdir -p "$folder/lists/partial" "$folder/packages"
    local options=(-qq -oAPT::Architectures::=amd64 -oAPT::Architectures::=arm64 "-oDir::State::Lists=$folder/lists")
    (
        cd "$folder/packages"
        apt-get "${options[@]}" update
        library=$(apt-cache "${options[@]}" depends libstd-rust-web-dev | sed -n 's/.*Depends: \(libstd-rust-web-[0-9.]*\)$/\1/p')
        llvm=$(apt-cache "${options[@]}" depends "$library" | sed -n 's/.*Depends: \(libllvm[0-9]*\)$/\1/p')
        apt-get "${options[@]}" download rustc-web "$library" "$llvm" libstd-rust-web-dev libstd-rust-web-dev:arm64
        for package in *.deb; do dpkg -x "$package" ..; done
    )
    cat >"$folder/rustc" <<END
#!/bin/sh
export LD_LIBRARY_PATH=$folder/usr/lib:$folder/usr/lib/x86_64-linux-gnu
exec $folder/usr/bin/rustc --sysroot $folder/usr "\$@"
END
    chmod +x "$folder/rustc"
}

if [ -z "${DEBIAN_RUST:-}" ] && { rustup target list --installed | grep -q $target || rustup target add $target; } 2>/dev/null; then
    echo "target $target by rustup"
else
    [ -x "$folder/rustc" ] || debian_rust
    export RUSTC=$folder/rustc
    echo "target $target by Debian: $("$RUSTC" --version)"
fi
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu max -L /usr/aarch64-linux-gnu"
# Long tests run a part of their cases.
export KVANT_EMULATED=1
subcommand=$2
shift 2
cargo "$subcommand" --target $target --target-dir target/aarch64 "$@"
