"""Ctrl-C in the middle of a stage, without a process of its own."""


def interrupt(monkeypatch, kind, name, call):
    """Raise KeyboardInterrupt at the end of the given call (1 is the first) of a method."""
    original, calls = getattr(kind, name), []

    def method(self, *values):
        original(self, *values)
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(kind, name, method)
