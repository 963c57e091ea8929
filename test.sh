#!/bin/sh
# Set up .venv where needed and run the tests.        sh test.sh [--all] [pytest options ...]
# --all: with the slow ones too.
set -eu
cd "$(dirname "$0")"
. ./utils/environment.sh
use_environment requirements-dev.txt
select="not slow"
if [ "${1:-}" = "--all" ]; then select=""; shift; fi
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest -m "$select" "$@"
