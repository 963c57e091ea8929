#!/bin/sh
# Anybody's distilled sets beside random real images, by students of every protocol, on one page.
#     sh compare.sh A=results/prism B=/some/folder [--option value ...]
# A set is a run folder, or another tool's folder of class folders. The same command goes on where
# it stopped. docs/compare.md says what the numbers mean.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)      # the project's root
TRAIN_DIR=${TRAIN_DIR:-}                            # real training images; digits need none
VAL_DIR=${VAL_DIR:-}                                # real test images, likewise
PROTOCOL=${PROTOCOL:-soft hard}                     # --help lists them; plain adds the score ARS
STUDENTS=${STUDENTS:-resnet18}                      # torchvision names or timm/NAME, or NAME@RATE
SEEDS=${SEEDS:-0 1 2}                               # of students and of random real subsets
EPOCHS=${EPOCHS:-}                                  # empty: as the sets' labels, or the protocol's
REAL_TOP1=${REAL_TOP1:-}                            # for LRS: per cent, or train
TEACHERS=${TEACHERS:-}                              # empty: those of the sets' labels
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-}                # likewise
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/compare}     # labels, students, page.html
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
NGPU=1
# shellcheck disable=SC2086 # protocols, students, seeds and teachers are lists
launch reproduce.compare --protocol $PROTOCOL --students $STUDENTS --seeds $SEEDS \
    ${TEACHERS:+--teachers $TEACHERS} ${TEACHER_WEIGHTS:+--teacher-weights "$TEACHER_WEIGHTS"} \
    ${TRAIN_DIR:+--train-dir "$TRAIN_DIR"} ${VAL_DIR:+--val-dir "$VAL_DIR"} \
    ${EPOCHS:+--epochs "$EPOCHS"} ${REAL_TOP1:+--real-top1 "$REAL_TOP1"} \
    --output-dir "$OUTPUT_DIR" "$@"
