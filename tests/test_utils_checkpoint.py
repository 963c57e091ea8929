import errno
import json
import os
import zipfile

import numpy
import pytest
import torch
from safetensors.torch import save_file

from utils import checkpoint
from utils.errors import UserError

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([1, -2]),
           "none": torch.zeros(0, 3), "yes": torch.tensor(True)}
ABOUT = {"z": [1, {"y": None}], "a": 0.1, "text": "é"}


def same(first, second):
    """Whether two {name: tensor} are equal in names, types, shapes and values."""
    return sorted(first) == sorted(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])
        for name in first)


# Tensors

def test_tensors_come_back_and_the_bytes_are_always_the_same(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    checkpoint.save_tensors(one, TENSORS, ABOUT)
    checkpoint.save_tensors(two, dict(reversed(TENSORS.items())), dict(reversed(ABOUT.items())))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]

    tensors, about = checkpoint.load_tensors(one)
    assert same(tensors, TENSORS)
    assert about == checkpoint.read_header(one) == ABOUT


def test_the_header_is_one_json(tmp_path):
    checkpoint.save_tensors(tmp_path / "x", TENSORS, ABOUT)
    data = (tmp_path / "x").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(header["__metadata__"]) == {"about"}
    about = json.loads(header["__metadata__"]["about"])
    assert about["content"] == ABOUT
    assert set(about) == {"content", "crc32"}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"about": "a network"},
                                      {"about": "5"}, {"about": '{"x": 1}'}])
def test_files_of_other_tools(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "x", metadata=metadata)
    tensors, about = checkpoint.load_tensors(tmp_path / "x")
    assert same(tensors, TENSORS)
    assert about == checkpoint.read_header(tmp_path / "x") == {}


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:50],
                                    lambda data: data[:0], lambda data: data + b"x",
                                    lambda data: data[:-1] + bytes([data[-1] ^ 1]),
                                    lambda data: b"\xff" * 7 + data[7:]])
def test_damaged_tensors(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    checkpoint.save_tensors(path, TENSORS, ABOUT)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="x.safetensors: damaged or not a safetensors file"):
        checkpoint.load_tensors(path)


def test_missing_files(tmp_path):
    for read in (checkpoint.load_tensors, checkpoint.read_header, checkpoint.load_state):
        with pytest.raises(UserError, match="x: no such file"):
            read(tmp_path / "x")


@pytest.mark.parametrize("read", [checkpoint.load_tensors, checkpoint.read_header,
                                  checkpoint.load_state])
def test_a_folder_and_a_file_without_permission_are_called_so(tmp_path, monkeypatch, read):
    with pytest.raises(UserError, match=f"^{tmp_path}: is a folder, expected a file"):
        read(tmp_path)

    def refused(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = tmp_path / "x.safetensors"
    checkpoint.save_tensors(path, TENSORS)
    monkeypatch.setattr(checkpoint, "open", refused, raising=False)
    with pytest.raises(UserError, match=f"^{path}: no permission"):
        read(path)


def test_the_hash_is_of_names_types_shapes_and_bytes():
    digest = checkpoint.tensors_hash(TENSORS)
    assert checkpoint.tensors_hash(dict(reversed(TENSORS.items()))) == digest
    for name, other in (("c", TENSORS["b"]), ("b", TENSORS["b"].double()),
                        ("b", TENSORS["b"].view(3, 2)), ("b", TENSORS["b"] + 1)):
        changed = {key: tensor for key, tensor in TENSORS.items() if key != "b"}
        assert checkpoint.tensors_hash({**changed, name: other}) != digest


# States

def test_a_state_comes_back(tmp_path):
    moments = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    path = tmp_path / "s.pt"
    checkpoint.save_state(path, {"net": TENSORS, "list": [1, None, {"x": moments}], 3: "y"})

    state = checkpoint.load_state(path)
    assert same(state["net"], TENSORS)
    assert (state["list"][:2], state[3]) == ([1, None], "y")
    assert state["list"][2]["x"].stride() == moments.stride()
    assert torch.load(path, weights_only=True)[3] == "y"  # PyTorch itself reads it, too

    state["net"]["b"].add_(1)  # a copy of its own, not the file
    assert same(checkpoint.load_state(path)["net"], TENSORS)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:0],
                                    lambda data: data[:50], lambda data: data[:-70],
                                    lambda data: data[:2000] + b"x" + data[2001:]])
def test_a_damaged_state(tmp_path, damage):
    path = tmp_path / "s.pt"
    checkpoint.save_state(path, {"x": torch.zeros(1000)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="s.pt: damaged or not safe to load .* Remove it and run"):
        checkpoint.load_state(path)


def test_a_state_without_checksums(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "get_crc32_options", lambda: False)
    torch.save({"x": torch.ones(3)}, tmp_path / "x.pth")
    assert torch.equal(checkpoint.load_state(tmp_path / "x.pth")["x"], torch.ones(3))


# Files that nobody trusts

class Opens:
    """Unpickled without care it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code(tmp_path, zipped):
    torch.save({"x": Opens(tmp_path / "ran")}, tmp_path / "x.pth",
               _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"x.pth: holds _?io.open, .*author for a state dict") as e:
        checkpoint.load_state(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(e.value)


def test_pytorchs_advice_to_trust_a_file_is_not_repeated(tmp_path):
    torch.save({"x": numpy.float64(3)}, tmp_path / "numpy.pth")
    with pytest.raises(UserError, match=r"holds numpy\S+scalar, expected tensors and plain"):
        checkpoint.load_state(tmp_path / "numpy.pth")
    (tmp_path / "text.pth").write_bytes(b"damaged")
    with pytest.raises(UserError, match="no pickle of tensors and plain values"):
        checkpoint.load_state(tmp_path / "text.pth")


def rewrite(path, new, change, compression=zipfile.ZIP_STORED):
    """Copy a file of torch.save with a changed pickle."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w", compression) as archive:
        for member in old.infolist():
            data = old.read(member)
            pickled = member.filename.endswith("data.pkl")
            archive.writestr(member.filename, change(data) if pickled else data)


def test_a_storage_that_claims_more_than_the_file_has(tmp_path):
    """Read as PyTorch reads it by default, that would be memory of other things."""
    torch.save({"x": torch.arange(5.0)}, tmp_path / "good.pth")

    def larger(data):
        assert data.count(b"K\x05") == 2  # numel of the storage, and the size of the tensor
        return data.replace(b"K\x05", b"J" + (2_000_000_000).to_bytes(4, "little"))

    rewrite(tmp_path / "good.pth", tmp_path / "forged.pth", larger)
    with pytest.raises(UserError, match="forged.pth: damaged or not safe to load"):
        checkpoint.load_state(tmp_path / "forged.pth")


def test_a_compressed_member_that_swells(tmp_path):
    torch.save({"x": torch.zeros(10)}, tmp_path / "good.pth")
    rewrite(tmp_path / "good.pth", tmp_path / "bomb.pth", lambda data: data + bytes(50_000_000),
            zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    with pytest.raises(UserError, match="it holds compressed members, which PyTorch never writes"):
        checkpoint.load_state(tmp_path / "bomb.pth")
