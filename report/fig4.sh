#!/bin/sh
# Figure 4: how alike the images of a class are, over the classes, for several sets.
#     sh fig4.sh [--option value ...]
# Paper: mean cosine similarity at most 0.83 for PRISM, 0.86 to 0.92 for SRe2L, G-VBSM and DELT.
# The sets are those of sh table1.sh r18 ipc10 prism sre2l gvbsm delt; their images are enough.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
TABLES=${TABLES:-$ROOT/results/tables}             # where the run folders are
RUNS=${RUNS:-PRISM=$TABLES/prism_r18_ipc10 SRe2L=$TABLES/sre2l_ipc10
             G-VBSM=$TABLES/gvbsm_ipc10 DELT=$TABLES/delt_ipc10}   # no spaces in a folder
NETWORK=${NETWORK:-resnet18}                       # whose penultimate features
TEACHER_WEIGHTS=${TEACHER_WEIGHTS:-IMAGENET1K_V1}  # or a folder of NAME.safetensors / NAME.pth
OUTPUT=${OUTPUT:-$ROOT/results/figures/fig4.png}   # .png, .pdf or .svg; numbers beside it in .csv
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
NGPU=1
# shellcheck disable=SC2086 # the runs are a list
launch report.figures fig4 --runs $RUNS --network "$NETWORK" --teacher-weights "$TEACHER_WEIGHTS" \
    --output "$OUTPUT" "$@"
