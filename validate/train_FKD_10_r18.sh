#!/bin/sh
# Train a ResNet-18 student, 10 images per class.   sh train_FKD_10_r18.sh [--option ...]
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd) # the project's root
PRESET=${PRESET:-prism}                        # or: delt rded sre2l cda gvbsm edc hard-label
STUDENT=${STUDENT:-resnet18}                   # torchvision name or timm/NAME
IPC=${IPC:-10}                                 # images per class, for the folder's name
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/${PRESET}_r18_ipc$IPC}  # run folder of the three stages
VAL_DIR=${VAL_DIR:-}                           # real test images, one folder per class (wnid)
EPOCHS=${EPOCHS:-}                             # as many as were labelled, or fewer
BATCH_SIZE=${BATCH_SIZE:-}                     # empty: the labels' batch size
LOSS_TYPE=${LOSS_TYPE:-}                       # mse_gt, mae_gt, kl, dist, or ce for hard labels
SEED=${SEED:-0}                                # the student's; several can run side by side
NGPU=${NGPU:-1}                                # 2: two GPUs train the student together
if [ "$PRESET" = prism ]; then                 # what is empty; other presets have their own
    : "${EPOCHS:=300}" "${LOSS_TYPE:=mse_gt}"
fi
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
launch validate.train_fkd --preset "$PRESET" --student "$STUDENT" --output-dir "$OUTPUT_DIR" \
    ${VAL_DIR:+--val-dir "$VAL_DIR"} ${EPOCHS:+--epochs "$EPOCHS"} \
    ${BATCH_SIZE:+--batch-size "$BATCH_SIZE"} ${LOSS_TYPE:+--loss-type "$LOSS_TYPE"} \
    --seed "$SEED" "$@"
