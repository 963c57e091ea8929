#!/bin/sh
# Distil the digits that come with scikit-learn, end to end, on a CPU.
#     sh quickstart.sh [--fast] [--option value ...]
# --fast: the same path on fewer images, steps and epochs, without accuracy gates (about a minute).
SEEDS=${SEEDS:-1}                           # students per set, with the seeds 0, 1, ...
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
CDPATH= cd "$(dirname "$0")"
. ./utils/environment.sh
. ./utils/launch.sh
use_environment requirements.txt
exec "$PYTHON" -m reproduce.quickstart --seeds "$SEEDS" "$@"
