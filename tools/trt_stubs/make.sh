#!/usr/bin/env bash
# Type-checks vitc's use of TensorRT against the real bindings of every TensorRT it is for.
#
#   tools/trt_stubs/make.sh [CACHE]      (default: .cache/trt_stubs)
#
# The bindings' wheels are small but can't be imported without TensorRT's libraries, so three libraries that hold
# nothing but their entry points stand in. pybind11-stubgen then writes the stubs, once a version; mypy reads them.
# Needs gcc, pip, mypy and a Python for which the wheels exist (3.10 to 3.13 for most). The stubs are never committed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$(mkdir -p "${1:-$root/.cache/trt_stubs}" && cd "${1:-$root/.cache/trt_stubs}" && pwd)
python=${PYTHON:-python3}

# Name, wheel, module with the bindings, major version in the libraries' names.
versions=(
    "10.3   tensorrt-cu12-bindings==10.3.0     tensorrt_bindings.tensorrt         10"
    "10.16  tensorrt-cu13-bindings==10.16.1.11 tensorrt_bindings.tensorrt         10"
    "11.4   tensorrt-cu13-bindings==11.4.0.106 tensorrt_bindings.tensorrt         11"
    "rtx    tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt_rtx_bindings.tensorrt_rtx  1"
)

make_libraries() { # FOLDER MAJOR
    local library
    mkdir -p "$1"
    for library in nvinfer nvinfer_plugin nvonnxparser tensorrt_rtx tensorrt_onnxparser_rtx; do
        gcc -shared -fPIC -w -Wl,-soname,"lib$library.so.$2" -o "$1/lib$library.so.$2" "$here/entry_points.c"
    done
}

make_stubs() { # NAME REQUIREMENT MODULE MAJOR
    local folder=$cache/$1 wheel
    [ -f "$folder/done" ] && return
    rm -rf "$folder"
    mkdir -p "$folder"
    "$python" -m pip download -q --no-deps --only-binary=:all: -d "$folder/wheel" "$2"
    wheel=("$folder"/wheel/*.whl)
    "$python" -m zipfile -e "${wheel[0]}" "$folder/bindings"
    make_libraries "$folder/libraries" "$4"
    PYTHONPATH=$folder/bindings:$cache/stubgen LD_LIBRARY_PATH=$folder/libraries \
        "$python" -m pybind11_stubgen --ignore-all-errors -o "$folder/stubs" "$3" > "$folder/stubgen.log" 2>&1
    "$python" "$here/fix_stubs.py" "$folder/stubs"
    mkdir -p "$folder/stubs/tensorrt"
    printf 'from %s import *\n__version__: str\n' "$3" > "$folder/stubs/tensorrt/__init__.pyi"
    rm -rf "$folder/wheel" "$folder/bindings"
    touch "$folder/done"
}

[ -d "$cache/stubgen/pybind11_stubgen" ] ||
    "$python" -m pip install -q --target "$cache/stubgen" pybind11-stubgen==3.0.0

status=0
for version in "${versions[@]}"; do
    read -r name requirement module major <<< "$version"
    make_stubs "$name" "$requirement" "$module" "$major"
    echo "TensorRT $name: $requirement"
    "$python" "$here/check.py" "$cache/$name/stubs" || status=1
done
exit $status
