"""One clear sentence for a user's mistake instead of a traceback."""

import contextlib
import errno
import os
import signal
import sys

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
# A DataLoader hands on its worker's error with the worker's traceback as the message.
_OF_A_WORKER = "\nOriginal Traceback"


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as cleanly as Ctrl-C."""


def _terminated(*_):
    # Impatient schedulers send SIGTERM again: the first one may finish cleaning up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


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
    if _is_out_of_gpu_memory(error):
        return ("out of GPU memory. Choose a smaller --batch-size or fewer --units-per-step and "
                "run the command again.")
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return ("a process that decodes images was killed, most likely because memory ran out. "
                "Give fewer --workers, or ask for more memory, and run the same command again: it "
                "goes on where it stopped.")
    if isinstance(error, MemoryError):
        return ("out of memory. Give fewer --workers or ask for more memory, and run the same "
                "command again: finished work is kept.")
    return None


def _is_out_of_gpu_memory(error):
    """torch.cuda.OutOfMemoryError, known by name: this module does not import PyTorch."""
    return type(error).__name__ == "OutOfMemoryError"


@contextlib.contextmanager
def memory_advice(advice):
    """Say `advice`, sentences, when the GPU's memory runs out inside the block."""
    try:
        yield
    except Exception as error:
        if not _is_out_of_gpu_memory(error):
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
    try:
        main(argv)
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            print("\nstopped. The same command goes on where it stopped.", file=sys.stderr,
                  flush=True)
        sys.exit(143 if isinstance(stop, _Terminated) else 130)
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        if _own_work or os.environ.get("LOCAL_RANK", "0") == "0":
            rank = os.environ.get("RANK") if _own_work else None
            print(f"error{f' on rank {rank}' if rank else ''}: {sentence}", file=sys.stderr,
                  flush=True)
        sys.exit(2)
