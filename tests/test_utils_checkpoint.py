import json
import os
import zipfile

import pytest
import torch

from utils import checkpoint
from utils.errors import UserError

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([1, -2]), "none": torch.zeros(0, 3), "yes": torch.tensor(True)}
ABOUT = {"z": [1, {"y": None}], "a": 0.1, "text": "é"}


def test_tensors_come_back_and_the_bytes_are_always_the_same(tmp_path):
    for name in ("one", "two"):
        checkpoint.save_tensors(tmp_path / name, TENSORS, dict(reversed(ABOUT.items())) if name == "two" else ABOUT)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    tensors, about = checkpoint.load_tensors(tmp_path / "one")
    assert about == ABOUT
    assert sorted(tensors) == sorted(TENSORS)
    assert all(torch.equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert os.listdir(tmp_path) in (["one", "two"], ["two", "one"])


def test_files_of_other_tools(tmp_path):
    from safetensors.torch import save_file

    save_file(TENSORS, tmp_path / "plain")
    save_file(TENSORS, tmp_path / "hub", metadata={"format": "pt"})
    save_file(TENSORS, tmp_path / "old", metadata={"about": json.dumps(ABOUT)})
    assert [checkpoint.load_tensors(tmp_path / name)[1] for name in ("plain", "hub", "old")] == [{}, {}, ABOUT]


def test_a_state_comes_back(tmp_path):
    state = {"net": TENSORS, "list": [1, None, {"x": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)}], 3: "y"}
    checkpoint.save_state(tmp_path / "s.pt", state)
    found = checkpoint.load_state(tmp_path / "s.pt")
    assert found["list"][:2] == [1, None]
    assert found[3] == "y"
    assert found["list"][2]["x"].stride() == state["list"][2]["x"].stride()
    assert all(torch.equal(found["net"][name], TENSORS[name]) for name in TENSORS)
    found["net"]["b"].add_(1)  # a copy of its own, not the file
    assert torch.equal(checkpoint.load_state(tmp_path / "s.pt")["net"]["b"], TENSORS["b"])
    assert torch.load(tmp_path / "s.pt", weights_only=True)[3] == "y"  # PyTorch itself reads it, too


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d[:0], lambda d: d[:50], lambda d: d + b"x",
                                    lambda d: d[:1000] + bytes([d[1000] ^ 1]) + d[1001:], lambda d: d[:-70]])
def test_a_damaged_state(tmp_path, change):
    path = tmp_path / "s.pt"
    checkpoint.save_state(path, {"x": torch.zeros(1000)})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="s.pt: does not match its checksum, the file is damaged. Remove it and run this again"):
        checkpoint.load_state(path)


class Opens:
    """Unpickled without care it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_would_run_code(tmp_path):
    for name, zipped in (("new.pth", True), ("old.pth", False)):
        torch.save({"x": Opens(tmp_path / "ran")}, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=f"{name}: damaged or not safe to load"):
            checkpoint.load_pickled(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def rewritten(path, new, change, compression=zipfile.ZIP_STORED):
    """A copy of a file of torch.save with a changed pickle."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w", compression) as archive:
        for member in old.infolist():
            data = old.read(member)
            archive.writestr(member.filename, change(data) if member.filename.endswith("data.pkl") else data)


def test_a_storage_that_claims_more_than_the_file_has(tmp_path):
    """Of 5 numbers; the forged pickle says 2000000000. Read as PyTorch reads it, that is memory of other things."""
    torch.save({"x": torch.arange(5.0)}, tmp_path / "good.pth")

    def larger(data):
        assert data.count(b"K\x05") == 2  # numel of the storage, and the size of the tensor
        return data.replace(b"K\x05", b"J" + (2_000_000_000).to_bytes(4, "little"))

    rewritten(tmp_path / "good.pth", tmp_path / "forged.pth", larger)
    with pytest.raises(UserError, match="forged.pth: damaged or not safe to load"):
        checkpoint.load_pickled(tmp_path / "forged.pth")


def test_a_compressed_member_that_swells(tmp_path):
    torch.save({"x": torch.zeros(10)}, tmp_path / "good.pth")
    rewritten(tmp_path / "good.pth", tmp_path / "bomb.pth", lambda data: data + bytes(50_000_000), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    with pytest.raises(UserError, match="it holds compressed members, which PyTorch never writes"):
        checkpoint.load_pickled(tmp_path / "bomb.pth")


@pytest.mark.parametrize("header", [
    {"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}},
    {"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 16]}},
    {"x": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 16]}},
    {"x": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
    {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "y": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
    {"__metadata__": {"about": "[" * 100_000}, "x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
    {"__metadata__": {"about": '{"crc32": 5}'}, "x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
])
def test_a_forged_header_of_safetensors(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(UserError, match="x.safetensors: (damaged|does not match its checksum)"):
        checkpoint.load_tensors(tmp_path / "x.safetensors")


def test_a_header_longer_than_the_file(tmp_path):
    (tmp_path / "x.safetensors").write_bytes((1 << 50).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        checkpoint.load_tensors(tmp_path / "x.safetensors")
