#!/usr/bin/env bash
# Run by Snakemake in the environment that it has made: installs this repository's library and its `flare23`, in place:
# Snakemake does not make the environment again when the library changes.
set -euo pipefail
: "${FLARE23_REPOSITORY:?the Snakefile sets it}"
python -m pip install --quiet --no-deps --editable "$FLARE23_REPOSITORY"
