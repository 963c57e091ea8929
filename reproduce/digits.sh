#!/bin/sh
# The paper's Tables 2 and 3 on digits, with errors over seeds and a verdict per ordering, and what
# the format of soft labels costs a student.
#     sh digits.sh [table2] [table3] [labels]
# About an hour on 2 cores. CSV_DIR=results/measured keeps the numbers that docs/results.md shows.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
LABORATORY=digits
TRAIN_DIR=                                         # digits need no folder
SEEDS=${SEEDS:-0 1 2}                              # of images, labels and student together
IPC=${IPC:-}                                       # images per class; empty: 10, Table 3 5
ITERATION=${ITERATION:-}                           # steps of the longest slices; empty: 100
EPOCHS=${EPOCHS:-}                                 # empty: 60, Table 2 50
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-}               # their folder; empty: they are trained first
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/lab_digits} # run folders, report.md, pictures
CSV_DIR=${CSV_DIR:-$OUTPUT_DIR}                    # digits_PART.csv
THREADS=${THREADS:-}                               # of the CPU
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
NGPU=1
# shellcheck disable=SC2086 # the seeds are a list of numbers
launch reproduce.laboratory "$LABORATORY" --seeds $SEEDS --output-dir "$OUTPUT_DIR" \
    --csv-dir "$CSV_DIR" ${TRAIN_DIR:+--train-dir "$TRAIN_DIR"} ${IPC:+--ipc "$IPC"} \
    ${ITERATION:+--iteration "$ITERATION"} ${EPOCHS:+--epochs "$EPOCHS"} \
    ${TEACHER_WEIGHTS:+--teacher-weights "$TEACHER_WEIGHTS"} \
    ${DIFFUSION_WEIGHTS:+--diffusion-weights "$DIFFUSION_WEIGHTS"} \
    ${THREADS:+--threads "$THREADS"} "$@"
