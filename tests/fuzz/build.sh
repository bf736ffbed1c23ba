#!/usr/bin/env bash
# Builds the C harnesses, as OSS-Fuzz does it or for scripts/fuzz.
#
# Usage: tests/fuzz/build.sh [NAME]...      all of them without a name
# Environment, as in OSS-Fuzz (google.github.io/oss-fuzz, "new project guide"); defaults for a plain clang in brackets:
#   CC [clang]   CFLAGS [address and undefined-behaviour sanitiser, coverage for the fuzzer]
#   LIB_FUZZING_ENGINE [-fsanitize=fuzzer]   OUT [build/fuzz/bin]   WORK [build/fuzz/work]
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
top=$(cd -- "$here/../.." && pwd)
native=$top/udpring/native
source "$top/scripts/objects.sh"
CC=${CC:-clang}
CFLAGS=${CFLAGS:--O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined -fsanitize=fuzzer-no-link}
LIB_FUZZING_ENGINE=${LIB_FUZZING_ENGINE--fsanitize=fuzzer}
OUT=${OUT:-$top/build/fuzz/bin}
WORK=${WORK:-$top/build/fuzz/work}
mkdir -p "$OUT" "$WORK"

read -ra flags <<<"$CFLAGS $(pkg-config --cflags libcrypto)"
read -ra engine <<<"$LIB_FUZZING_ENGINE"
# No function versions chosen at load time: the sanitiser's run-time is not ready then.
flags+=(-std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Wno-unknown-attributes -Wno-gnu-variable-sized-type-not-at-end -D__SANITIZE_ADDRESS__ -I"$native" -I"$here" -pthread)
read -ra libraries <<<"$(pkg-config --libs libcrypto) -ldl -pthread"

# The models' own branches do not help the fuzzer and cost half of its time.
models=()
[[ $CFLAGS == *fuzzer-no-link* ]] && models=(-fno-sanitize=fuzzer-no-link)

compile() { # compile SOURCE OBJECT FLAGS...
    if is_current "$2" "$here/build.sh"; then
        return
    fi
    rm -f "$2"
    "$CC" "${flags[@]}" "${@:3}" -MMD -MF "$2.d" -c "$1" -o "$2"
}

# The core, and the models that several harnesses share.
objects=()
running=0
mapfile -t sources < <(find "$native" "$top/tests/native" -name '*.c' | LC_ALL=C sort)
for source in "${sources[@]}" "$here"/model_*.c; do
    object=${source#"$top"/}
    object=$WORK/${object//\//-}.o
    objects+=("$object")
    unguided=()
    [[ $source == "$here"/* ]] && unguided=("${models[@]}")
    compile "$source" "$object" "${unguided[@]}" &
    ((++running % ${JOBS:-2})) || wait -n
done
wait

names=("$@")
((${#names[@]})) || mapfile -t names < <(cd -- "$here" && printf '%s\n' fuzz_*.c | sed 's/^fuzz_//; s/\.c$//')
rm -f "$WORK/core.a"
ar rcs "$WORK/core.a" "${objects[@]}"   # fails if a file did not compile
for name in "${names[@]}"; do
    parts=()
    # A harness may consist of several files (NAME_*.c). NAME.wrap lists the calls that it answers itself, one
    # a line.
    # @model stands for those of model.wrap, which the model of the kernel answers.
    for source in "$here/fuzz_$name.c" "$here/${name}"_*.c; do
        [[ -e $source ]] || continue
        object=$WORK/$(basename -- "$source" .c).o
        unguided=()
        [[ $source == "$here/fuzz_$name.c" ]] || unguided=("${models[@]}")
        compile "$source" "$object" "${unguided[@]}"
        parts+=("$object")
    done
    wrapped=()
    [[ -e $here/$name.wrap ]] && mapfile -t wrapped < <(sed -e "/^@model\$/{r $here/model.wrap" -e 'd}' "$here/$name.wrap" | sed 's/^/-Wl,--wrap=/')
    "$CC" "${flags[@]}" "${engine[@]}" "${parts[@]}" "${wrapped[@]}" "$WORK/core.a" "${libraries[@]}" -o "$OUT/$name"
done
