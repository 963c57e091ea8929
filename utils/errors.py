"""One clear sentence for a user's mistake instead of a traceback."""

import contextlib
import errno
import os
import select
import signal
import sys

from utils.text import printable

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full. Free some space and run the same command again: finished work "
                  "is kept.",
    errno.EDQUOT: "the disk quota is used up. Free some space and run the same command again: "
                  "finished work is kept.",
    errno.ENOENT: "no such file or folder. If it was removed while the command ran, run the same "
                  "command again.",
    errno.EACCES: "no permission. Choose another folder or change its permissions.",
    errno.EPERM: "no permission. Choose another folder or change its permissions.",
    errno.EROFS: "the file system is read-only. Choose another folder.",
    errno.EFBIG: "the file is larger than allowed here (ulimit -f, or the kind of file system). "
                 "Raise the limit or choose another folder.",
    errno.EIO: "the disk failed to read or write. Check it, or choose another folder.",
    errno.ENAMETOOLONG: "this name is too long. Choose a shorter one.",
    errno.ENOTDIR: "a part of this path is a file, expected a folder. Move the file away or choose "
                   "another folder.",
    errno.EEXIST: "is a file, expected a folder. Move it away or choose another folder.",
    errno.EISDIR: "is a folder, expected a file. Move it away or choose another path.",
}
# PyTorch, cuDNN, cuBLAS and NCCL each have their own words for a GPU without room. Errors are known
# by their texts: this module does not import PyTorch, and older versions have no class for them.
_OUT_OF_GPU_MEMORY = ("CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED",
                      "DEVICE_ALLOCATION_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "'out of memory'")
_GPU_ERRORS = {
    "no kernel image is available":
        "this build of PyTorch has no code for this GPU. Install one that has (pytorch.org), or "
        "give --device cpu.",
    "busy or unavailable":
        "another process has the GPU for itself (nvidia-smi shows it). Choose another GPU with "
        "CUDA_VISIBLE_DEVICES, or wait for it.",
    "driver version is insufficient":
        "the GPU's driver is too old for this build of PyTorch. Update the driver, or install a "
        "build for it (pytorch.org).",
}
# A DataLoader hands on its worker's error with the worker's traceback as the message.
_OF_A_WORKER = "\nOriginal Traceback"


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as cleanly as Ctrl-C."""


def _terminated(*_):
    # Impatient schedulers send SIGTERM again: the first one may finish cleaning up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Where it strikes all processes of a group, a DataLoader's workers end too: no error now.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    raise _Terminated


@contextlib.contextmanager
def signals_wait():
    """Ctrl-C, SIGTERM and the death of a DataLoader's worker wait until the block has ended.

    So what the block does is done whole. For the main thread.
    """
    came, stops = [], (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    handlers = {number: signal.signal(number, lambda number, _: came.append(number))
                for number in stops}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in stops:
            if number in came:
                signal.raise_signal(number)


class UserError(Exception):
    """A mistake the user can mend: what was found, what was expected and what to do."""


def explain(error):
    """The sentence for an exception that a user can mend, or None for a defect of the program."""
    if isinstance(error, UserError):
        text = str(error)
        if _OF_A_WORKER in text:
            text = text.rsplit(f"{UserError.__name__}: ", 1)[-1]
        return " ".join(text.split("\n")).strip()
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        path = f"{error.filename}: " if error.filename else "writing: "
        return path + _DISK_ERRORS[error.errno]
    if is_out_of_gpu_memory(error):
        return ("out of GPU memory. Choose a smaller --batch-size, fewer --units-per-step or a GPU "
                "that no other process fills (nvidia-smi), and run the command again.")
    if isinstance(error, RuntimeError):
        for text, sentence in _GPU_ERRORS.items():
            if text in str(error):
                return sentence
    if worker_died(error):
        return ("a process that decodes images was killed, most likely because memory ran out. "
                "Give fewer --workers, or ask for more memory, and run the same command again: it "
                "goes on where it stopped.")
    if _is_out_of_memory(error):
        return ("out of memory. Choose smaller batches or fewer --workers, or ask for more memory, "
                "and run the command again: finished work is kept.")
    return None


def _is_out_of_memory(error):
    """Whether Python, NumPy or the system found no memory, or PyTorch, which only says so."""
    of_torch = ("DefaultCPUAllocator: can't allocate memory", "Cannot allocate memory")
    return (isinstance(error, MemoryError)
            or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
            or (isinstance(error, RuntimeError) and any(text in str(error) for text in of_torch)))


def worker_died(error):
    """Whether an exception says that a process of a DataLoader has died."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def _stop_behind(error):
    """The stop that a worker's death is part of, or None.

    Where a signal strikes all processes, the main one may notice a dead worker before its own
    signal, or while it already stops.
    """
    if not worker_died(error):
        return None
    if "Terminated" in str(error):
        return _Terminated()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def is_out_of_gpu_memory(error):
    """Whether a GPU has no room for what was asked of it."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_GPU_MEMORY))


@contextlib.contextmanager
def memory_advice(advice):
    """Say `advice`, sentences, when the GPU's memory runs out inside the block."""
    try:
        yield
    except Exception as error:
        if not is_out_of_gpu_memory(error):
            raise
        raise UserError(f"out of GPU memory. {advice}") from error


def try_half(option, value, consequence):
    """Advice to give half of a number. consequence: in words."""
    if value > 1:
        return f"Found {option} {value}, try {option} {value // 2}: {consequence}."
    return (f"{option} is already {value}: a smaller network or a GPU with more memory is needed.")


_own_work = False


def own_work_begins():
    """From here on a rank of torchrun may meet mistakes that others do not, so it says its own."""
    global _own_work
    _own_work = True


def run_entry(main, argv=None):
    """Run main(argv). A user's mistake ends in one sentence on stderr and exit status 2.

    Under torchrun all ranks read the same until own_work_begins, so the first one of each machine
    speaks for all.
    """
    signal.signal(signal.SIGTERM, _terminated)
    _open_streams()
    try:
        try:
            main(argv)
        except RuntimeError as error:
            stop = _stop_behind(error)
            if stop is None:
                raise
            raise stop from None
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            _say("\nstopped. The same command goes on where it stopped.")
        sys.exit(143 if isinstance(stop, _Terminated) else 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_ended():
            sys.exit(141)  # as a program that SIGPIPE ends, which Python ignores
        sentence = explain(error)
        if sentence is None:
            raise
        if _own_work or os.environ.get("LOCAL_RANK", "0") == "0":
            rank = os.environ.get("RANK") if _own_work else None
            _say(f"error{f' on rank {rank}' if rank else ''}: {sentence}")
        sys.exit(2)


def _open_streams():
    """Give the standard streams that the caller closed (2>&-) a place.

    A file of ours would take their number, and libraries would write into it. What stderr should
    say goes where stdout goes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or sys.stdout


def _reader_has_ended():
    """Whether nobody reads this program's output any more, as after | head."""
    output = select.poll()
    output.register(1, 0)  # 0: asked for nothing but errors
    return bool(output.poll(0))


def _say(text):
    """Print a line on stderr, unless that is a full disk or a pipe that nobody reads."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = None  # or flushing it at the end would change the status
