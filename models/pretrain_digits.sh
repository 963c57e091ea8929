#!/bin/sh
# Train the quickstart's teachers on scikit-learn's digits.   sh pretrain_digits.sh [--option ...]
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)            # the project's root
TEACHERS=${TEACHERS:-resnet18 mobilenet_v2 shufflenet_v2_x0_5 alexnet}
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/teachers/digits}   # NAME.safetensors and NAME.json
SEED=${SEED:-0}
MIN_ACCURACY=${MIN_ACCURACY:-95}                          # least top-1 of the 500 test images, %
NGPU=${NGPU:-1}
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
# What each network needs (epochs, AlexNet's input resize ...) is in models/pretrain_options.py.
# shellcheck disable=SC2086 # the teachers are a list of names
launch models.pretrain --dataset digits --teachers $TEACHERS --output-dir "$OUTPUT_DIR" \
    --seed "$SEED" --min-accuracy "$MIN_ACCURACY" "$@"
