#!/bin/sh
# Ten ImageNet classes at 224 px from noise, on a CPU, by networks that were trained on ImageNet:
# PRISM beside SRe2L, and what a third network sees.   sh imagenet_laptop.sh [--option value ...]
# Both get the same noise, seeds, steps, learning rate and priors, and --bn-normalise layers: the
# default BN term is far too strong for these networks. About 15 minutes on two cores.
ROOT=$(CDPATH= cd "$(dirname "$0")/.." && pwd)     # the project's root
CLASSES=${CLASSES:-}                               # wnids with commas, or a list; empty: ten
IPC=${IPC:-2}                                      # images per class
ITERATION=${ITERATION:-500}                        # steps of every image
# EfficientNet-Lite0 is the logit teacher of both methods and the only teacher of SRe2L. There are
# three networks, so PRISM has one more BN teacher and leaves the last network to judge both.
BN_TEACHERS=${BN_TEACHERS:-timm/tf_efficientnet_lite1}
VERIFIER=${VERIFIER:-timm/tf_efficientnet_lite2}
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/results/imagenet_laptop}   # teachers, run folders, pictures.png
THREADS=${THREADS:-}                               # of the CPU; empty: PyTorch's choice
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$ROOT"
. ./utils/environment.sh
. ./utils/launch.sh
use_environment requirements-efficientnet-lite.txt
# shellcheck disable=SC2086 # the teachers are a list of names
exec "$PYTHON" -m reproduce.imagenet_laptop ${CLASSES:+--classes "$CLASSES"} --ipc "$IPC" \
    --iteration "$ITERATION" --bn-teachers $BN_TEACHERS --verifier "$VERIFIER" \
    --output-dir "$OUTPUT_DIR" ${THREADS:+--threads "$THREADS"} "$@"
