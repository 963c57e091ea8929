#!/bin/sh
# Cells of Table 3, paper beside ours: recover, relabel and validate for each.   sh table3.sh [labels mse0.1 ...] [--dry-run]
# Words: labels recovery batch teachers lr backbones schedule (the panels), and a row's own; none: all 25 cells.
ROOT=$(cd "$(dirname "$0")/.." && pwd)                                  # the project's root
TABLE=table3
DATASET=${DATASET:-imagefolder}                                         # or digits: small, on a CPU, teachers trained first
TRAIN_DIR=${TRAIN_DIR:-/path/to/imagenet/train}                         # real training images, one folder per class (wnid)
VAL_DIR=${VAL_DIR:-/path/to/imagenet/val}                               # real test images, likewise
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-}                                    # or a folder of NAME.safetensors; empty: published ones
OUTPUT_DIR=${OUTPUT_DIR:-}                                              # of all run folders; empty: results/tables
IMAGE_SIZE=${IMAGE_SIZE:-}                                              # side in pixels; empty: 224, digits 32
IPC=${IPC:-}                                                            # images per class; empty: 10 (digits: 5)
ITERATION=${ITERATION:-}                                                # replaces 4000 steps, others in proportion
EPOCHS=${EPOCHS:-}                                                      # replaces 300
SEEDS=${SEEDS:-0 1 2}                                                   # of the student
FULL_SEEDS=${FULL_SEEDS:-0}                                             # 1: seeds of images and labels too
LABEL_STORE=${LABEL_STORE:-}                                            # none: make labels again in validate instead of storing them
UNITS_PER_STEP=${UNITS_PER_STEP:-}                                      # units that share a forward in recover
NGPU=${NGPU:-1}                                                         # each runs one cell, part of a cell or seed at a time
THREADS=${THREADS:-}                                                    # of the CPU, for each of the NGPU
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
PROCESSES=$NGPU NGPU=1
# shellcheck disable=SC2086 # the seeds are a list of numbers
launch reproduce.run "$TABLE" --seeds $SEEDS --full-seeds "$FULL_SEEDS" --dataset "$DATASET" --ngpu "$PROCESSES" \
    --train-dir "$TRAIN_DIR" --val-dir "$VAL_DIR" ${OUTPUT_DIR:+--output-dir "$OUTPUT_DIR"} \
    ${TEACHER_WEIGHTS:+--teacher-weights "$TEACHER_WEIGHTS"} ${IMAGE_SIZE:+--image-size "$IMAGE_SIZE"} \
    ${ITERATION:+--iteration "$ITERATION"} ${EPOCHS:+--epochs "$EPOCHS"} ${UNITS_PER_STEP:+--units-per-step "$UNITS_PER_STEP"} \
    ${IPC:+--ipc "$IPC"} ${LABEL_STORE:+--label-store "$LABEL_STORE"} ${ONLINE_TEACHER:+--online-teacher "$ONLINE_TEACHER"} \
    ${THREADS:+--threads "$THREADS"} "$@"
