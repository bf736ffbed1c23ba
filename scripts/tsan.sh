# Sourced by scripts/test, not run directly. build/tsan/lib has a copy of the package whose core is built with the thread
# sanitiser. PYTHONPATH puts it before the checkout. CPython is not instrumented: its memory accesses are not checked, but
# its locks are.

tsan=$PWD/build/tsan

# Runs a program under the thread sanitiser without address randomisation, which can leave it no room.
tsan_prefix=()
setarch -R true 2>/dev/null && tsan_prefix=(setarch -R)

in_tsan() { # in_tsan COMMAND...; a function of the shell too. Findings are in the reports.
    local -x LD_PRELOAD TSAN_OPTIONS PYTHONPATH=$tsan/lib PYTHONSAFEPATH=1
    TSAN_OPTIONS="log_path=$tsan/report:halt_on_error=0:exitcode=0:report_signal_unsafe=0:ignore_noninstrumented_modules=1"
    LD_PRELOAD=$(gcc -print-file-name=libtsan.so)
    "$@"
}

# make_tsan LOG: builds it, and checks that a race of two Python threads in instrumented code is reported.
make_tsan() {
    local log=$1
    rm -rf "$tsan/lib"
    mkdir -p "$tsan"
    # -Wtsan: the sanitiser does not know fences. Everything that they order here is atomic.
    if ! UDPRING_TESTS=1 UDPRING_SANITIZE=thread CFLAGS=-Wno-tsan .venv/bin/python -P setup.py -q build --build-base "$tsan" \
        --build-temp "$tsan/temp" --build-lib "$tsan/lib" >"$log" 2>&1 ||
        ! gcc -shared -fPIC -g -fsanitize=thread tests/tsan/planted_race.c -o "$tsan/planted_race.so" >>"$log" 2>&1; then
        cat "$log" >&2
        return 1
    fi
    rm -f "$tsan"/report.*
    if ! in_tsan "${tsan_prefix[@]}" .venv/bin/python -P tests/tsan/planted_race.py "$tsan/planted_race.so" "$tsan" >"$log" 2>&1; then
        cat "$log" >&2
        return 1
    fi
    if ! grep -qs 'data race' "$tsan"/report.*; then
        printf '%s: the thread sanitiser did not report a planted race\n' "$(basename "$0")" >&2
        return 1
    fi
    rm -f "$tsan"/report.*
}
