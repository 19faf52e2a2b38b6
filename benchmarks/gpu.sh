#!/usr/bin/env bash
# Everything of the project that only a GPU can show, in one go of ten minutes:
#
#   benchmarks/gpu.sh --output FOLDER           writes gpu.json and gpu.log there (benchmarks/gpu.py says more)
#   benchmarks/gpu.sh --output FOLDER --tiny    in tiny sizes on the CPU, to see that it runs
#
# PYTHON is the interpreter (python3 unless given). On a machine that has PyTorch, but neither this project's packages
# nor a package index, the missing ones come as wheels:
#
#   benchmarks/gpu_wheels.sh                    elsewhere: fetches them into build/wheels, which git ignores
#   WHEELS=build/wheels benchmarks/gpu.sh ...   there: installs them into a temporary folder first
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [[ -n ${WHEELS:-} ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH="$PYTHONPATH:$site"
fi
"$python" benchmarks/gpu.py "$@"
