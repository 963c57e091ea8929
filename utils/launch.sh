# Sourced by the scripts, from the project's root. launch MODULE [option ...] replaces the shell by
# Python. PYTHON: the interpreter (default: the python3 in use if it has PyTorch, else .venv's).
# NGPU: processes of torchrun.

# A thread of PyTorch's OpenMP (libgomp) that has nothing to do spins 300,000 times before it
# sleeps, which keeps a core from another process. Two trainings of ResNet-18 on digits side by
# side, two threads each, took 19.5 s on 2 cores with that, once 61 s, and 12.4 s with 1000 spins.
# One alone took 8.0 s and 8.1 s at best.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"

has_torch() {
    "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' \
        2>/dev/null
}

only_prints() {  # whether the options ask for text that needs no PyTorch
    for option; do
        case "$option" in -h|--help|--list|--dry-run) return 0 ;; esac
    done
    return 1
}

launch() {
    case "${NGPU:=1}" in
        ''|*[!0-9]*|0|????*)
            echo "error: NGPU=$NGPU, expected a number of processes from 1 to 999." >&2; exit 2 ;;
    esac
    case "${PYTHON:=}" in
        /*) ;;
        */*) PYTHON=$CALLER_DIR/$PYTHON ;;
        '') PYTHON=python3
            if ! has_torch python3 && [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi ;;
    esac
    if only_prints "$@"; then exec "$PYTHON" -m "$@"; fi
    if ! has_torch "$PYTHON"; then
        echo "error: no Python with PyTorch was found (tried $PYTHON). Activate an environment" \
             "with requirements.txt installed, set PYTHON to its interpreter, or run sh" \
             "quickstart.sh once." >&2
        exit 2
    fi
    if [ "$NGPU" -gt 1 ]; then  # --: or torchrun takes --start for one of its own options
        exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NGPU" -m -- "$@"
    fi
    exec "$PYTHON" -m "$@"
}
