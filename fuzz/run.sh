#!/bin/sh
# Runs one fuzz target, or all of them: fuzz/run.sh [TARGET|all] [SECONDS]. A crash is written to fuzz/artifacts/TARGET.
# Needs cargo-fuzz, which is installed under target/tools on first use. libFuzzer's instrumentation is unstable in rustc;
# RUSTC_BOOTSTRAP lets the pinned stable compiler do it, so that what is fuzzed is what ships.
set -eu
cd "$(dirname "$0")"
root=$(cd .. && pwd)
seconds=${2:-60}
[ -x "$root/target/tools/bin/cargo-fuzz" ] ||
    CARGO_TARGET_DIR="$root/target/tools/build" cargo install cargo-fuzz --version 0.13.2 --locked --root "$root/target/tools"
PATH="$root/target/tools/bin:$PATH"
export PATH RUSTC_BOOTSTRAP=1

# What must never happen on any input: a panic, 256 MiB in one allocation, 2 GiB in all, ten seconds.
run() {
    mkdir -p "corpus/$1"
    cargo fuzz run --target-dir "$root/target/fuzz" "$1" "corpus/$1" "seeds/$1" -- \
        -max_total_time="$seconds" -max_len=65536 -malloc_limit_mb=256 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1
}

case ${1:-all} in
all) for seeds in seeds/*/; do run "$(basename "$seeds")"; done ;;
*) run "$1" ;;
esac
