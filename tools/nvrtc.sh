#!/bin/sh
# NVRTC, NVIDIA's compiler of CUDA C++, for tests that compile the kernels: the Python package nvidia-cuda-nvrtc (45 MB to fetch,
# 230 MB installed) in an environment of its own below target/ (or CARGO_TARGET_DIR), if it is not there. Needs neither a GPU nor a driver.
#
#   tools/nvrtc.sh            installs what is missing and prints the folder of the library; needs python3 with venv, and network
#   tools/nvrtc.sh --check    installs nothing
#
# Exit code 0 if it is there at the end. Otherwise the last line on standard error says why not.
set -eu

# The budget of registers is of this version's assembler.
version=13.0.88

cd "$(dirname "$0")/.."
environment="${CARGO_TARGET_DIR:-$PWD/target}/nvrtc"

refuse() {
    echo "NVRTC $version not found: $1" >&2
    exit 1
}

folder() {
    for folder in "$environment"/lib/python3*/site-packages/nvidia/cu13/lib; do
        if [ -e "$folder/libnvrtc.so.13" ] && [ -e "$folder/../../../nvidia_cuda_nvrtc-$version.dist-info" ]; then
            echo "$folder"
            return
        fi
    done
}

if [ -z "$(folder)" ]; then
    [ "${1:-}" != --check ] || refuse "tools/nvrtc.sh installs a Python package below target/"
    command -v python3 >/dev/null || refuse "python3 is not there"
    python3 -m venv --clear "$environment" >&2 || refuse "python3 -m venv failed"
    "$environment/bin/python3" -m pip install -q --disable-pip-version-check --no-deps "nvidia-cuda-nvrtc==$version" >&2 ||
        refuse "pip install failed"
fi
[ -n "$(folder)" ] || refuse "the package nvidia-cuda-nvrtc did not bring it"
folder
