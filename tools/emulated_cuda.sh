#!/usr/bin/env bash
# Builds the emulated CUDA device: libcuda, libnvrtc and libcublasLt that run the kernels of fd-compute on CPU cores, so that the
# ordinary binary can be run, and is tested, on a machine without a GPU. Prints their folder, for LD_LIBRARY_PATH.
#
#   tools/emulated_cuda.sh           builds what has changed (about half a minute from scratch)
#   tools/emulated_cuda.sh --test    builds, then tests the emulation itself
#   tools/emulated_cuda.sh --check   builds nothing; exit code 1, and a line that says why, if it cannot be built here
#
# CXX: the compiler (default c++). EMULATED_CUDA_OUT: where to build (default target/emulated-cuda). What the libraries read when they
# run is at the top of crates/compute/emulated/driver.cpp.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
here=$root/crates/compute/emulated
script=$root/tools/emulated_cuda.sh
ops=$root/crates/compute/src/ops
out=${EMULATED_CUDA_OUT:-${CARGO_TARGET_DIR:-$root/target}/emulated-cuda}
cxx=${CXX:-c++}
command -v "${cxx%% *}" >/dev/null || { echo "tools/emulated_cuda.sh: no C++ compiler: install g++, or name one in CXX" >&2; exit 1; }
[[ ${1:-} != --check ]] || exit 0
mkdir -p "$out/obj"
out=$(cd "$out" && pwd)

# One build at a time; tests of several crates may ask for it at once.
if command -v flock >/dev/null; then exec 9>"$out/lock"; flock 9; fi

flags=(-std=c++17 -O2 -g1 -ffp-contract=off -ftrivial-auto-var-init=pattern -fno-strict-aliasing -fstack-clash-protection -fPIC -fvisibility=hidden -ftls-model=initial-exec -Wall -Wextra -Wno-unknown-pragmas)
kernel_flags=(-DKX_EMULATED -I "$here" -I "$ops" -Wno-unused-function -Wno-unused-variable -Wno-unused-parameter -Wno-sign-compare)

# Writes a file only if its text is new, so that what depends on it is not built again.
write() { cat >"$1.new"; if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi; }

# What is built: units by name, the source and the flags of each.
units=()
declare -A source_of flags_of
add() { units+=("$1"); source_of[$1]=$2; flags_of[$1]=${3:-}; } # name, source, flags

# A wrapper makes each .cu a translation unit whose names are its own (extern "C" ones get a prefix), and registers launch bounds. The
# preprocessor tells the kernels' names, as macros may make them.
wrap() { # source, file, wrapper, prefix
    [[ $3.read -nt $1 && $3.read -nt $script ]] && return
    local text
    text=$(sed '/^#include "/d' "$1" | $cxx -std=c++17 -E -P -x c++ -w - | tr '\n' ' ')
    write "$3" < <(
        echo "#define KX_FILE \"$2\""
        echo '#include "kx.h"'
        grep -oE 'KX_EXPORT\([A-Za-z0-9_]+\)' <<<"$text" | sed -E "s/KX_EXPORT\((.*)\)/#define \1 $4_\1/" || true
        echo 'namespace {'
        echo "#include \"$1\""
        grep -oE '__launch_bounds__\([^()]*\) *(void +)?[A-Za-z0-9_]+ *\(' <<<"$text" |
            sed -E 's/__launch_bounds__\(([^(),]*)[^()]*\) *(void +)?([A-Za-z0-9_]+) *\(/KX_BOUNDS(\3, \1)/' || true
        echo '}'
    )
    touch "$3.read"
}

# The .cu files of a folder: their units, and their texts for NVRTC. Sets kernel_units to the names.
kernels() { # folder, prefix of the units
    local f name files=()
    kernel_units=()
    while IFS= read -r f; do files+=("$f"); done < <(cd "$1" && find . -name '*.cu' | sed 's|^\./||' | LC_ALL=C sort)
    for f in ${files[@]+"${files[@]}"}; do
        name=$2_${f//\//_}; name=${name%.cu}
        wrap "$1/$f" "$f" "$out/obj/$name.cpp" "$name"
        add "$name" "$out/obj/$name.cpp" "${kernel_flags[*]}"
        kernel_units+=("$name")
    done
    write "$out/obj/$2_sources.cpp" < <(
        echo "#include \"$here/sources.h\""
        echo 'const Source KERNEL_SOURCES[] = {'
        for f in ${files[@]+"${files[@]}"}; do printf '{"%s", ' "$f"; embed "$1/$f"; echo '},'; done
        echo '{nullptr, nullptr}};'
        echo 'const Source KERNEL_HEADERS[] = {'
        for f in "$ops"/*.h; do printf '{"%s", ' "${f##*/}"; embed "$f"; echo '},'; done
        echo '{nullptr, nullptr}};'
    )
    add "$2_sources" "$out/obj/$2_sources.cpp"
}
embed() { printf 'R"kx_text('; cat "$1"; printf ')kx_text"'; }

