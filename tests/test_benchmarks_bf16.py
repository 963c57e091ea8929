import json

import pytest

from benchmarks.bf16 import final_loss


def test_loss_of_the_last_step_by_hand(tmp_path):
    (tmp_path / "units").mkdir()
    (tmp_path / "images.json").write_text(json.dumps({"options": {"r_bn": 0.1}}))
    records = [
        {"bn_teachers": ["a", "alexnet"],
         "terms": [{"step": 0, "ce": 9.0, "bn a": 9}, {"step": 7, "ce": 1.0, "bn a": 4}]},
        {"bn_teachers": ["a", "b", "c"],
         "terms": [{"step": 3, "ce": 2.0, "bn a": 3.0, "bn b": 6.0, "bn c": 0.0}]}]
    for number, record in enumerate(records):
        (tmp_path / "units" / f"{number}.json").write_text(json.dumps(record))
    expected = ((1 + 0.1 / 2 * 4) + (2 + 0.1 / 3 * 9)) / 2
    assert final_loss(tmp_path) == pytest.approx(expected)
