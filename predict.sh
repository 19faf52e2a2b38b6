#!/bin/sh
# The challenge's contract: every X_0000.nii.gz in /workspace/inputs becomes X.nii.gz in /workspace/outputs.
# Elsewhere: FLARE23_INPUTS, FLARE23_OUTPUTS and FLARE23_MODEL (a folder with model.json and model.safetensors).
# What follows on the command line goes to `flare23 predict`.
set -eu
exec flare23 predict \
  --model "${FLARE23_MODEL:-/workspace/model}" \
  --input "${FLARE23_INPUTS:-/workspace/inputs}" \
  --output "${FLARE23_OUTPUTS:-/workspace/outputs}" \
  --no-label-files \
  "$@"
