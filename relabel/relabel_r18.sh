#!/bin/sh
# Soft labels, primary teacher ResNet-18, 10 images per class.   sh relabel_r18.sh [--option ...]
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
PRESET=${PRESET:-prism}                            # or another method's: sre2l cda gvbsm edc
TEACHERS=${TEACHERS:-}                             # the primary first
ENSEMBLE=${ENSEMBLE:-}                             # equal_energy, primary_half, mean or single
IPC=${IPC:-10}                                     # images per class, for the folder's name
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/${PRESET}_r18_ipc$IPC}   # run folder of the three stages
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-IMAGENET1K_V1}  # or a folder of NAME.safetensors / NAME.pth
VAL_DIR=${VAL_DIR:-}                               # real test images that teachers are measured on
EPOCHS=${EPOCHS:-}                                 # of labels; more can be added later
BATCH_SIZE=${BATCH_SIZE:-}                         # the student's batch is the same
NGPU=${NGPU:-1}
if [ "$PRESET" = prism ]; then                     # what is empty; other presets have their own
    : "${TEACHERS:=resnet18 mobilenet_v2 alexnet shufflenet_v2_x0_5}" "${ENSEMBLE:=equal_energy}"
    : "${EPOCHS:=300}" "${BATCH_SIZE:=50}"
fi
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
# shellcheck disable=SC2086 # the teachers are a list of names
launch relabel.generate_soft_label --preset "$PRESET" ${TEACHERS:+--teachers $TEACHERS} \
    ${ENSEMBLE:+--ensemble "$ENSEMBLE"} --output-dir "$OUTPUT_DIR" \
    --teacher-weights "$TEACHER_WEIGHTS" ${VAL_DIR:+--val-dir "$VAL_DIR"} \
    ${EPOCHS:+--epochs "$EPOCHS"} ${BATCH_SIZE:+--batch-size "$BATCH_SIZE"} "$@"
