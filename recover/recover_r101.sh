#!/bin/sh
# Recover, primary teacher ResNet-101, 10 images per class.        sh recover_r101.sh [--option value ...]
ROOT=$(cd "$(dirname "$0")/.." && pwd)                                  # the project's root
TEACHER=${TEACHER:-resnet101}                                           # logit teacher and first BN teacher
BN_TEACHERS=${BN_TEACHERS:-resnet18 mobilenet_v2 efficientnet_b0 shufflenet_v2_x0_5 alexnet}   # pool; the primary is left out
IPC=${IPC:-10}                                                          # images per class
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/prism_r101_ipc$IPC}               # the run folder, shared by the three stages
TRAIN_DIR=${TRAIN_DIR:-/path/to/imagenet/train}                         # one folder per class (wnid)
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-IMAGENET1K_V1}                       # or a folder of NAME.safetensors / NAME.pth
ITERATION=${ITERATION:-4000}                                            # steps of the longest slices
NGPU=${NGPU:-1}
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
# shellcheck disable=SC2086 # the pool is a list of names
launch recover.data_synthesis --primary-teacher "$TEACHER" --bn-teachers $BN_TEACHERS --ipc-end "$IPC" \
    --output-dir "$OUTPUT_DIR" --train-dir "$TRAIN_DIR" --teacher-weights "$TEACHER_WEIGHTS" --iteration "$ITERATION" "$@"
