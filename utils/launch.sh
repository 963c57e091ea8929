# Sourced by the stage scripts, from the project's root. launch MODULE [option ...] replaces the shell by Python.
# PYTHON: the interpreter (default: the active environment's, else .venv's, else python3). NGPU: processes of torchrun.

if [ -z "${PYTHON:-}" ]; then
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi

launch() {
    if [ "${NGPU:-1}" -gt 1 ]; then
        exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NGPU" -m "$@"
    fi
    exec "$PYTHON" -m "$@"
}
