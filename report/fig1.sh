#!/bin/sh
# Figure 1: features of ten classes in two dimensions, a panel per set.
#     sh fig1.sh [--option value ...]
# UMAP as in the paper needs pip install umap-learn; without it this is t-SNE. The paper
# does not say which ten classes it took: --classes n01440764 n01443537 ... chooses.
# The sets are those of sh table1.sh r18 ipc50 prism sre2l gvbsm delt; their images are enough.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
TABLES=${TABLES:-$ROOT/results/tables}             # where the run folders are
RUNS=${RUNS:-PRISM=$TABLES/prism_r18_ipc50 SRe2L=$TABLES/sre2l_ipc50
             G-VBSM=$TABLES/gvbsm_ipc50 DELT=$TABLES/delt_ipc50}   # no spaces in a folder
NETWORK=${NETWORK:-resnet18}                       # whose penultimate features
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-IMAGENET1K_V1}  # or a folder of NAME.safetensors / NAME.pth
EMBEDDING=${EMBEDDING:-auto}                       # umap where installed, or tsne
OUTPUT=${OUTPUT:-$ROOT/results/figures/fig1.png}   # .png, .pdf or .svg
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
NGPU=1
# shellcheck disable=SC2086 # the runs are a list
launch report.figures fig1 --runs $RUNS --network "$NETWORK" --teacher-weights "$TEACHER_WEIGHTS" \
    --embedding "$EMBEDDING" --output "$OUTPUT" "$@"
