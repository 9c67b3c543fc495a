#!/bin/sh
# Stands in front of rustc (RUSTC_WRAPPER): compiles the parsers with coverage counters for libFuzzer,
# on a stable compiler, and everything else as usual.
rustc=$1
shift
case " $* " in
*" --crate-name pgweir "* | *" --crate-name pgweir_fuzz "*)
    set -- "$@" --cfg fuzzing ;;
*" --crate-name pgwire "* | *" --crate-name postgres_protocol "* | \
*" --crate-name serde_yaml "* | *" --crate-name unsafe_libyaml "*) ;;
*) exec "$rustc" "$@" ;;
esac
exec "$rustc" "$@" -Cdebug-assertions -Coverflow-checks -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
