#!/bin/sh
# Train a ResNet-50 student on 10 images per class and test it.        sh train_FKD_10_r50.sh [--option value ...]
ROOT=$(cd "$(dirname "$0")/.." && pwd)
STUDENT=${STUDENT:-resnet50}
IPC=${IPC:-10}
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/prism_r50_ipc$IPC}  # what recover and relabel filled
VAL_DIR=${VAL_DIR:-/path/to/imagenet/val}                  # one folder per class
EPOCHS=${EPOCHS:-300}
BATCH_SIZE=${BATCH_SIZE:-50}
LOSS_TYPE=${LOSS_TYPE:-mse_gt}
CE_WEIGHT=${CE_WEIGHT:-0.1}
SEED=${SEED:-0}
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
launch validate.train_fkd --output-dir "$OUTPUT_DIR" --val-dir "$VAL_DIR" --student "$STUDENT" --epochs "$EPOCHS" \
    --batch-size "$BATCH_SIZE" --loss-type "$LOSS_TYPE" --ce-weight "$CE_WEIGHT" --seed "$SEED" "$@"
