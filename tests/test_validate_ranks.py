"""Several processes train one student.

They equal one process up to rounding, and the same number of processes bit for bit.
"""

import contextlib
import copy
import multiprocessing
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.networks import build
from tests import test_validate_train_fkd as single
from utils import distributed
from utils.errors import UserError
from utils.seeding import stream
from validate import engine, experiment, ranks
from validate.average import WeightAverage
from validate.batches import Batch
from validate.options import Objective, Optimisation
from validate.passes import MicroBatches, Passes
from validate.ranks import Ranks, check, share
from validate.train_fkd import main
from validate.training import Training

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]

# network, loss, images of each batch, images of a full batch, micro-batches of it, momentum,
# one pass, type
CASES = {
    "two halves": ("resnet18", "mse_gt", [10, 10, 10], 10, 2, None, True, torch.float64),
    "a short last batch: no work for one rank":
        ("resnet18", "mse_gt", [10, 5, 10], 10, 2, None, True, torch.float64),
    "a single image": ("shufflenet_v2_x0_5", "ce", [8, 1, 8], 8, 2, None, True, torch.float64),
    "three uneven micro-batches, a pass each":
        ("resnet18", "dist", [8, 8, 7], 8, 3, 0.19, False, torch.float64),
    "three uneven micro-batches, one pass":
        ("resnet18", "dist", [8, 8, 7], 8, 3, 0.19, True, torch.float64),
    "no BatchNorm": ("squeezenet1_1", "kl", [8, 8], 8, 2, None, True, torch.float64),
    "float32": ("resnet18", "mse_gt", [10, 10], 10, 2, None, True, torch.float32)}


def test_shares_are_whole_micro_batches_in_order():
    assert [share([25, 25], rank, 2) for rank in (0, 1)] == [(0, [25]), (25, [25])]
    assert [share([13, 12, 12], rank, 2) for rank in (0, 1)] == [(0, [13, 12]), (25, [12])]
    assert [share([13], rank, 2) for rank in (0, 1)] == [(0, [13]), (13, [])]
    assert share([5, 5, 4, 4], 0, 1) == (0, [5, 5, 4, 4])


def test_more_processes_than_micro_batches_are_refused():
    check(2, 2)
    with pytest.raises(UserError, match="NGPU=8, but a batch has 2 micro-batches.*at most 2 "
                                        "processes.*Set NGPU=2.*side by side"):
        check(2, 8)


