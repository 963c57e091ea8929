"""Files from a stranger, and damaged ones: labels, manifests, records, results, weights, checkpoints, states.

damaged: bytes of a file are changed. A reader raises UserError or gives what the whole file gives, never something else.
forged: what a file says is replaced, and the checksums are made right. A reader raises UserError or returns; it never fails
otherwise.
"""

import functools
import json
import shutil
import string

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.distilled import DistilledImages
from data.labels import LabelStore
from models.networks import build, fingerprint, load_network, save_network
from recover.data_synthesis import main as recover
from recover.synthesize import UnitState
from recover.teacher_pool import TeacherLaw
from recover.unit_files import UnitFiles
from recover.units import build_slices
from relabel.generate_soft_label import main as relabel
from utils import checkpoint
from utils.errors import UserError
from utils.files import read_json, write_json
from validate.student_folder import StudentFolder

NET = "shufflenet_v2_x0_5"
CLASSES = ("n01440764", "n01443537", "n01484850")
FEW = settings(max_examples=60, derandomize=True, deadline=None, database=None,
               suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small run folder, with a student's result and state, weights and a checkpoint of a unit."""
    root = tmp_path_factory.mktemp("mutations")
    tiny.image_folder(root / "train", CLASSES, 2, size=(40, 36))
    tiny.teacher_folder(root / "teachers", [NET], CLASSES)
    common = ["--teacher-weights", str(root / "teachers"), "--device", "cpu", "--threads", "1", "--output-dir", str(root / "run")]
    recover(["--train-dir", str(root / "train"), "--image-size", "32", "--primary-teacher", NET, "--bn-slots", "0",
             "--ipc-end", "2", "--iteration", "1", "--min-teacher-accuracy", "0", *common])
    relabel(["--teachers", NET, "--epochs", "1", "--batch-size", "4", *common])
    (root / "run/units/slice00000_chunk000.json").rename(root / "record.json")
    write_json(root / "result.json", {"best": {"epoch": 1, "top1": 50.0, "top5": 75.5}, "top1": 50.0,
                                                 "last": {"epoch": 2, "top1": 45.0, "top5": 70.0}, "options": {"lr": 0.1}})
    checkpoint.save_state(root / "state.pt", {"net": {"w": torch.arange(50.0)}, "epochs": 3})
    checkpoint.save_tensors(root / "unit.safetensors", unit_tensors(), unit_about())
    network = build("shufflenet_v2_x0_5", 3, seed=("mutations",))
    network.classes = list(CLASSES)
    save_network(root / "net.safetensors", network, {"top1": 12.5})
    return root


def units():
    return build_slices(1, 10, None, CLASSES, False, lambda _: 4, TeacherLaw(NET, ()))


def unit_state(seed):
    start = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    state = UnitState(units()[0], start, torch.arange(3))
    state.adam.state[state.x] = {"step": torch.tensor(2.0), "exp_avg": start * 0.5, "exp_avg_sq": start**2}
    return state


def unit_tensors():
    return {f"{units()[0].name}.{name}": tensor for name, tensor in unit_state(1).tensors().items()}


def unit_about():
    return {"next_step": 2, "seconds": 0.5, "log": {units()[0].name: [[0, {"ce": 1.5}]]}}


# readers: folder in which the file lies -> something that can be compared


def read_labels(folder):
    store = LabelStore(folder / "run/labels", DistilledImages(folder / "run/images", 1))
    epoch = store.epoch(0)
    return [t.tolist() for t in epoch.plan.tensors().values()], [epoch.batch(b).tolist() for b in range(2)]


def read_labels_json(folder):
    store = LabelStore(folder / "run/labels", DistilledImages(folder / "run/images", 1))
    return {**store.options, "teacher_weights": None}, store.teachers, store.plan_options, store.number_format, store.recipe


def read_images_json(folder):
    images = DistilledImages(folder / "run/images", 1)
    UnitFiles(folder / "run", 3, 2, "png").image_path(1, 1)
    return images.classes, images.dataset


def read_record(folder):
    found = UnitFiles(folder / "run", 3, 1, "png").unfinished(units(), {NET: read_json(
        folder / "whole.json", "x")["weights"][NET]})
    return "made again" if found else "finished"


def read_result(folder):
    found = StudentFolder(folder / "student").result()
    return {name: found.get(name) for name in ("best", "last", "top1", "options")}


def read_state(folder):
    state = checkpoint.load_state(folder / "state.pt")
    return state["net"]["w"].tolist(), state["epochs"]


def read_network(folder):
    network, about = load_network(folder / "net.safetensors")
    return fingerprint(network), network.classes, about


def read_unit(folder):
    files, state = UnitFiles(folder / "run2", 3, 1, "png"), unit_state(2)
    step, seconds = files.load_checkpoint(units(), [state])
    return step, seconds, state.log.rows, [t.tolist() for t in state.tensors().values()]


READERS = {"labels": (read_labels, "run/labels/epoch_000.safetensors"), "labels.json": (read_labels_json, "run/labels/labels.json"),
           "images.json": (read_images_json, "run/images.json"), "record": (read_record, "run/units/slice00000_chunk000.json"),
           "result": (read_result, "student/result.json"), "state": (read_state, "state.pt"),
           "network": (read_network, "net.safetensors"),
           "unit": (read_unit, f"run2/units/unfinished_{units()[0].name}.safetensors")}


@functools.cache
def of_the_whole_file(what, folder):
    return READERS[what][0](folder)


@pytest.fixture
def folder(made, tmp_path):
    """A copy of what was made, everything in its place."""
    shutil.copytree(made / "run", tmp_path / "run")
    for source, target in (("record.json", "run/units/slice00000_chunk000.json"), ("record.json", "whole.json"),
                           ("result.json", "student/result.json"), ("state.pt", "state.pt"), ("net.safetensors", "net.safetensors"),
                           ("unit.safetensors", READERS["unit"][1])):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / source, tmp_path / target)
    return tmp_path


