#!/bin/sh
# Measure a GPU in seven minutes, the most valuable first.          sh gpu.sh [--option value ...]
# It uses what is installed and needs no network. --device cpu tries the command itself.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
BUDGET=${BUDGET:-420}                              # seconds; what does not fit is left out
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/benchmarks} # gpu_cuda.json, rewritten after every part
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
NGPU=1
launch benchmarks.gpu --budget "$BUDGET" --output-dir "$OUTPUT_DIR" "$@"
