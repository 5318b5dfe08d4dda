#!/usr/bin/env bash
# Measures this project on a GPU, in less than 8 minutes, into benchmarks/results/gpu.{json,md}.
#
#     benchmarks/gpu.sh                  all steps, on a machine with a GPU; flags of python -m benchmarks.gpu may follow
#     benchmarks/gpu.sh --cpu            a rehearsal without a GPU: every step, small, into build/gpu/
#     benchmarks/gpu.sh --wheels .whl    download the packages that a bare machine lacks, on one with a network
#
# The machine needs Python 3.12 with torch for CUDA (2.11 or later, whatever pyproject.toml pins), numpy,
# safetensors, Pillow, httpx, prometheus-client, rich, uvloop, scikit-learn and pytest; a C compiler with
# Python's headers makes it faster. What else the service imports comes from wheels in the folder .whl
# (WHEELS below, 15 MB, for Linux on x86-64), if there is one; nothing is downloaded, and no environment is
# changed. Steps, their limits and sizes are in benchmarks/gpu/plan.py.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
FOLDER=.whl
WHEELS="annotated-types brotli fastapi fastapi_offline httptools opentelemetry-api orjson pydantic
    pydantic-settings pydantic_core pysimdjson python-dotenv python-multipart starlette starlette-compress
    typing-inspection typing_extensions uvicorn zstandard"

if [ "${1:-}" = --wheels ]; then
    pins=()
    for name in $WHEELS; do
        pins+=("$(grep "^$name==" constraints.txt)")
    done
    platforms=()
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
        platforms+=(--platform "${tag}_x86_64")
    done
    exec "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp "${platforms[@]}" --dest "${2:?a folder for the wheels}" "${pins[@]}"
fi

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if ! "$PYTHON" -c "import fastapi" 2> /dev/null; then
    # Without them, what needs no HTTP is still measured.
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" \
        "$FOLDER"/*.whl || echo "the wheels in $FOLDER were not installed" >&2
fi
PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 "$PYTHON" -m benchmarks.gpu --site "$site" "$@"