build() { # name
    local o=$out/obj/$1.o d=$out/obj/$1.d f stale=0
    local command="$cxx ${flags[*]} ${flags_of[$1]} -c ${source_of[$1]}"
    # Up to date: the same command, and nothing newer among the files that the compiler read.
    if [[ -f $o && -f $d && $(cat "$out/obj/$1.command" 2>/dev/null) == "$command" ]]; then
        for f in $(sed -E 's/^[^:]*://; s/\\$//' "$d"); do [[ -f $f && ! $f -nt $o ]] || { stale=1; break; }; done
        [[ $stale == 0 ]] && return 0
    fi
    rm -f "$o"
    touch "$out/obj/$1.begun"
    # shellcheck disable=SC2086
    $command -MMD -MF "$d" -o "$o.new" && touch -r "$out/obj/$1.begun" "$o.new" && mv "$o.new" "$o" && printf %s "$command" >"$out/obj/$1.command"
}

build_all() {
    local jobs running=0 failed=0 u
    jobs=$(nproc 2>/dev/null || echo 2)
    for u in "${units[@]}"; do
        if ((running >= jobs)); then wait -n || failed=1; running=$((running - 1)); fi
        build "$u" &
        running=$((running + 1))
    done
    while ((running > 0)); do wait -n || failed=1; running=$((running - 1)); done
    ((failed == 0)) || { echo "tools/emulated_cuda.sh: the build failed" >&2; exit 1; }
}

# A library in a folder, with the name that cudarc tries first beside the one that a driver or a toolkit installs.
link() { # folder, library, units and -l flags...
    local folder=$1 lib=$2 objects=() libraries=() u stale=0; shift 2
    mkdir -p "$folder"
    for u in "$@"; do case $u in -*) libraries+=("$u") ;; *) objects+=("$out/obj/$u.o") ;; esac; done
    [[ -f $folder/$lib && $(cat "$folder/.$lib" 2>/dev/null) == "${objects[*]}" ]] || stale=1
    for u in "${objects[@]}"; do [[ ! $u -nt $folder/$lib ]] || stale=1; done
    if ((stale)); then
        $cxx -shared -Wl,-soname,"$lib" -Wl,-z,nodelete -Wl,-z,defs -Wl,-rpath,'$ORIGIN' -o "$folder/$lib.new" "${objects[@]}" -L "$folder" \
            ${libraries[@]+"${libraries[@]}"} -lpthread
        mv "$folder/$lib.new" "$folder/$lib"
        printf %s "${objects[*]}" >"$folder/.$lib"
    fi
    ln -sfn "$lib" "$folder/${lib%.so.*}.so"
}
link_all() { # folder, prefix of the kernels, kernels...
    local folder=$1 prefix=$2; shift 2
    link "$folder" libcuda.so.1 worker launch faults barriers collectives driver stream memory "$@"
    link "$folder" libnvrtc.so.13 nvrtc "${prefix}_sources"
    link "$folder" libcublasLt.so.13 cublaslt gemm -lcuda
}

for f in worker launch faults barriers collectives driver stream memory nvrtc cublaslt gemm; do add "$f" "$here/$f.cpp"; done

if [[ ${1:-} == --test ]]; then
    kernels "$here/selftest" selftest
    for f in selftest runtime_tests driver_tests matmul_tests; do add "test_$f" "$here/selftest/$f.cpp" "-DSELFTEST_FOLDER=\"$here/selftest\""; done
    build_all
    link_all "$out/test" selftest "${kernel_units[@]}"
    $cxx -o "$out/test/selftest" "$out/obj"/test_*.o -L "$out/test" -Wl,-rpath,"$out/test" -lcuda -lnvrtc -lcublasLt -lpthread
    exec 9>&-
    exec "$out/test/selftest"
fi
kernels "$ops" ops
build_all
link_all "$out/lib" ops ${kernel_units[@]+"${kernel_units[@]}"}
ln -sfn lib "$out/lib64"  # so that the folder also serves as CUDA_HOME
echo "$out/lib"
