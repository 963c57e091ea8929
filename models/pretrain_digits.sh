#!/bin/sh
# Train the teachers of the quickstart on the digits that come with scikit-learn.   sh pretrain_digits.sh [--option value ...]
ROOT=$(cd "$(dirname "$0")/.." && pwd)                                  # the project's root
TEACHERS=${TEACHERS:-resnet18 mobilenet_v2 shufflenet_v2_x0_5 alexnet}
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/teachers/digits}                 # NAME.safetensors and NAME.json per teacher
SEED=${SEED:-0}
MIN_ACCURACY=${MIN_ACCURACY:-95}                                        # least top-1 on the 500 test images, per cent; 0: any
NGPU=${NGPU:-1}
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
# What each net needs (epochs, AlexNet's input resize ...) is the digits recipe in models/pretrain_args.py.
# shellcheck disable=SC2086 # the teachers are a list of names
launch models.pretrain --dataset digits --teachers $TEACHERS --output-dir "$OUTPUT_DIR" --seed "$SEED" \
    --min-accuracy "$MIN_ACCURACY" "$@"
