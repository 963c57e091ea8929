#!/bin/sh
# Methods, DAP, settings one by one, and PRISM's Tables 2 and 3 on Fashion-MNIST, with errors over
# seeds and a verdict per ordering of the paper.
#     TRAIN_DIR=DIR sh fashion.sh [PART ...]
# Parts: teachers methods settings ipc table2 table3-labels table3-images; where they are named,
# table2-ipc50 reasons failures dap too. A part takes 20 to 40 minutes on 2 cores. table2-ipc50
# takes an hour, as does dap with its diffusion model. The same command goes on where it stopped.
# Snakemake makes steps side by side (docs/clusters.md).
# CSV_DIR=results/measured keeps the numbers that docs/results.md shows.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
LABORATORY=fashion_mnist
TRAIN_DIR=${TRAIN_DIR:-$ROOT/results/datasets}     # where torchvision keeps or downloads it, or
                                                   # Debian's /usr/share/datasets/fashion-mnist
SEEDS=${SEEDS:-0 1 2}                              # of images, labels and student together
IPC=${IPC:-}                                       # images per class, of Tables 2 and 3; empty: 10
ITERATION=${ITERATION:-}                           # steps of the longest slices; empty: 200
EPOCHS=${EPOCHS:-}                                 # of Tables 2 and 3; empty: 60
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-}               # their folder; empty: they are trained first
DIFFUSION_WEIGHTS=${DIFFUSION_WEIGHTS:-}           # folder of the diffusion model, likewise
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/lab_fashion} # run folders, report.md, pictures
CSV_DIR=${CSV_DIR:-$OUTPUT_DIR}                    # fashion_PART.csv
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
