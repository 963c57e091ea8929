#!/bin/sh
# Train a diffusion model on scikit-learn's digits.  sh pretrain_diffusion_digits.sh [--option ...]
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)             # the project's root
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/diffusion/digits}   # pixel_dit.safetensors and samples.png
SEED=${SEED:-0}
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
NGPU=1
cd "$ROOT"
. ./utils/launch.sh
# The recipe (size, shape, steps ...) is in models/diffusion_options.py.
launch models.pretrain_diffusion --dataset digits --output-dir "$OUTPUT_DIR" --seed "$SEED" "$@"
