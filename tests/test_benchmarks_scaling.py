import json

import pytest

from benchmarks import measure, scaling


@pytest.mark.slow  # a dozen runs of recover
def test_growth_is_measured_by_whole_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "BASE", {"ipc": 1, "classes": 2, "steps": 2, "teachers": 1})
    monkeypatch.setattr(scaling, "FILES", 40)
    monkeypatch.setattr(measure, "peak_memory", lambda *_: 5e6)
    scaling.main(["--batch-size", "2", "--turns", "1", "--device", "cpu",
                  "--output", str(tmp_path / "s.json")])
    assert "files of the folder x 4" in capsys.readouterr().out
    (run,) = json.loads((tmp_path / "s.json").read_text())["runs"]
    assert set(run["seconds, bytes"]) == {*scaling.BASE, "files of the folder"}
    assert all(seconds > 0 for points in run["seconds, bytes"].values() for seconds, _ in points)


def test_listing_a_folder_is_timed(tmp_path):
    parser = measure.timing_parser("scaling", "", 1, image_size=32, turns=1)
    assert scaling.time_listing(tmp_path / "files", 40, parser.parse_args([])) > 0
    assert len(list((tmp_path / "files").rglob("*.jpg"))) == 40
