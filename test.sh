#!/bin/sh
# Set up .venv where needed and run the tests.        sh test.sh [--all] [pytest options ...]
# --all: with the slow ones too. JOBS processes of one thread each share the files of tests.
set -eu
CDPATH= cd "$(dirname "$0")"
. ./utils/environment.sh
use_environment requirements-dev.txt
JOBS=${JOBS:-2}
select="not slow"
if [ "${1:-}" = "--all" ]; then select=""; shift; fi
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest -m "$select" --numprocesses "$JOBS" --dist loadfile "$@"