@st.composite
def damage(draw):
    """A function of bytes: some places of a file, most of them near its beginning, are overwritten, cut out or filled in."""
    edits = draw(st.lists(st.tuples(st.sampled_from(["flip", "write", "cut", "insert", "end"]), st.floats(0, 1), st.booleans(),
                                    st.integers(1, 255), st.binary(min_size=1, max_size=6)), min_size=1, max_size=3))

    def apply(data):
        data = bytearray(data)
        for kind, place, early, bit, new in edits:
            at = int(place * (min(len(data), 2000) if early else len(data)))
            at = min(at, max(0, len(data) - 1))
            if not data:
                break
            if kind == "flip":
                data[at] ^= bit
            elif kind == "write":
                data[at : at + len(new)] = new
            elif kind == "cut":
                del data[at : at + bit]
            elif kind == "insert":
                data[at:at] = new
            else:
                del data[at:]
        return bytes(data)

    return apply


@pytest.mark.parametrize("what", READERS)
@given(change=damage())
@FEW
def test_damaged(folder, what, change):
    read, name = READERS[what]
    path = folder / name
    whole, expected = path.read_bytes(), of_the_whole_file(what, folder)
    path.write_bytes(change(whole))
    try:
        found = read(folder)
    except UserError:
        found = expected
    finally:
        path.write_bytes(whole)
    assert found == expected or (what == "record" and found == "made again")


SIMPLE = (st.none() | st.booleans() | st.integers(-5, 5) | st.text(string.printable, max_size=5) | st.sampled_from(
    [10**12, -(10**400), 1e300, float("nan"), "../x", "/etc/passwd", "cutmix", "fp16", "topk", NET, "timm/vit_tiny_patch16_224"]))
VALUES = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["options", "x", "files", "best"]), inner, max_size=3), max_leaves=5)


@st.composite
def forgery(draw):
    """A function of a JSON value: one place, deep or not, is removed or says something else."""
    steps = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5))
    remove, value = draw(st.booleans()), draw(VALUES)

    def apply(content):
        content = json.loads(json.dumps(content))
        holder, key = None, None
        here = content
        for step in steps:
            if isinstance(here, (dict, list)) and here:
                keys = sorted(here) if isinstance(here, dict) else list(range(len(here)))
                holder, key = here, keys[step % len(keys)]
                here = holder[key]
        if holder is not None and remove:
            del holder[key]
        elif holder is not None:
            holder[key] = value
        return content

    return apply


def forge_json(path, change):
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    write_json(path, change(content))


def forge_tensors(path, change):
    tensors, about = checkpoint.load_tensors(path)
    checkpoint.save_tensors(path, tensors, change(about))


def forge_labels(path, change):
    """The header of a label file says something else about its tensors or about itself."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["about"] = json.loads(header["__metadata__"]["about"])
    header = change(header)
    if isinstance(header.get("__metadata__"), dict) and "about" in header["__metadata__"]:
        header["__metadata__"]["about"] = json.dumps(header["__metadata__"]["about"])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


FORGERS = {"labels": forge_labels, "network": forge_tensors, "unit": forge_tensors}


@pytest.mark.parametrize("what", [name for name in READERS if name != "state"])
@given(change=forgery())
@FEW
def test_forged(folder, what, change):
    read, name = READERS[what]
    path = folder / name
    whole, before = path.read_bytes(), sorted(folder.rglob("*"))
    try:
        FORGERS.get(what, forge_json)(path, change)
        read(folder)
    except UserError:
        pass
    finally:
        path.write_bytes(whole)
    assert sorted(folder.rglob("*")) == before
