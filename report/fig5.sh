#!/bin/sh
# Figure 5: start images above what PRISM and SRe2L made of them.
#     sh fig5.sh [--option value ...]
# PRISM is that of sh table1.sh r18 ipc10 prism. SRe2L starts from noise; from the same images:
#     OUTPUT_DIR=results/tables/sre2l_real_ipc10 sh recover_r18.sh --preset sre2l --start real
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
TABLES=${TABLES:-$ROOT/results/tables}             # where the run folders are
RUNS=${RUNS:-SRe2L=$TABLES/sre2l_real_ipc10
             PRISM=$TABLES/prism_r18_ipc10}        # no spaces in a folder
TRAIN_DIR=${TRAIN_DIR:-}                           # training images, which the images start from
SLICES=${SLICES:-0}                                # which images of a class
OUTPUT=${OUTPUT:-$ROOT/results/figures/fig5.png}   # .png
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
NGPU=1
# shellcheck disable=SC2086 # runs and slices are lists
launch report.figures fig5 --runs $RUNS ${TRAIN_DIR:+--train-dir "$TRAIN_DIR"} --slices $SLICES \
    --output "$OUTPUT" "$@"
