import json

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image

from data.images import normalise
from data.opening import open_real
from models.networks import build
from recover import mosaics, ranking
from recover.options import Options
from recover.ranking import check, medium_index, mosaic_image, settle_selection
from utils.errors import UserError
from utils.options import from_values
from utils.seeding import stream

SIZE = 32
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two classes of ten images of 48 x 40 px."""
    root = tiny.image_folder(tmp_path_factory.mktemp("ranking"), tiny.WNIDS[:2], per_class=10,
                             size=(48, 40))
    return open_real("imagefolder", "train", root, SIZE, workers=2)


@pytest.fixture(scope="module")
def network():
    net = build("shufflenet_v2_x0_5", 2, seed=("ranking",)).train()
    with torch.no_grad():  # statistics of real activations, so that images differ in their logits
        for s in range(30):
            net(torch.randn(16, 3, SIZE, SIZE, generator=stream(s)))
    return net.requires_grad_(False).eval()


def options(start, run, **changed):
    values = {"ranker": "shufflenet_v2_x0_5", "seed": 3, "mosaic_candidates": 9, "mosaic_crops": 3,
              "ipc_end": 2, **changed}
    return from_values(Options, {"start": start, "output_dir": run, **values})


def settle(start, run, real, network, **changed):
    settle_selection(options(start, run, **changed), real, network, CPU)


def selection(run):
    return {p.name: p.read_bytes() for p in (run / "selection").iterdir()}


def test_medium_order_equals_a_slow_loop(real, network, tmp_path):
    settle("medium", tmp_path, real, network)
    for label in (0, 1):
        p = {int(i): network(normalise(real.image(int(i))[None])).double().softmax(1)[0, label]
             for i in real.by_class[label]}
        assert len({float(value) for value in p.values()}) == 10
        ascending = sorted(p, key=p.get)
        expected = [ascending[place] for place in (5, 6, 4, 7, 3, 8, 2, 9, 1, 0)]
        assert [medium_index(tmp_path, label, i) for i in range(10)] == expected
    choice = json.loads((tmp_path / "selection/class00001.json").read_text())
    assert choice["class"] == "n01443537"
    assert [real.paths[i].name for i in choice["order"].values()] == list(choice["order"])


def test_a_ranker_with_a_full_head(real, network, tmp_path):
    """The choices of one whose two outputs are the data's, when other outputs are next to never."""
    wide = build("shufflenet_v2_x0_5", 5).eval().requires_grad_(False)
    state = dict(network.net.state_dict())
    for key in ("fc.weight", "fc.bias"):
        rows = wide.net.state_dict()[key] * 0 - 1000.0 * (key == "fc.bias")
        rows[[3, 1]] = state[key]
        state[key] = rows
    wide.net.load_state_dict(state)
    wide.columns = torch.tensor([3, 1])
    for start in ("medium", "mosaic"):
        chosen = []
        for name, net in (("narrow", network), ("wide", wide)):
            run = tmp_path / start / name
            settle(start, run, real, net)
            content = [json.loads((run / f"selection/class0000{c}.json").read_text())
                       for c in (0, 1)]
            chosen.append([c["order"] if start == "medium" else
                           [(crop["index"], crop["box"]) for crop in c["crops"]] for c in content])
        assert chosen[0] == chosen[1]


def slow_crops(real, network, label):
    """(score, index, box, pixels) of the best crop of each candidate, the best first."""
    indices, best = real.by_class[label].tolist(), []
    drawn = torch.randperm(10, generator=stream(3, "mosaic", label))[:9]
    for place in drawn.sort().values.tolist():
        image, tried = Image.open(real.paths[indices[place]]), []
        boxes = mosaics.draw_boxes(image, 3, stream(3, "mosaic", label, place)).tolist()
        for top, left, height, width in boxes:
            crop = image.crop((left, top, left + width, top + height))
            crop = crop.resize((16, 16), Image.Resampling.BILINEAR)
            crop = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
            x = torch.zeros(1, 3, SIZE, SIZE)
            x[0, :, 8:24, 8:24] = normalise(crop)
            score = -F.log_softmax(network(x).double(), 1)[0, label].item()
            tried.append((score, indices[place], [top, left, height, width], crop))
        best.append(min(tried, key=lambda crop: crop[0]))
    return sorted(best, key=lambda crop: crop[0])


