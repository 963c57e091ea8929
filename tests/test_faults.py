"""kill -9, SIGTERM and Ctrl-C in the middle of the four stages.

The same command goes on and ends with the bytes of an undisturbed run, and leaves nothing over.
"""

import itertools
import signal
from pathlib import Path

import pytest
from stages import MODULES, STAGES, assert_same, command, contents, end, main_of, make_inputs, start

KILLED = Path(__file__).with_name("killed.py")
# Which file a signal strikes at: between two saved states, inside the images of a unit, between
# two epochs of labels, between the weights and the state of an epoch.
PLACES = {"pretrain": 3, "recover": 6, "relabel": 4, "validate": 9}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def whole(made):
    """What an undisturbed run of each stage leaves."""
    for stage in STAGES:
        main_of(stage)(command(stage, made, made / "whole" / stage))
    return {stage: contents(made / "whole" / stage) for stage in STAGES}


def struck(number, place, stage, arguments):
    """A process of a stage that a signal strikes at the place-th file."""
    return start(KILLED, number.name, place, MODULES[stage], *arguments)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_the_middle(stage, made, whole, tmp_path):
    arguments = command(stage, made, tmp_path / "out")
    end(struck(signal.SIGKILL, PLACES[stage], stage, arguments), -signal.SIGKILL)
    left = contents(tmp_path / "out")
    assert left != whole[stage]
    assert [name for name in left if name.endswith(".tmp")]
    main_of(stage)(arguments)
    assert_same(contents(tmp_path / "out"), whole[stage])


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_file_in_turn(stage, made, whole, tmp_path):
    """Each start dies one file later than the one before, until one gets through."""
    arguments = command(stage, made, tmp_path / "out")
    for place in itertools.count(1):
        process = struck(signal.SIGKILL, place, stage, arguments)
        text = process.communicate()[0]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, text
    assert place > 3
    assert_same(contents(tmp_path / "out"), whole[stage])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("stage", STAGES)
def test_stopped_cleanly(stage, number, status, made, whole, tmp_path):
    """Nothing is left half-written, and the same command is said to go on."""
    arguments = command(stage, made, tmp_path / "out")
    text = end(struck(number, PLACES[stage], stage, arguments), status)
    assert "stopped. The same command goes on where it stopped." in text
    assert "Traceback" not in text
    assert not list((tmp_path / "out").rglob("*.tmp"))
    main_of(stage)(arguments)
    assert_same(contents(tmp_path / "out"), whole[stage])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["recover", "relabel"])
def test_four_shards_one_of_them_killed(stage, made, tmp_path):
    more = {"recover": ["--batch-size", 2, "--units-per-step", 1], "relabel": ["--epochs", 8]}
    main_of(stage)(command(stage, made, tmp_path / "whole", *more[stage]))
    arguments = command(stage, made, tmp_path / "out", *more[stage])
    shards = [struck(signal.SIGKILL, 2 if i == 0 else 0, stage, [*arguments, "--shard", f"{i}/4"])
              for i in range(4)]
    for shard, status in zip(shards, (-signal.SIGKILL, 0, 0, 0), strict=True):
        end(shard, status)
    main_of(stage)(arguments)
    assert_same(contents(tmp_path / "out"), contents(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["recover", "relabel"])
def test_processes_that_do_the_same_work(stage, made, whole, tmp_path):
    arguments = command(stage, made, tmp_path / "out")
    for process in [start("-m", MODULES[stage], *arguments) for _ in range(3)]:
        end(process)
    assert_same(contents(tmp_path / "out"), whole[stage])
