from types import SimpleNamespace

from torch import nn

from models.teacher_epochs import build_optimizer, one_cycle

PLAN = SimpleNamespace(lr=0.1, weight_decay=0.0, epochs=3, warmup=0.2)


def test_a_schedule_that_goes_on_has_the_learning_rates_of_one_that_went_through():
    def schedule(done):
        optimizer = build_optimizer(nn.Linear(1, 1), PLAN)
        return optimizer, one_cycle(optimizer, PLAN, 5, done)

    optimizer, whole = schedule(0)
    rates = []
    for _ in range(15):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        whole.step()
    assert rates.index(max(rates)) == 3  # the warm-up is a fifth of the steps

    for done in range(15):
        optimizer, going_on = schedule(done)
        for rate in rates[done:]:
            assert optimizer.param_groups[0]["lr"] == rate
            optimizer.step()
            going_on.step()
