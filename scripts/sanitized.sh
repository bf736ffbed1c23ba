# Sourced by scripts that run programs on a core built with the address and undefined-behaviour sanitisers. Not run
# directly. The caller's current directory is the checkout. build/sanitized/lib has a copy of the package with that core.
# PYTHONPATH puts it before the checkout, also for programs that tests start.

sanitized=$PWD/build/sanitized

# make_sanitized LOG: builds it and checks that it is imported. Errors go to standard error.
make_sanitized() {
    local log=$1
    [[ -e $sanitized/lib/udpring ]] && rm -rf "$sanitized/lib"
    if ! UDPRING_TESTS=1 UDPRING_SANITIZE=address,undefined .venv/bin/python setup.py -q build --build-base "$sanitized" \
        --build-temp "$sanitized/temp" --build-lib "$sanitized/lib" >"$log" 2>&1; then
        cat "$log" >&2
        return 1
    fi
    if ! in_sanitized .venv/bin/python -P -c "
import sys, udpring._native as native
sys.exit(not native._core.__file__.startswith('$sanitized/'))"; then
        printf '%s: the sanitised core is not the one that is imported\n' "$(basename "$0")" >&2
        return 1
    fi
}

# CPython leaks, so leaks are not checked. Python's own allocator would hide overruns of its memory.
# PYTHONSAFEPATH: no program of a test may find the checkout, its current directory, before the sanitised build.
sanitized_env() { # sanitized_env: the environment, one assignment per line
    printf '%s\n' \
        "LD_PRELOAD=$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
        "ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:log_path=$sanitized/report" \
        "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:log_path=$sanitized/report" \
        "PYTHONPATH=$sanitized/lib" "PYTHONSAFEPATH=1" "PYTHONMALLOC=malloc"
}

in_sanitized() { # in_sanitized COMMAND...; a function of the shell too
    local each assignments
    mapfile -t assignments < <(sanitized_env)
    for each in "${assignments[@]}"; do local -x "${each?}"; done
    "$@"
}
