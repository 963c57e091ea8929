#!/bin/sh
# Train students on distilled ImageIDC with hard labels.   sh train_hard_idc.sh [--option ...]
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd) # the project's root
PROTOCOL=${PROTOCOL:-igd}                      # or: minimax, dc
NET=${NET:-resnetap10}                         # or: convnet6, resnet18_in, ...
IPC=${IPC:-10}                                 # images per class, for the folder's name
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/dap_imageidc_ipc$IPC}  # run folder, with images/ in it
VAL_DIR=${VAL_DIR:-}                           # real test images, one folder per class (wnid)
SEEDS=${SEEDS:-}                               # such as "0 1 2"; empty: the protocol's
NGPU=${NGPU:-1}                                # 2: the seeds are shared out over two GPUs
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/launch.sh
launch validate.train_hard --protocol "$PROTOCOL" --student "$NET" --output-dir "$OUTPUT_DIR" \
    ${VAL_DIR:+--val-dir "$VAL_DIR"} ${SEEDS:+--seeds $SEEDS} "$@"
