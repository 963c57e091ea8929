# Sourced by the stage scripts, from the project's root. launch MODULE [option ...] replaces the shell by Python.
# PYTHON: the interpreter (default: the python3 in use if it has PyTorch, else .venv's). NGPU: processes of torchrun.

has_torch() {
    "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null
}

launch() {
    case "${NGPU:=1}" in
        ''|*[!0-9]*|0) echo "error: NGPU=$NGPU, expected a number of processes of 1 or more." >&2; exit 2 ;;
    esac
    case "${PYTHON:=}" in
        /*) ;;
        */*) PYTHON=$CALLER_DIR/$PYTHON ;;
        '') if has_torch python3; then PYTHON=python3; else PYTHON=.venv/bin/python; fi ;;
    esac
    if ! has_torch "$PYTHON"; then
        echo "error: no Python with PyTorch was found (tried $PYTHON). Activate an environment with requirements.txt installed," \
             "set PYTHON to its interpreter, or run sh quickstart.sh once." >&2
        exit 2
    fi
    if [ "$NGPU" -gt 1 ]; then
        exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NGPU" -m -- "$@"  # --: or it takes --start for its own
    fi
    exec "$PYTHON" -m "$@"
}
