"""Work that need not be waited for, in a thread of its own."""

import contextlib
import queue
import threading


class Stopped(Exception):
    """Raised in the consumer when the block that feeds it has failed."""


class Background:
    """Consume what a block produces in a thread, in order, through a queue of bounded length.

        with Background(consume) as background:  # consume(items): items is an iterator
            background.put(item)

    Leaving the block waits until consume has ended. What consume raises is raised by `put` or on leaving. When the block itself
    fails (an error, Ctrl-C, the SystemExit of SIGTERM), `items` raises Stopped, so that consume can clear up, and what waits in
    the queue is dropped. length: items that may wait; a full queue makes `put` wait.
    """

    def __init__(self, consume, length=4):
        self._queue, self._error, self._stopping = queue.Queue(length), None, False
        self._thread = threading.Thread(target=self._run, args=(consume,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def put(self, item):
        self._offer((item,))
        if self._error is not None:
            raise self._error

    def __exit__(self, kind, error, trace):
        self._stopping = kind is not None
        self._offer(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _offer(self, entry):
        """Queue an entry, unless the thread ends before there is room."""
        queued = False
        while not queued and self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(entry, timeout=0.5)
                queued = True

    def _items(self):
        while (entry := self._queue.get()) is not None and not self._stopping:
            yield entry[0]
        if self._stopping:
            raise Stopped

    def _run(self, consume):
        try:
            consume(self._items())
        except Stopped:
            pass
        except BaseException as error:  # raised again in the main thread
            self._error = error
