#!/bin/sh
# DAP: images from a diffusion model, guided towards real ones.   sh recover_dap.sh [--option ...]
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
DATASET=${DATASET:-imagefolder}                    # or digits fashion_mnist cifar10 cifar100
BACKBONE=${BACKBONE:-}                             # dit sd pixel-dit; empty: dit, digits pixel-dit
WEIGHTS=${WEIGHTS:-}                               # hub name or folder; empty: the published ones
CLASSES=${CLASSES:-}                               # imagenette imagewoof imageidc, or a file
GAMMA=${GAMMA:-1}                                  # strength of the guidance; 0: plain sampling
IPC=${IPC:-10}                                     # images per class
SEED=${SEED:-0}                                    # of the images; the paper has three sets
SET=$(basename "${CLASSES:-$DATASET}" .txt)
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/dap_${SET}_ipc$IPC}   # run folder of the stages
TRAIN_DIR=${TRAIN_DIR:-}                           # real images, one folder per class (wnid)
IMAGE_SIZE=${IMAGE_SIZE:-}                         # saved at; empty: as sampled; soft labels: 224
NGPU=${NGPU:-1}
if [ "$DATASET" = digits ]; then
    : "${BACKBONE:=pixel-dit}" "${WEIGHTS:=$ROOT/results/diffusion/digits}"
fi
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
launch recover.dap_synthesis --dataset "$DATASET" --backbone "${BACKBONE:-dit}" \
    ${WEIGHTS:+--weights "$WEIGHTS"} ${CLASSES:+--classes "$CLASSES"} --gamma "$GAMMA" \
    --ipc-end "$IPC" --seed "$SEED" --output-dir "$OUTPUT_DIR" \
    ${TRAIN_DIR:+--train-dir "$TRAIN_DIR"} ${IMAGE_SIZE:+--image-size "$IMAGE_SIZE"} "$@"
