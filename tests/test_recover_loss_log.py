import torch

from recover.loss_log import LATEST, LossLog, first_bad_term


def test_log_numbers_and_bad_terms():
    log = LossLog()
    log.add(0, {"ce": torch.tensor(1.5), "bn a": torch.tensor(2.0)})
    log.add(100, {"ce": torch.tensor(float("nan")), "bn a": torch.tensor(2.0)})
    rows = log.finish()
    assert rows[0] == (0, {"ce": 1.5, "bn a": 2.0})
    assert log.bad == (100, rows[1][1])
    assert first_bad_term(rows[0]) is None
    assert first_bad_term(rows[1]) == "ce"


def test_the_first_bad_step_is_known_between_the_rows_that_are_kept():
    log = LossLog()
    for step in range(8):
        names = ("ce", "bn a") if step % 2 else ("ce",)  # teachers may change from step to step
        value = torch.tensor(float("inf") if step in (5, 6) else step + 0.5)
        log.add(step, dict.fromkeys(names, value), keep=step in (0, 4))
    assert log.arrived() == [(0, {"ce": 0.5}), (4, {"ce": 4.5})]
    assert log.bad is None  # step 5 is still on the device
    assert log.finish() == []
    assert log.rows == [(0, {"ce": 0.5}), (4, {"ce": 4.5})]
    assert log.bad == (5, {"ce": float("inf"), "bn a": float("inf")})


def test_the_latest_rows_are_at_hand_whether_kept_or_not():
    log = LossLog()
    for step in range(2 * LATEST):
        log.add(step, {"ce": torch.tensor(step + 0.5)}, keep=step == 0)
    log.finish()
    assert [step for step, _ in log.latest] == list(range(LATEST, 2 * LATEST))
    assert log.latest[0][1] == {"ce": LATEST + 0.5}
    assert len(log.rows) == 1
