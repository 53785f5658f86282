#!/bin/sh
# Builds this bundle for the machine it is run on: the attention plugin (where its CUDA sources are here and nvcc is),
# then the engine, then the self-check against the golden outputs. Run it again after an update of TensorRT.
#
#   ./build.sh                 everything
#   PYTHON=python3.10 ./build.sh     with another Python
#   VITC_KEY=maker.pub ./build.sh    only if the bundle is signed with this key (minisign)
#
# Needs: Python with numpy, tensorrt and vitc (`pip install --no-deps vitc`: no torch is used here).
# What it makes goes beside the bundle, into <bundle>.local/: the bundle itself is never changed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
work="$here.local"

if ! "$python" -c "import vitc.runtime" 2>/dev/null; then
    echo "build.sh: $python can't import vitc.runtime; install it: $python -m pip install --no-deps vitc numpy" >&2
    exit 2
fi

# Nothing of the bundle is compiled before every hash of it is right; with VITC_KEY set, before it is signed with that.
if [ -n "${VITC_KEY:-}" ]; then
    "$python" -m vitc.runtime verify "$here" --key "$VITC_KEY"
else
    "$python" -m vitc.runtime verify "$here"
fi

plugin=""
if [ -f "$here/plugin/CMakeLists.txt" ] && ! "$python" -c "import tensorrt" 2>/dev/null; then
    echo "build.sh: $python has no tensorrt, which the compiled plugin is for: the Python plugin serves, from plugin/cubins"
elif [ -f "$here/plugin/CMakeLists.txt" ]; then
    for tool in cmake nvcc; do
        if ! command -v "$tool" >/dev/null 2>&1 && [ ! -x "/usr/local/cuda/bin/$tool" ]; then
            echo "build.sh: the attention plugin needs $tool, which is not installed (JetPack: apt install cmake" \
                "cuda-nvcc; nvcc is looked for in PATH and in /usr/local/cuda/bin)" >&2
            exit 2
        fi
    done
    PATH="$PATH:/usr/local/cuda/bin"
    export PATH
    cmake -S "$here/plugin" -B "$work/plugin" -DCMAKE_BUILD_TYPE=Release
    cmake --build "$work/plugin" --parallel
    plugin=$(find "$work/plugin" -name 'lib*.so' -type f | LC_ALL=C sort | head -n 1)
    if [ -z "$plugin" ]; then
        echo "build.sh: the build in $work/plugin made no shared library (lib*.so)" >&2
        exit 1
    fi
fi

if [ -n "$plugin" ]; then
    "$python" -m vitc.runtime build "$here" --plugin "$plugin"
else
    "$python" -m vitc.runtime build "$here"
fi

# The engine that was built is what must be right: falling back to the CPU here would prove nothing.
if [ -f "$work/engine.json" ]; then
    "$python" -m vitc.runtime check "$here" --engine tensorrt
else
    "$python" -m vitc.runtime check "$here"
fi
