#!/usr/bin/env bash
# Shows that the tests would see a barrier that is missing from a kernel: leaves out one after the other (__syncthreads, __syncwarp,
# copy_async_wait) on the emulated device, and runs the tests that reach it, under several schedules, until one fails.
#
#   tools/barriers.sh             every barrier: two minutes of a core
#   tools/barriers.sh FILE…       those of these files, such as attention.cu or kx.h
#
# Exit code 1 if one is not missed, and crates/compute/emulated/barriers.allow does not say why. JOBS: tests at once (default: all cores).
set -euo pipefail
cd "$(dirname "$0")/.."
ops=$PWD/crates/compute/src/ops
allowed=$PWD/crates/compute/emulated/barriers.allow
work=${CARGO_TARGET_DIR:-$PWD/target}/barriers
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
schedules=(0 1 42 7 99)
began=$SECONDS

# Programs whose tests compare a device with the processor; of the library's own tests, those of what starts kernels.
targets=(--lib)
for test in ${TESTS:-$(cd crates/compute/tests && grep -lE '\bdevices\(\)' -- *.rs)}; do targets+=(--test "${test%.rs}"); done

lib=$(tools/emulated_cuda.sh)
mapfile -t programs < <(cargo test --quiet --package fd-compute "${targets[@]}" --no-run --message-format=json |
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4)
[[ $((2 * ${#programs[@]} - 1)) == "${#targets[@]}" ]] || { echo "tools/barriers.sh: the tests could not be built" >&2; exit 1; }
rm -rf "$work"
mkdir -p "$work/reached"
work=$(cd "$work" && pwd)
export LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} FD_TEST_CUDA=1 FD_CACHE_DIR=$work/cache FD_EMULATED_THREADS=1 RAYON_NUM_THREADS=1
ulimit -c 0        # tests will abort
cd crates/compute  # where cargo runs tests

# Runs commands side by side: as many as there may be, the last ones until they are done.
running=0
in_turn() {
    if ((running >= jobs)); then wait -n || true; running=$((running - 1)); fi
    "$@" &
    running=$((running + 1))
}
all_done() { wait; running=0; }

name_of() { local n=${1##*/}; echo "${n%-*}::$2"; } # program, test

# Which barriers a test reaches, and how many seconds of a core it takes. A test that reaches none is of no use here.
watch() { # program, test
    local name file TIMEFORMAT=%U
    name=$(name_of "$1" "$2")
    file=$work/reached/$name
    if ! { time FD_EMULATED_REACHED=$file.lines "$1" --exact "$2" >"$file.log" 2>&1; } 2>"$file.time"; then echo "$name" >>"$work/failed"; return; fi
    [[ -f $file.lines ]] || return 0
    echo "$(tail -n 1 "$file.time") $1 $2 $file.lines" >>"$work/tests"
}
for program in "${programs[@]}"; do
    only=
    [[ ${program##*/} != fd_compute-* ]] || only=cuda::
    while IFS= read -r test; do in_turn watch "$program" "$test"; done < <("$program" --list $only 2>/dev/null | sed -n 's/: test$//p')
done
all_done
[[ ! -f $work/failed ]] || { echo "tools/barriers.sh: with every barrier in its place these fail, see $work/reached: $(tr '\n' ' ' <"$work/failed")" >&2; exit 1; }
touch "$work/tests"
sort -n -o "$work/tests" "$work/tests"
echo "$(wc -l <"$work/tests") tests reach barriers of kernels, in $((SECONDS - began)) s"

# FILE:LINE, which of the file's barriers it is, and what it says, one a line, for a file below ops.
barriers() {
    awk -v file="$1" '{
        code = $0; sub(/\/\/.*/, "", code)
        if (n = gsub(/__syncthreads *\(|__syncwarp *\(|copy_async_wait *</, "&", code)) {
            if (n > 1) { print "tools/barriers.sh: " file ":" NR ": two barriers in one line" > "/dev/stderr"; exit 1 }
            match(code, /__syncthreads|__syncwarp|copy_async_wait/)
            print file ":" NR, ++count, substr(code, RSTART, RLENGTH)
        }
    }' "$ops/$1"
}

# Leaves out a barrier until a test fails. The quickest tests come first.
leave_out() { # file:line, which, statement
    local schedule time program test reached i found tests=()
    while read -r time program test reached; do
        if grep -q "/$1\$" "$reached"; then tests+=("$program" "$test"); fi
    done <"$work/tests"
    found="NOT caught: $((${#tests[@]} / 2)) tests reach it"
    for schedule in "${schedules[@]}"; do
        for ((i = 0; i < ${#tests[@]}; i += 2)); do
            { FD_EMULATED_WITHOUT=$1 FD_EMULATED_SCHEDULE=$schedule timeout 900 "${tests[i]}" --exact "${tests[i + 1]}" >/dev/null; } 2>/dev/null && continue
            found="caught (schedule $schedule, $(name_of "${tests[i]}" "${tests[i + 1]}"))"
            break 2
        done
    done
    local excuse
    excuse=$(sed -n "s|^${1%:*} $2: *||p" "$allowed")
    case $found in
        caught*) [[ -z $excuse ]] || { found="$found, although barriers.allow excuses it"; echo "$1" >>"$work/wrong"; } ;;
        *) if [[ $excuse ]]; then found="$found; $excuse"; else echo "$1" >>"$work/wrong"; fi ;;
    esac
    echo "$1" >>"$work/done"
    printf '%-22s %2d %-15s %s\n' "$1" "$2" "$3" "$found"
}

files=("$@")
[[ ${#files[@]} -gt 0 ]] || mapfile -t files < <(cd "$ops" && find . -name '*.cu' -o -name '*.h' | sed 's|^\./||' | LC_ALL=C sort)
for file in "${files[@]}"; do
    [[ -f $ops/$file ]] || { echo "tools/barriers.sh: there is no crates/compute/src/ops/$file" >&2; exit 2; }
    here=$(barriers "$file")
    while read -r place which statement; do
        [[ -z $place ]] || in_turn leave_out "$place" "$which" "$statement"
    done <<<"$here"
done
all_done
[[ -f $work/done ]] || { echo "tools/barriers.sh: there are no barriers" >&2; exit 2; }
wrong=0
[[ ! -f $work/wrong ]] || wrong=$(wc -l <"$work/wrong")
echo "$(wc -l <"$work/done") barriers left out one by one, $wrong wrong, in $((SECONDS - began)) s"
[[ $wrong == 0 ]]
