"""Damaged files of every kind, and a file that would run code.

A reader raises a UserError that names the file, or gives what the whole file gives. JSON and JPEG
keep no checksum, so there it may give something else; it never fails otherwise.
"""

import contextlib
import functools
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interrupting import interrupt
from stages import CLASSES, NET, command, main_of, make_inputs

from data.labels import LabelStore
from data.opening import open_distilled, open_real
from models.networks import fingerprint, load_network
from recover import inversion
from recover.options import parse
from recover.unit_run import UnitRun
from utils import checkpoint
from utils.errors import UserError
from validate.student_folder import StudentFolder

FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None,
               suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Finished work of all stages, and a recover that was stopped. Do not change it."""
    root = make_inputs(tmp_path_factory.mktemp("mutations"))
    main_of("validate")(command("validate", root, root / "run"))
    main_of("recover")(command("recover", root, root / "finished"))
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        interrupt(patch, UnitRun, "keep", 2)
        main_of("recover")(command("recover", root, root / "stopped"))

    network, _ = load_network(root / f"teachers/{NET}.safetensors")
    torch.save(network.net.state_dict(), root / f"{NET}.pth")
    checkpoint.save_state(root / "state.pt", {"w": torch.arange(50.0)})
    return root


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "copy")


# Readers: from a folder to something that can be compared

def read_run(root, run="finished"):
    """The units of recover that are left to do, and their states from a checkpoint or the start."""
    job = inversion.prepare(parse(command("recover", root, root / run)))
    runs = [UnitRun(units, job, SimpleNamespace(total=0)) for units in job.work]
    tensors = [state.tensors() for unit_run in runs for state in unit_run.states]
    return [unit.name for units in job.work for unit in units], [
        {name: tensor.tolist() for name, tensor in state.items()} for state in tensors]


def read_labels(root):
    store = LabelStore(root / "run/labels", open_distilled(root / "run/images"))
    epoch = store.epoch(1)
    return [t.tolist() for t in epoch.plan.tensors().values()], epoch.logits(slice(0, 6)).tolist()


READERS = {
    f"train/{CLASSES[1]}/img_001.JPEG":
        lambda root: open_real("imagefolder", "train", root / "train", 32).all_pixels.tolist(),
    "run/images/new001/class001_id001.png":
        lambda root: open_distilled(root / "run/images").all_pixels.tolist(),
    "run/images.json": lambda root: open_distilled(root / "run/images").classes,
    "finished/images.json": read_run,
    "finished/units/slice00000_chunk000.json": read_run,
    "stopped/units/unfinished_slice00000_chunk000_to_slice00001_chunk000.safetensors":
        lambda root: read_run(root, "stopped"),
    "run/labels/labels.json": read_labels,
    "run/labels/epoch_001.safetensors": read_labels,
    "run/students/s/result.json":
        lambda root: StudentFolder(root / "run/students/s").result()["best"],
    f"teachers/{NET}.safetensors":
        lambda root: fingerprint(load_network(root / f"teachers/{NET}.safetensors")[0]),
    f"{NET}.pth": lambda root: fingerprint(load_network(root / f"{NET}.pth", NET)[0]),
    "state.pt": lambda root: checkpoint.load_state(root / "state.pt")["w"].tolist(),
}


def read_changed(root, name, data):
    """What the reader of a file gives for other bytes; None for a UserError, which names it."""
    path, sentence = root / name, None
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        return READERS[name](root)
    except UserError as error:
        sentence = str(error)
    finally:
        path.write_bytes(whole)
    assert path.name in sentence or str(path.parent) in sentence
    return None


@pytest.mark.parametrize("name", READERS)
@given(keep=st.just(1.0) | st.floats(0, 1),
       flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=3))
@FEW
def test_damaged(folder, name, keep, flips):
    """The file is cut, and bits are flipped, most of them near its beginning."""
    data = bytearray((folder / name).read_bytes())
    for place, bit in flips:
        data[int(place**3 * (len(data) - 1))] ^= 1 << bit
    result = read_changed(folder, name, bytes(data[: int(keep * len(data))]))
    if not name.endswith((".json", ".JPEG")):
        assert result in (None, READERS[name](folder))


def entries(content, place=()):
    """Places of all entries of nested JSON objects."""
    for name, value in content.items() if isinstance(content, dict) else ():
        yield (*place, name)
        yield from entries(value, (*place, name))


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".json")])
def test_a_missing_entry(folder, name):
    text = (folder / name).read_text()
    for *place, last in entries(json.loads(text)):
        content = json.loads(text)
        del functools.reduce(dict.get, place, content)[last]
        read_changed(folder, name, json.dumps(content).encode())


@pytest.mark.parametrize("name", [f"{NET}.pth", "state.pt"])
def test_a_pickle_that_would_run_code(folder, name):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(folder / "ran"),)

    torch.save({"w": Code()}, folder / "code")
    assert read_changed(folder, name, (folder / "code").read_bytes()) is None
    assert not (folder / "ran").exists()
