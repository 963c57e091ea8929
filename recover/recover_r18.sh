#!/bin/sh
# Recover, primary teacher ResNet-18, 10 images per class.   sh recover_r18.sh [--option value ...]
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
PRESET=${PRESET:-prism}                            # or sre2l cda rded delt gvbsm edc
TEACHER=${TEACHER:-resnet18}                       # logit teacher and first BN teacher
BN_TEACHERS=${BN_TEACHERS:-}                       # pool of extra ones; empty: the preset's
#                          resnet18 mobilenet_v2 efficientnet_b0 shufflenet_v2_x0_5 alexnet
IPC=${IPC:-10}                                     # images per class
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/${PRESET}_r18_ipc$IPC}   # run folder of the three stages
TRAIN_DIR=${TRAIN_DIR:-}                           # one folder per class (wnid)
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-}               # or a folder of NAME.safetensors / NAME.pth
ITERATION=${ITERATION:-}                           # steps of the longest slices; empty: 4000
NGPU=${NGPU:-1}
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
# shellcheck disable=SC2086 # the pool is a list of names
launch recover.data_synthesis --preset "$PRESET" --primary-teacher "$TEACHER" \
    ${BN_TEACHERS:+--bn-teachers $BN_TEACHERS} --ipc-end "$IPC" --output-dir "$OUTPUT_DIR" \
    ${TRAIN_DIR:+--train-dir "$TRAIN_DIR"} \
    ${TEACHER_WEIGHTS:+--teacher-weights "$TEACHER_WEIGHTS"} \
    ${ITERATION:+--iteration "$ITERATION"} "$@"
