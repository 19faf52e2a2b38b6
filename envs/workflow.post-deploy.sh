#!/usr/bin/env bash
# Run by Snakemake in the environment that it has made: installs this repository's library and its `flare23`.
set -euo pipefail
: "${FLARE23_REPOSITORY:?the Snakefile sets it}"
python -m pip install --quiet --no-deps "$FLARE23_REPOSITORY"
