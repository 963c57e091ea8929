import json

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image

from data import datasets
from data.images import normalise
from models.networks import build
from recover import mosaics, ranking
from recover.ranking import medium_index, mosaic_image, settle_selection
from utils.errors import UserError
from utils.seeding import stream

SIZE = 32
SETTINGS = {"ranker": "shufflenet_v2_x0_5", "seed": 3, "image_size": SIZE, "mosaic_candidates": 9, "mosaic_crops": 3,
            "mosaic_grid": 2, "ipc": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two classes of ten images of 48 x 40 px."""
    root = tiny.image_folder(tmp_path_factory.mktemp("ranking"), ("n01440764", "n01443537"), per_class=10, size=(48, 40))
    return datasets.open_images("imagefolder", "train", root, SIZE)


@pytest.fixture(scope="module")
def network():
    net = build("shufflenet_v2_x0_5", 2, seed=("ranking",)).train()
    with torch.no_grad():  # statistics of real activations, so that images differ in their logits
        for s in range(30):
            net(torch.randn(16, 3, SIZE, SIZE, generator=stream(s)))
    return net.requires_grad_(False).eval()


def settle(kind, run, real, network, labels=(0, 1), **changes):
    settle_selection(kind, run, real, labels, network, {**SETTINGS, **changes}, CPU, workers=2)


def selection(run):
    return {p.name: p.read_bytes() for p in (run / "selection").iterdir()}


def test_medium_order_equals_a_slow_loop(real, network, tmp_path):
    settle("medium", tmp_path, real, network)
    for label in (0, 1):
        own = real.by_class[label]
        p = {int(i): network(normalise(real.centre(int(i))[None])).double().softmax(1)[0, label].item() for i in own}
        assert len(set(p.values())) == 10
        ascending = sorted(p, key=p.get)
        expected = [ascending[place] for place in (5, 6, 4, 7, 3, 8, 2, 9, 1, 0)]
        assert [medium_index(tmp_path, label, i) for i in range(10)] == expected
    files = json.loads((tmp_path / "selection/class00001.json").read_text())
    assert files["class"] == "n01443537"
    assert [real.paths[i].name for i in files["order"].values()] == list(files["order"])


def test_mosaic_equals_a_slow_loop(real, network, tmp_path):
    settle("mosaic", tmp_path, real, network)
    for label in (0, 1):
        own = real.by_class[label]
        places = torch.randperm(10, generator=stream(3, "mosaic", label))[:9].sort().values.tolist()
        best = []
        for place in places:
            image = Image.open(real.paths[own[place]])
            boxes = mosaics.draw_boxes(image, 3, stream(3, "mosaic", label, place)).tolist()
            tried = []
            for top, left, height, width in boxes:
                crop = image.crop((left, top, left + width, top + height)).resize((16, 16), Image.Resampling.BILINEAR)
                crop = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
                x = torch.zeros(1, 3, SIZE, SIZE)
                x[0, :, 8:24, 8:24] = normalise(crop)
                score = -F.log_softmax(network(x).double(), 1)[0, label].item()
                tried.append((score, place, [top, left, height, width], crop))
            best.append(min(tried, key=lambda t: t[0]))
        best.sort(key=lambda t: t[0])
        found = json.loads((tmp_path / f"selection/class{label:05d}.json").read_text())["crops"]
        assert [(c["index"], c["box"]) for c in found] == [(int(own[place]), box) for _, place, box, _ in best[:8]]
        assert np.allclose([c["score"] for c in found], [b[0] for b in best[:8]], atol=1e-5)
        for j in range(2):
            pixels, words = mosaic_image(tmp_path, real, label, j, 2)
            cells = [best[rank][3] for rank in (j, 2 + j, 4 + j, 6 + j)]
            assert torch.equal(pixels[:, :16, :16], cells[0])
            assert torch.equal(pixels[:, :16, 16:], cells[1])
            assert torch.equal(pixels[:, 16:, :16], cells[2])
            assert torch.equal(pixels[:, 16:, 16:], cells[3])
            assert str(real.paths[own[best[j][1]]]) in words


@pytest.mark.parametrize("kind", ["medium", "mosaic"])
def test_same_bytes_again_and_whatever_the_order_of_work(kind, real, network, tmp_path, monkeypatch):
    settle(kind, tmp_path / "a", real, network)
    for rank in ("1", "0"):  # two ranks, one after the other
        with monkeypatch.context() as patch:
            patch.setenv("RANK", rank)
            patch.setenv("WORLD_SIZE", "2")
            patch.setattr(ranking.distributed, "barrier", lambda: None)
            settle(kind, tmp_path / "b", real, network)
        assert len(selection(tmp_path / "b")) == (2 if rank == "1" else 3)
    assert selection(tmp_path / "a") == selection(tmp_path / "b")
    assert sorted(selection(tmp_path / "a")) == ["class00000.json", "class00001.json", "selection.json"]


def test_what_is_there_is_not_looked_at_again(real, network, tmp_path, monkeypatch):
    settle("mosaic", tmp_path, real, network, labels=(0,))
    monkeypatch.setattr(ranking, "_mosaic", lambda _, label, *__: {"grid": 2, "crops": [label]})
    settle("mosaic", tmp_path, real, network)
    assert len(json.loads((tmp_path / "selection/class00000.json").read_text())["crops"]) == 8
    assert json.loads((tmp_path / "selection/class00001.json").read_text())["crops"] == [1]


def test_other_settings_are_refused_by_name(real, network, tmp_path):
    settle("mosaic", tmp_path, real, network)
    others = {"seed": 4, "ipc": 1, "mosaic_candidates": 8, "mosaic_crops": 2, "mosaic_grid": 1, "ranker": "resnet18"}
    for name, value in others.items():
        with pytest.raises(UserError, match=f"was made with {name} = .*, now {name} = .*choose another --output-dir"):
            settle("mosaic", tmp_path, real, network, **{name: value})
    with pytest.raises(UserError, match='start = "mosaic", now start = "medium"'):
        settle("medium", tmp_path, real, network)
    other = build("shufflenet_v2_x0_5", 2, seed=("other",)).eval()
    with pytest.raises(UserError, match="ranker_weights"):
        settle("mosaic", tmp_path, real, other)


def test_medium_does_not_depend_on_the_seed_or_the_number_of_images(real, network, tmp_path):
    settle("medium", tmp_path, real, network)
    settle("medium", tmp_path, real, network, seed=9, ipc=5, mosaic_grid=3)


def test_another_seed_draws_other_crops(real, network, tmp_path):
    settle("mosaic", tmp_path / "a", real, network)
    settle("mosaic", tmp_path / "b", real, network, seed=4)
    assert selection(tmp_path / "a")["class00000.json"] != selection(tmp_path / "b")["class00000.json"]


def test_refused_before_anything_is_written(real, network, tmp_path):
    with pytest.raises(UserError, match="class n01440764: 9 candidates for mosaics .* need 12. Lower --ipc-end"):
        settle("mosaic", tmp_path, real, network, ipc=3)
    with pytest.raises(UserError, match="--mosaic-grid 3"):
        settle("mosaic", tmp_path, real, network, mosaic_grid=3)
    assert not list(tmp_path.iterdir())


def test_digits_are_enlarged(tmp_path):
    digits = datasets.open_images("digits", "train")
    network = build("resnet18", 10, stem="small", seed=("digits",)).eval()
    settle_selection("mosaic", tmp_path, digits, [7], network, {**SETTINGS, "mosaic_candidates": 20}, CPU, workers=0)
    pixels, words = mosaic_image(tmp_path, digits, 7, 1, 2)
    assert pixels.shape == (3, 32, 32)
    assert words.startswith("mosaic of digits train image ")