@pytest.mark.parametrize(("gpus", "count"), [(1, "1 GPU"), (2, "2 GPUs")])
def test_more_processes_than_gpus_are_refused_at_first(monkeypatch, gpus, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(experiment, "open_distilled", lambda *_: pytest.fail("opened"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(gpus + 1))
    with pytest.raises(UserError) as refused:
        experiment.prepare(None, torch.device("cuda", 0))
    assert str(refused.value) == (
        f"NGPU={gpus + 1}, but PyTorch finds {count} here, and each process that trains a student "
        f"needs one of its own. Set NGPU={gpus}, or check CUDA_VISIBLE_DEVICES.")
    ranks.check_gpus(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(gpus))
    ranks.check_gpus(torch.device("cuda", 0))


def test_both_process_groups_wait_for_days(monkeypatch):
    """One rank may compile, or write to a slow disk, for longer than NCCL's own ten minutes."""
    timeouts = {}

    def formed(backend, timeout, **_):
        timeouts[backend] = timeout.days

    monkeypatch.setattr(ranks.dist, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    monkeypatch.setattr(ranks.dist, "PrefixStore", lambda *_: None)
    monkeypatch.setattr(ranks.dist, "init_process_group", formed)
    monkeypatch.setattr(ranks.dist, "new_group", formed)
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    Ranks(torch.device("cuda", 0))
    assert timeouts == {"gloo": 7, "nccl": 7}


def batch_of(number, count, dtype):
    generator = stream("ranks", number)
    classes = torch.randint(0, 5, (count,), generator=generator)
    images = torch.randn(count, 3, 64, 64, generator=generator, dtype=dtype)
    soft_labels = torch.randn(count, 5, generator=generator, dtype=dtype)
    return Batch(images, soft_labels, classes, classes.flip(0), 0.3)


def steps(case, ranks):
    """One optimiser step per batch.

    Returns (weights and statistics, their average, train_epoch's numbers over all processes).
    """
    name, loss, counts, batch_size, accumulation_steps, momentum, together, dtype = CASES[case]
    network = build(name, 5, seed=("ranks",), image_size=64).to(dtype).train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # processes draw other masks
    if momentum is not None:
        engine.set_batch_norm_momentum(network, momentum)

    passes = Passes(network, CPU, MicroBatches(batch_size, accumulation_steps, together),
                    ranks=ranks)
    average = WeightAverage(network, 0.9)
    optimizer = engine.build_optimizer(
        network, Optimisation(optimizer="sgd", lr=1e-2, weight_decay=0.01))
    batches = [batch_of(number, count, dtype) for number, count in enumerate(counts)]
    numbers = engine.train_epoch(passes, optimizer, batches, Objective(loss), average)
    return network.state_dict(), copy.deepcopy(average.module.state_dict()), numbers


def command(made, name, *more):
    return single.command(made, name, *single.CALM, *more)


def stop_at(epoch):
    """Training.one_epoch that is interrupted before an epoch."""
    whole = Training.one_epoch

    def until(self, number):
        if number == epoch:
            raise KeyboardInterrupt
        whole(self, number)

    return until


def rank_main(rank, port, commands, results):
    """One of two processes: all cases, then students through the command line."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    found = {case: steps(case, Ranks(CPU)) for case in CASES}
    distributed.leave_group()
    whole = Training.one_epoch
    for argv, stop in commands:
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
        Training.one_epoch = whole if stop is None else stop_at(stop)
        with contextlib.suppress(KeyboardInterrupt):
            main(argv)
        Training.one_epoch = whole
        distributed.leave_group()
    torch.save(found, Path(results) / f"{rank}.pt")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return single.make(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def two(made):
    """What two processes found, {case: steps} of rank 0 and of rank 1.

    They also trained students, some of which one process has begun or goes on with.
    """
    main(command(made, "one"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "one_epoch", stop_at(2))
        with pytest.raises(KeyboardInterrupt):
            main(command(made, "one_then_two"))

    commands = [(command(made, "two"), None), (command(made, "two_again"), None),
                (command(made, "two_stopped"), 2), (command(made, "two_stopped"), None),
                (command(made, "one_then_two"), None), (command(made, "two_then_one"), 2),
                (command(made, "two_online", "--labels", "online"), None)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = made / "ranks"
    results.mkdir()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank_main, args=(rank, port, commands, str(results)))
                 for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(280)
    assert [process.exitcode for process in processes] == [0, 0]
    main(command(made, "two_then_one"))
    return [torch.load(results / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(two, case):
    torch.set_num_threads(1)
    state, average, (loss, top1, _) = steps(case, None)
    (first, first_average, numbers), (second, second_average, others) = two[0][case], two[1][case]
    close = {"rtol": 1e-3, "atol": 1e-4}
    if CASES[case][-1] == torch.float64:
        close = {"rtol": 1e-8, "atol": 1e-10}
    for one, rank0, rank1 in ((state, first, second), (average, first_average, second_average)):
        for key, value in one.items():
            assert torch.equal(rank0[key], rank1[key]), key  # ranks agree bit for bit
            torch.testing.assert_close(rank0[key], value, **close)
    assert numbers == others
    assert numbers[:2] == pytest.approx((loss, top1), rel=1e-4)
    assert numbers[2] is None


@pytest.mark.usefixtures("two")
def test_students_of_one_and_of_two_processes(made):
    for a, b in zip(single.metrics(made, "two"), single.metrics(made, "one"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["lr"] == b["lr"]
    assert single.result(made, "two")["processes"] == 2
    files = [{file.name for file in (made / "run/students" / name).iterdir()}
             for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.usefixtures("two")
def test_same_number_of_processes_same_bytes(made):
    for again in ("two_again", "two_stopped", "two_online"):
        assert single.weights(made, again) == single.weights(made, "two"), again
        assert single.metrics(made, again) == single.metrics(made, "two"), again
    assert single.weights(made, "two") != single.weights(made, "one")  # they did share the work


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("name", ["one_then_two", "two_then_one"])
def test_going_on_with_another_number_of_processes(made, name):
    found, one = single.metrics(made, name), single.metrics(made, "one")
    began = single.metrics(made, "one" if name == "one_then_two" else "two")
    assert found[:2] == began[:2]
    losses = [line["loss"] for line in one]
    assert [line["loss"] for line in found] == pytest.approx(losses, rel=1e-4)


@pytest.mark.slow
def test_torchrun_through_the_script(made):
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "EPOCHS": "4",
           "OUTPUT_DIR": str(made / "run"), "VAL_DIR": str(made / "val"),
           "STUDENT": "shufflenet_v2_x0_5"}

    def run(count, name):
        return subprocess.run(
            ["sh", "validate/train_FKD_10_r18.sh", "--device", "cpu", "--threads", "1",
             "--eval-every", "2", "--student-name", name], cwd=ROOT,
            env={**env, "NGPU": str(count)}, capture_output=True, text=True, timeout=280)

    done = run(2, "script")
    assert done.returncode == 0, done.stderr
    assert len(re.findall("best, epoch", done.stdout)) == 1  # rank 0 alone prints
    assert run(2, "script_again").returncode == 0
    assert single.weights(made, "script") == single.weights(made, "script_again")

    refused = run(3, "refused")
    assert refused.returncode != 0
    assert len(re.findall("^error: ", refused.stderr, re.M)) == 1
    assert "NGPU=3, but a batch has 2 micro-batches" in refused.stderr
    assert not (made / "run/students/refused").exists()
