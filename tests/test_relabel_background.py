import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from relabel.background import Background, Stopped


def test_everything_is_consumed_in_order_and_beside_the_block():
    seen, threads = [], set()

    def consume(items):
        for item in items:
            threads.add(threading.current_thread())
            seen.append(item)

    with Background(consume) as background:
        for i in range(50):
            background.put(i)
    assert seen == list(range(50))
    assert threads.isdisjoint({threading.main_thread()})
    assert len(threads) == 1


def test_the_queue_is_bounded():
    may_go, taken = threading.Event(), []

    def consume(items):
        for item in items:
            may_go.wait()
            taken.append(item)

    def fill():
        with Background(consume, length=3) as background:
            for i in range(10):
                background.put(i)
                put.append(i)

    put = []
    filler = threading.Thread(target=fill)
    filler.start()
    time.sleep(0.3)
    assert len(put) == 4  # one in work, three waiting
    may_go.set()
    filler.join()
    assert taken == put == list(range(10))


@pytest.mark.parametrize("at", [0, 5, 19])
def test_errors_of_the_thread_come_out(at):
    def consume(items):
        for item in items:
            if item == at:
                raise OSError(28, "full")

    with pytest.raises(OSError, match="full"), Background(consume, length=1) as background:  # noqa: PT012 - at put, or on leaving
        for i in range(20):
            background.put(i)
    assert not [t for t in threading.enumerate() if "(_run)" in t.name]  # Thread-N (_run)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_error_of_the_block_stops_the_thread(error):
    ended, seen = [], []

    def consume(items):
        try:
            for item in items:
                time.sleep(0.02)
                seen.append(item)
        except Stopped:
            ended.append("cleared up")
            raise

    with pytest.raises(error), Background(consume, length=8) as background:  # noqa: PT012
        for i in range(8):
            background.put(i)
        raise error
    assert ended == ["cleared up"]
    assert len(seen) < 8  # what waited was dropped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_a_block_that_waits(tmp_path, number):
    """The queue is full and the thread slow: the signal still ends the process, and the thread clears up."""
    script = """
import sys, time
from pathlib import Path
from relabel.background import Background
from utils.errors import run_entry

def consume(items):
    try:
        for item in items:
            Path(sys.argv[1], "started").touch()
            time.sleep(0.5)
    finally:
        Path(sys.argv[1], "cleared").touch()

def main(_):
    with Background(consume, length=1) as background:
        while True:
            background.put(1)

run_entry(main)
"""
    root = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=root, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(root)})
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert "Traceback" not in stderr
    assert (tmp_path / "cleared").exists()
