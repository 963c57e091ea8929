#!/bin/sh
# Distil images end to end: the digits that come with scikit-learn, or your own.
#     sh quickstart.sh [--fast] [--option value ...]
#     sh quickstart.sh --train-dir my/train --val-dir my/test [--minutes 30] [--option value ...]
# --fast: the same path on fewer images, steps and epochs, without accuracy gates (about a minute).
# --dry-run: print the plan for your images, and the commands, and stop.
SEEDS=${SEEDS:-1}                           # students per set, with the seeds 0, 1, ...
# ---- nothing to edit below ----
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
CDPATH= cd "$(dirname "$0")"
. ./utils/environment.sh
. ./utils/launch.sh
use_environment requirements.txt
exec "$PYTHON" -m reproduce.quickstart --seeds "$SEEDS" "$@"
