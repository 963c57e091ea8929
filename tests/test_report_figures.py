import csv
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from data import datasets, images
from data.images import normalise
from models.teachers import load_teachers
from recover import data_synthesis
from report import embedding, similarity
from report.figures import main
from report.sets import choose_classes, features, of_class, open_sets, titles
from report.start_grid import StartImages, grid_rows, start_words
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
CLASSES = ("n01440764", "n01443537", "n01484850")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three runs of 3 classes x 3 images: optimised, a real subset of the same files, of other files, and from noise."""
    root = tmp_path_factory.mktemp("figures")
    tiny.image_folder(root / "train", CLASSES, per_class=6)
    tiny.teacher_folder(root / "teachers", ["resnet18"], CLASSES)
    common = ["--train-dir", root / "train", "--teacher-weights", root / "teachers", "--image-size", "32", "--ipc-end", "3",
              "--bn-teachers", "alexnet", "--min-teacher-accuracy", "0"]
    for name, more in {"PRISM": ["--iteration", "2", "--lr", "0.2"], "same": ["--iteration", "0"],
                       "other": ["--iteration", "0", "--start", "random", "--seed", "5"],
                       "noise": ["--iteration", "1", "--start", "noise"]}.items():
        data_synthesis.main([str(word) for word in [*common, "--output-dir", root / name, *more]])
    return root


def given(data, *names):
    return [f"{name}={data / name}" for name in names]


def draw(data, figure, output, *names, **options):
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", *map(str, np.atleast_1d(value)))]
    network = [] if figure == "fig5" else ["--teacher-weights", str(data / "teachers"), "--device", "cpu"]
    main([figure, "--runs", *given(data, *names), "--output", str(output), *network, *words])


def network_and_sets(data, *names):
    sets = open_sets({name: data / name for name in names}, workers=1)
    return load_teachers(["resnet18"], data / "teachers", CLASSES, torch.device("cpu"), 32)["resnet18"], sets


def test_fig4_equals_a_slow_loop_over_pairs(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(similarity, "BATCH", 5)  # two classes, then one
    draw(data, "fig4", tmp_path / "fig4.png", "PRISM", "other")
    with open(tmp_path / "fig4.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", "PRISM", "other"]
    assert [row[0] for row in rows[1:]] == ["mean over classes", *CLASSES]
    network, sets = network_and_sets(data, "PRISM", "other")
    for column, distilled in enumerate(sets.values(), 1):
        means = []
        for label in range(3):
            own = [network.features(normalise(distilled.image(i)[None]))[0].double() for i in range(3 * label, 3 * label + 3)]
            pairs = [float(own[a] @ own[b] / own[a].norm() / own[b].norm()) for a, b in ((0, 1), (0, 2), (1, 2))]
            means.append(sum(pairs) / 3)
            assert math.isclose(float(rows[2 + label][column]), means[-1], abs_tol=1e-4)
        assert math.isclose(float(rows[1][column]), sum(means) / 3, abs_tol=1e-4)
    assert f"PRISM: mean cosine similarity within a class {float(rows[1][1]):.3f} over 3 classes" in capsys.readouterr().out
    assert Image.open(tmp_path / "fig4.png").width > 300


def test_fig4_without_pairs_is_refused(tmp_path):
    with pytest.raises(UserError, match="ours: no class has two images"):
        similarity.draw({"ours": {}}, "", tmp_path / "x.png")


def test_features_do_not_depend_on_batches(data, monkeypatch):
    network, sets = network_and_sets(data, "PRISM")
    bar = types.SimpleNamespace(update=lambda _: None)
    places = [8, 0, 3, 4, 5]
    whole = features(sets["PRISM"], places, network, torch.device("cpu"), 2, bar)
    monkeypatch.setattr("report.sets.BATCH", 2)
    assert torch.allclose(features(sets["PRISM"], places, network, torch.device("cpu"), 0, bar), whole, atol=1e-5)


def test_fig5_has_the_starts_and_each_set_of_the_same_class_and_slice(data, tmp_path, capsys):
    _, sets = network_and_sets(data, "PRISM", "same", "other")
    rows, names, others = grid_rows(sets, {name: data / name for name in sets}, [2, 0], [1, 2])
    assert names == ["start 1", "PRISM 1", "same 1", "other 1", "start 2", "PRISM 2", "same 2", "other 2"]
    assert others == ["other"]
    real = datasets.open_images("imagefolder", "train", data / "train", 32)
    for row, ipc_id in ((0, 1), (4, 2)):
        expected = torch.stack([real.centre(real.by_class[label][ipc_id]) for label in (2, 0)])
        assert torch.equal(rows[row], expected)
        assert torch.equal(rows[row + 2], expected)  # --iteration 0 saved the start as it is (png)
        assert not torch.equal(rows[row + 1], expected)
        paths = [data / "PRISM" / "images" / f"new00{label}" / f"class00{label}_id00{ipc_id}.png" for label in (2, 0)]
        assert torch.equal(rows[row + 1], torch.stack([images.to_tensor(images.decode(path)) for path in paths]))
    draw(data, "fig5", tmp_path / "fig5.png", "PRISM", "other", slices=[0, 1], classes=["n01484850", "n01440764"])
    assert "note: other started from other images" in capsys.readouterr().out
    assert Image.open(tmp_path / "fig5.png").size == (90 + 2 * 98, 16 + 6 * 98)


def test_fig5_without_known_starts_shows_the_results(data, tmp_path, capsys):
    draw(data, "fig5", tmp_path / "fig5.png", "noise")
    assert "no set's start images could be found again" in capsys.readouterr().out
    assert Image.open(tmp_path / "fig5.png").height == 16 + 98
    draw(data, "fig5", tmp_path / "both.png", "noise", "PRISM")  # PRISM's starts, noise is known to be none of them
    assert "note: noise started from other images" in capsys.readouterr().out
    with pytest.raises(UserError, match="PRISM: class n01440764 has no image number 3. Give other --slices"):
        draw(data, "fig5", tmp_path / "fig5.png", "PRISM", slices=3)


def test_starts_of_digits_and_of_images_given_as_they_are(tmp_path):
    def run(name, dataset, start_images, words):
        (tmp_path / name / "units").mkdir(parents=True)
        manifest = {"options": {"dataset": dataset}, "identity": {"start_images": start_images}}
        (tmp_path / name / "images.json").write_text(json.dumps(manifest))
        record = {"files": {"images/new000/a.png": "hash"}, "start": [words]}
        (tmp_path / name / "units" / "slice00000_chunk000.json").write_text(json.dumps(record))
        return tmp_path / name

    digits = run("digits", "digits", None, "digits train image 17")
    assert start_words(digits) == {"images/new000/a.png": "digits train image 17"}
    assert torch.equal(StartImages(digits, 32).image("images/new000/a.png"), datasets.open_images("digits", "train").centre(17))
    square = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    square.save(tmp_path / "s.png")
    path = str(tmp_path / "s.png")
    assert torch.equal(StartImages(run("given", "imagefolder", "hash", path), 32).image("images/new000/a.png"),
                       images.to_tensor(square))
    assert torch.equal(StartImages(run("real", "imagefolder", None, path), 32).image("images/new000/a.png"),
                       images.centre_crop(square, 32))
    assert StartImages(run("gone", "imagefolder", None, path + ".gone"), 32).image("images/new000/a.png") is None
    assert StartImages(run("mosaic", "imagefolder", None, f"mosaic of {path}"), 32).image("images/new000/a.png") is None


def test_fig1_draws_every_image_of_the_classes_in_its_colour(data, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(embedding, "draw", lambda panels, names, *_: drawn.update(panels=panels, names=names))
    draw(data, "fig1", tmp_path / "fig1.png", "PRISM", "other", embedding="tsne", classes=["n01484850", "n01440764"])
    assert drawn["names"] == {2: "great white shark", 0: "tench"}
    for points, labels in drawn["panels"].values():
        assert points.shape == (6, 2)
        assert labels.tolist() == [2, 2, 2, 0, 0, 0]
    assert not torch.equal(drawn["panels"]["PRISM"][0], drawn["panels"]["other"][0])


def test_fig1_panels_share_their_axes(tmp_path):
    panels = {name: (torch.randn(8, 2) + shift, torch.tensor([4, 4, 4, 4, 7, 7, 7, 7])) for name, shift in (("a", 0), ("b", 5))}
    figures, original = [], embedding.Figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "Figure", lambda **settings: figures.append(original(**settings)) or figures[-1])
        embedding.draw(panels, {7: "seven", 4: "four"}, tmp_path / "fig1.pdf", "title")
    left, right = figures[0].axes
    assert left.get_xlim() == right.get_xlim()
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["seven", "four"]
    assert np.allclose(right.collections[1].get_offsets(), panels["b"][0][:4])  # class 4, the second colour
    assert (tmp_path / "fig1.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("method", embedding.METHODS)
def test_embedding_keeps_clusters_apart_and_repeats_itself(method):
    if method == "umap":
        pytest.importorskip("umap", reason="umap-learn is optional")
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 16).repeat_interleave(10, 0)
    x = centres + 0.1 * torch.randn(30, 16, generator=generator)
    points = embedding.embed(x, method, seed=1)
    assert torch.equal(points, embedding.embed(x, method, seed=1))
    own = torch.stack([part.mean(0) for part in points.split(10)])
    nearest = torch.cdist(points, own).argmin(1)
    assert torch.equal(nearest, torch.arange(3).repeat_interleave(10))


def test_umap_that_is_not_installed_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match="umap-learn is not installed. Run pip install umap-learn, or give --embedding tsne"):
        draw(data, "fig1", tmp_path / "fig1.png", "PRISM")


def test_wrong_input_is_one_sentence(data, tmp_path):
    with pytest.raises(UserError, match="found 'PRISM', expected NAME=FOLDER"):
        main(["fig4", "--runs", "PRISM", "--output", "x.png"])
    with pytest.raises(UserError, match="nothing: no such folder. It was given as the set ours"):
        main(["fig4", "--runs", f"ours={tmp_path / 'nothing'}", "--output", str(tmp_path / "x.png")])
    with pytest.raises(UserError, match="two sets have one name"):
        draw(data, "fig4", tmp_path / "x.png", "PRISM", "PRISM")
    with pytest.raises(UserError, match="expected a name that ends in .png or .pdf or .svg"):
        draw(data, "fig4", tmp_path / "x.jpg", "PRISM")
    with pytest.raises(UserError, match="expected a name that ends in .png."):
        draw(data, "fig5", tmp_path / "x.pdf", "PRISM")
    with pytest.raises(UserError, match="--classes n9: no such class. There are n01440764, n01443537, n01484850."):
        draw(data, "fig5", tmp_path / "x.png", "PRISM", classes="n9")
    with pytest.raises(UserError, match="too few for an embedding"):
        draw(data, "fig1", tmp_path / "x.png", "PRISM", classes="n01440764", embedding="tsne")
    tiny.image_folder(tmp_path / "two", CLASSES[:2], size=(32, 32))
    with pytest.raises(UserError, match="two has 2 classes .*, PRISM has 3"):
        main(["fig5", "--runs", *given(data, "PRISM"), f"two={tmp_path / 'two'}", "--output", str(tmp_path / "x.png")])
    tiny.image_folder(tmp_path / "large", CLASSES, size=(48, 48))
    with pytest.raises(UserError, match="large has images of 48 px, PRISM of 32 px"):
        main(["fig5", "--runs", *given(data, "PRISM"), f"large={tmp_path / 'large'}", "--output", str(tmp_path / "x.png")])


def test_ten_classes_by_default_and_names_as_one_reads_them():
    assert choose_classes(None, [str(c) for c in range(12)], 20) == list(range(10))
    assert choose_classes(["b", "a"], ["a", "b", "c"], 2) == [1, 0]
    with pytest.raises(UserError, match="found 3 names, expected at most 2"):
        choose_classes(["a", "b", "c"], ["a", "b", "c"], 2)
    assert titles(["n01440764", "n01443537"]) == ["tench", "goldfish"]
    assert titles(["cat", "n01440764"]) == ["cat", "n01440764"]


def test_numbers_come_from_file_names_where_they_are_there():
    paths = [Path("a/class000_id007.png"), Path("a/class000_id009.png"), Path("b/x.png"), Path("b/y.png")]
    distilled = types.SimpleNamespace(paths=paths, labels=torch.tensor([0, 0, 1, 1]))
    assert of_class(distilled, 0) == {7: 0, 9: 1}
    assert of_class(distilled, 1) == {0: 2, 1: 3}


@pytest.mark.parametrize("figure", [pytest.param("fig1", marks=pytest.mark.slow), "fig4",
                                    pytest.param("fig5", marks=pytest.mark.slow)])
def test_scripts(figure, data, tmp_path):
    """From another folder, with relative paths."""
    relative = {name: os.path.relpath(data / name, tmp_path) for name in ("PRISM", "other", "teachers")}
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "NGPU": "2", "EMBEDDING": "tsne",
           "OUTPUT": "out/fig.png", "RUNS": f"PRISM={relative['PRISM']} other={relative['other']}",
           "TEACHER_WEIGHTS": relative["teachers"]}
    done = subprocess.run(["sh", ROOT / "reproduce" / f"{figure}.sh"], cwd=tmp_path, env=env, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/fig.png").exists()
