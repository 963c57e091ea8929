"""A process that has PyTorch and the stages loaded and forks victims: a start takes milliseconds instead of seconds.

Requests come as a line of JSON each on stdin, answers go to stdout:
  {"do": "start", "stage": name, "arguments": [...], "log": path, "at": n or null, "signal": number, "whole": bool}  -> pid
  {"do": "wait", "pid": pid, "seconds": s or null, "signal": number}   -> exit status, negative for a signal

at: the victim sends itself the signal at its n-th file event: each write to a file (half of the data is written, or all with
whole), fsync, rename (before, or after with whole) and removal. seconds: the zygote sends the signal after that time.
A victim that ends by itself leaves the number of its file events at the end of its log.
"""

import builtins
import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
torch.set_num_threads(1)  # no thread pool may exist when a process is forked

import matplotlib.backends.backend_agg  # noqa: E402, F401 - slow to import
from matplotlib import figure  # noqa: E402, F401

from models import pretrain  # noqa: E402
from recover import data_synthesis  # noqa: E402
from relabel import generate_soft_label  # noqa: E402
from utils.errors import run_entry  # noqa: E402
from validate import train_fkd  # noqa: E402

MAIN = {"pretrain": pretrain.main, "recover": data_synthesis.main, "relabel": generate_soft_label.main, "validate": train_fkd.main}


class FileEvents:
    """Counts what happens to files and sends this process a signal at one of the events."""

    def __init__(self, at, number, whole):
        self.at, self.number, self.whole, self.count = at, number, whole, 0
        self.pid = os.getpid()
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, self.around(getattr(os, name)))
        builtins.open = io.open = self.opening(open)

    def now(self):
        """Whether this event, which is counted, is the one."""
        if os.getpid() != self.pid:  # a worker of the victim's
            return False
        self.count += 1
        return self.count == self.at

    def strike(self):
        os.kill(self.pid, self.number)

    def around(self, function):
        def call(*values, **named):
            now = self.now()
            if now and not self.whole:
                self.strike()
            result = function(*values, **named)
            if now and self.whole:
                self.strike()
            return result

        return call

    def opening(self, plain):
        events = self

        class Raw(io.FileIO):
            def write(self, data):
                if not events.now():
                    return super().write(data)
                data = bytes(data)
                written = super().write(data if events.whole else data[: len(data) // 2])
                events.strike()
                return written  # after a milder signal the caller writes the rest

        def opened(file, mode="r", *values, **named):
            if not set(mode) & set("wax") or isinstance(file, int):
                return plain(file, mode, *values, **named)
            buffered = io.BufferedWriter(Raw(file, mode.replace("b", "").replace("t", "")))
            return buffered if "b" in mode else io.TextIOWrapper(buffered, "utf-8")

        return opened


def start(stage, arguments, log, at=None, signal_number=signal.SIGKILL, whole=False):
    pid = os.fork()
    if pid:
        return pid
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = io.TextIOWrapper(io.FileIO(1, "w")), io.TextIOWrapper(io.FileIO(2, "w"), write_through=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        events, status = FileEvents(at, signal_number, whole), 0
        try:
            run_entry(MAIN[stage], arguments)
        except SystemExit as end:
            status = end.code
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 1
        print(f"file events: {events.count}", file=sys.stderr)
        sys.stdout.flush()
        os._exit(status)
    finally:
        os._exit(99)


def wait(pid, seconds=None, signal_number=signal.SIGKILL):
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, 0 if end is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.kill(pid, signal_number)
            end = None
        else:
            time.sleep(0.001)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        do = {"start": start, "wait": wait}[request.pop("do")]
        print(json.dumps(do(**request)), file=answers, flush=True)
