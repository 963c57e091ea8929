"""Steps: their seconds over several starts, and how failures end."""

import json
import types

import pytest

from reproduce import steps
from utils.errors import UserError


def test_time_of_stopped_starts_counts_once(tmp_path, monkeypatch):
    clock = iter([0.0, 5.0, 100.0, 103.0, 200.0, 201.0])
    monkeypatch.setattr(steps.time, "perf_counter", lambda: next(clock))

    def fail(_):
        raise UserError("stopped")

    entry = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="a.b"), main=fail)
    with pytest.raises(UserError):
        steps.Steps(1, tmp_path / "t.json").run("one", entry)
    entry.main = list
    for _ in range(2):  # the second start finds the step finished
        steps.Steps(1, tmp_path / "t.json").run("one", entry)
        stored = json.loads((tmp_path / "t.json").read_text())
        assert stored == {"one": {"seconds": 8.0, "command": "python -m a.b"}}


def test_another_command_begins_anew(tmp_path):
    timings = steps.Timings(tmp_path / "t.json")
    timings.add("one", "x", 10.0, complete=True)
    timings.add("one", "y", 2.0, complete=False)
    assert timings.seconds["one"] == {"seconds": 2.0, "command": "y", "stopped": True}


def test_commands_of_one_folder_keep_each_other_s_seconds(tmp_path):
    first, second = steps.Timings(tmp_path / "t.json"), steps.Timings(tmp_path / "t.json")
    first.add("one", "x", 10.0, complete=True)
    second.add("two", "y", 2.0, complete=True)
    assert set(steps.read_timings(tmp_path / "t.json")) == {"one", "two"}


@pytest.mark.parametrize("content", [
    "", "[]", '{"one": 3}', '{"one": {"seconds": "3", "command": "x"}}', '{"one": {"seconds": 3}}',
    '{"one": {"seconds": NaN, "command": "x"}}', '{"one": {"seconds": 3, "command": null}}'])
def test_damaged_timings_are_one_sentence(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(UserError, match="t.json: damaged .*. Remove it and run the same command"):
        steps.Steps(1, tmp_path / "t.json")


def test_failures_end_in_one_sentence_and_a_status(capsys):
    steps.end([], 3)
    with pytest.raises(UserError, match=r"1 of 3 steps failed \(a\), 1 that need them were left "
                                        r"out, 1 are done. The reasons"):
        steps.end([steps.Failure("a", 2), steps.Failure("b", None)], 3)
    with pytest.raises(SystemExit) as ended:
        steps.end([steps.Failure("a", 2), steps.Failure("b", 1)], 3)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: 2 of 3 steps failed (a; b), 1 are done.")
