#!/bin/sh
# DAP's ablations, the paper's numbers beside ours: images and students for each row.
#     sh ablation_dap.sh [gamma layer ...] [--dry-run] [--list]
# Words: gamma layer kernel range reals scale (the panels), and a row's own; without words all 28
# cells are made.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)   # the project's root
TABLE=ablation_dap
DATASET=${DATASET:-imagefolder}                  # or digits: small, on a CPU
TRAIN_DIR=${TRAIN_DIR:-}                         # real training images, one folder per class (wnid)
VAL_DIR=${VAL_DIR:-}                             # real test images, likewise
DIFFUSION_WEIGHTS=${DIFFUSION_WEIGHTS:-}         # hub name or folder of DiT; empty: published
OUTPUT_DIR=${OUTPUT_DIR:-}                       # of all run folders; empty: results/tables
IPC=${IPC:-}                                     # images per class; empty: 10
EPOCHS=${EPOCHS:-}                               # of all students; empty: the protocols'
SEEDS=${SEEDS:-0 1 2}                            # of images and student: the paper's three runs
FULL_SEEDS=${FULL_SEEDS:-1}                      # 0: of the student alone
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