def test_mosaic_equals_a_slow_loop(real, network, tmp_path):
    settle("mosaic", tmp_path, real, network)
    for label in (0, 1):
        best = slow_crops(real, network, label)
        path = tmp_path / f"selection/class{label:05d}.json"
        crops = json.loads(path.read_text())["crops"]
        assert [(c["index"], c["box"]) for c in crops] == [(i, box) for _, i, box, _ in best[:8]]
        assert np.allclose([c["score"] for c in crops], [b[0] for b in best[:8]], atol=1e-5)
        for j in range(2):
            pixels, origin = mosaic_image(tmp_path, real, label, j, 2)
            cells = [best[rank][3] for rank in (j, 2 + j, 4 + j, 6 + j)]
            rows = [torch.cat(cells[:2], 2), torch.cat(cells[2:], 2)]
            assert torch.equal(pixels, torch.cat(rows, 1))
            top, left, height, width = best[j][2]
            assert origin.startswith(
                f"mosaic of {real.names[best[j][1]]} rows {top}-{top + height - 1} "
                f"columns {left}-{left + width - 1}; ")


@pytest.mark.parametrize("start", ["medium", "mosaic"])
def test_same_bytes_whatever_the_order_of_work(start, real, network, tmp_path, monkeypatch):
    settle(start, tmp_path / "a", real, network)
    for rank in ("1", "0"):  # two ranks, one after the other
        with monkeypatch.context() as patch:
            patch.setenv("RANK", rank)
            patch.setenv("WORLD_SIZE", "2")
            patch.setattr(ranking.distributed, "barrier", lambda: None)
            settle(start, tmp_path / "b", real, network)
        assert len(selection(tmp_path / "b")) == (2 if rank == "1" else 3)
    assert selection(tmp_path / "a") == selection(tmp_path / "b")
    names = ["class00000.json", "class00001.json", "selection.json"]
    assert sorted(selection(tmp_path / "a")) == names


def test_only_missing_classes_are_looked_at_again(real, network, tmp_path, monkeypatch):
    settle("mosaic", tmp_path, real, network)
    (tmp_path / "selection/class00001.json").unlink()
    monkeypatch.setattr(ranking, "_mosaic", lambda _, label, *__: {"grid": 2, "crops": [label]})
    settle("mosaic", tmp_path, real, network)
    choices = [json.loads((tmp_path / f"selection/class0000{c}.json").read_text()) for c in (0, 1)]
    assert len(choices[0]["crops"]) == 8
    assert choices[1]["crops"] == [1]


def test_other_options_are_refused_by_name(real, network, tmp_path):
    settle("mosaic", tmp_path, real, network)
    others = {"seed": 4, "ipc_end": 1, "mosaic_candidates": 8, "mosaic_crops": 2, "mosaic_grid": 1,
              "ranker": "resnet18"}
    for name, value in others.items():
        refusal = (f"was made with {name.removesuffix('_end')} = .*, now .* = .*choose another "
                   "--output-dir")
        with pytest.raises(UserError, match=refusal):
            settle("mosaic", tmp_path, real, network, **{name: value})
    with pytest.raises(UserError, match='start = "mosaic", now start = "medium"'):
        settle("medium", tmp_path, real, network)
    other = build("shufflenet_v2_x0_5", 2, seed=("other",)).eval()
    with pytest.raises(UserError, match="ranker_weights"):
        settle("mosaic", tmp_path, real, other)


def test_medium_does_not_depend_on_the_seed_or_the_number_of_images(real, network, tmp_path):
    settle("medium", tmp_path, real, network)
    settle("medium", tmp_path, real, network, seed=9, ipc_end=5, mosaic_grid=3)


def test_another_seed_draws_other_crops(real, network, tmp_path):
    for name, seed in (("a", 3), ("b", 4)):
        settle("mosaic", tmp_path / name, real, network, seed=seed)
    a, b = (selection(tmp_path / name)["class00000.json"] for name in "ab")
    assert a != b


def test_mosaics_that_cannot_be_made_are_refused(real, tmp_path):
    too_few = "class n01440764: 9 candidates for mosaics .* need 12. Lower --ipc-end"
    with pytest.raises(UserError, match=too_few):
        check(options("mosaic", tmp_path, ipc_end=3), real)
    with pytest.raises(UserError, match="--mosaic-grid 3"):
        check(options("mosaic", tmp_path, mosaic_grid=3), real)
    check(options("medium", tmp_path, ipc_end=3), real)


def test_digits_are_enlarged(tmp_path):
    digits = open_real("digits", "train", workers=1)
    network = build("resnet18", 10, stem="small", seed=("digits",)).eval()
    settle("mosaic", tmp_path, digits, network, mosaic_candidates=8)
    pixels, origin = mosaic_image(tmp_path, digits, 7, 1, 2)
    assert pixels.shape == (3, 32, 32)
    assert origin.startswith("mosaic of digits train image ")
