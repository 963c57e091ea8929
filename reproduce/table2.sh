#!/bin/sh
# Cells of Table 2, the paper's numbers beside ours: recover and validate for each.
#     sh table2.sh [dual-pre multi4 ...] [--dry-run] [--list]
# Words: real sre2l single-intra dual-intra single-pre dual-pre multi2 multi3 multi4; without words
# all 9 cells are made.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)   # the project's root
TABLE=table2
DATASET=${DATASET:-imagefolder}                  # or digits (on a CPU) fashion_mnist cifar10 ...
TRAIN_DIR=${TRAIN_DIR:-}                         # real training images, one folder per class (wnid)
VAL_DIR=${VAL_DIR:-}                             # real test images, likewise
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-}             # or a folder of NAME.safetensors; empty: published
OUTPUT_DIR=${OUTPUT_DIR:-}                       # of all run folders; empty: results/tables
IMAGE_SIZE=${IMAGE_SIZE:-}                       # side in pixels; empty: 224, other data 32
IPC=${IPC:-}                                     # per class; empty: 1300, that is all (digits: 10)
ITERATION=${ITERATION:-}                         # replaces 4000 steps, others in proportion
EPOCHS=${EPOCHS:-}                               # replaces 90
SEEDS=${SEEDS:-0 1 2}                            # of the student
FULL_SEEDS=${FULL_SEEDS:-0}                      # 1: seeds of images and labels too
UNITS_PER_STEP=${UNITS_PER_STEP:-}               # units that share a forward in recover
PRECISION=${PRECISION:-}                         # of all stages: bf16; empty: fp32
THREADS=${THREADS:-}                             # of the CPU
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
if [ "${NGPU:-1}" != 1 ]; then
    echo "error: NGPU=$NGPU: this script runs one command after the other. Several GPUs are kept" \
         "busy by snakemake -s reproduce/Snakefile $TABLE (docs/clusters.md)." >&2
    exit 2
fi
# shellcheck disable=SC2086 # the seeds are a list of numbers
launch reproduce.run "$TABLE" --seeds $SEEDS --full-seeds "$FULL_SEEDS" --dataset "$DATASET" \
    ${TRAIN_DIR:+--train-dir "$TRAIN_DIR"} ${VAL_DIR:+--val-dir "$VAL_DIR"} \
    ${OUTPUT_DIR:+--output-dir "$OUTPUT_DIR"} ${IMAGE_SIZE:+--image-size "$IMAGE_SIZE"} \
    ${TEACHER_WEIGHTS:+--teacher-weights "$TEACHER_WEIGHTS"} ${IPC:+--ipc "$IPC"} \
    ${DIFFUSION_WEIGHTS:+--diffusion-weights "$DIFFUSION_WEIGHTS"} \
    ${ITERATION:+--iteration "$ITERATION"} ${EPOCHS:+--epochs "$EPOCHS"} \
    ${LABEL_STORE:+--label-store "$LABEL_STORE"} \
    ${ONLINE_TEACHER:+--online-teacher "$ONLINE_TEACHER"} \
    ${UNITS_PER_STEP:+--units-per-step "$UNITS_PER_STEP"} \
    ${PRECISION:+--precision "$PRECISION"} ${THREADS:+--threads "$THREADS"} "$@"
