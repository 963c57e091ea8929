#!/bin/sh
# A job of the Snakefile: a stage, on a GPU that no other job of this machine uses.
#     sh reproduce/job.sh MODULE [option ...]
# Where one GPU is visible, because Slurm gave it, or none, the stage runs as it is.
set -eu
export CALLER_DIR="${CALLER_DIR:-$PWD}"
CDPATH= cd "$(dirname "$0")/.."
. ./utils/launch.sh
NGPU=1

if [ -z "${CUDA_VISIBLE_DEVICES+set}" ] && command -v nvidia-smi >/dev/null; then
    CUDA_VISIBLE_DEVICES=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd , -)
fi
case "${CUDA_VISIBLE_DEVICES:-}" in
    *,*) ;;
    *) launch "$@" ;;
esac

if ! command -v flock >/dev/null; then
    echo "error: flock was not found, which shares the GPUs out to jobs. Install util-linux." >&2
    exit 2
fi
# A lock ends with the process that holds the file open, however it ends.
locks=${TMPDIR:-/tmp}/prism_gpus_$(id -u)
mkdir -p "$locks"
while :; do
    for gpu in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do
        exec 9>>"$locks/$gpu"
        if flock -n 9; then
            export CUDA_VISIBLE_DEVICES="$gpu"
            launch "$@"
        fi
    done
    sleep 1
done
