"""The figures of the paper from runs that recover made, through the entry and the scripts."""

import csv
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from data import images
from data.images import normalise
from data.opening import open_real
from models.teachers import load_teachers
from recover import data_synthesis
from report import embedding, similarity
from report.figures import main
from report.sets import open_sets
from report.start_grid import grid_rows
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
NET = "shufflenet_v2_x0_5"
RUNS = {
    "PRISM": ["--iteration", "2", "--lr", "0.2"],
    "same": ["--iteration", "0"],
    "other": ["--iteration", "0", "--start", "random", "--seed", "5"],
    "noise": ["--iteration", "1", "--start", "noise"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Runs of 3 classes x 3 images: optimised, their starts, other real images, from noise."""
    root = tmp_path_factory.mktemp("figures")
    tiny.image_folder(root / "train", tiny.WNIDS, per_class=6)
    tiny.teacher_folder(root / "teachers", [NET], tiny.WNIDS)
    for name, argv in RUNS.items():
        data_synthesis.main([
            "--train-dir", str(root / "train"), "--teacher-weights", str(root / "teachers"),
            "--primary-teacher", NET, "--bn-slots", "0", "--min-teacher-accuracy", "0",
            "--image-size", "32", "--ipc-end", "3", "--output-dir", str(root / name), *argv])
    return root


def draw(root, figure, output, names, *argv):
    runs = [f"{name}={root / name}" for name in names]
    network = ["--network", NET, "--teacher-weights", str(root / "teachers"), "--device", "cpu"]
    train_dir = ["--train-dir", str(root / "train")]
    main([figure, "--runs", *runs, "--output", str(output), *argv,
          *(network if figure != "fig5" else train_dir)])


def cosine_by_hand(network, pixels):
    """Mean cosine similarity over the pairs of some images, an image at a time."""
    features = [network.features(normalise(image[None]))[0].double() for image in pixels]
    pairs = list(itertools.combinations(features, 2))
    return sum(float(a @ b / a.norm() / b.norm()) for a, b in pairs) / len(pairs)


def test_fig4_equals_a_slow_loop_over_pairs(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(similarity, "BATCH", 5)  # two classes, then one
    draw(root, "fig4", tmp_path / "fig4.png", ["PRISM", "other"])
    with open(tmp_path / "fig4.csv", newline="") as file:
        header, means, *lines = csv.reader(file)
    assert header == ["class", "PRISM", "other"]
    assert [line[0] for line in lines] == list(tiny.WNIDS)
    assert Image.open(tmp_path / "fig4.png").width > 300
    printed = re.search(r"PRISM: mean cosine similarity within a class ([\d.]+) over 3 classes",
                        capsys.readouterr().out)
    assert float(printed[1]) == pytest.approx(float(means[1]), abs=1e-3)

    teachers = load_teachers([NET], root / "teachers", tiny.WNIDS, torch.device("cpu"), 32)
    sets = open_sets({name: root / name for name in ("PRISM", "other")}, workers=1)
    for column, distilled in enumerate(sets.values(), 1):
        by_hand = [cosine_by_hand(teachers[NET], distilled.pixels(indices))
                   for indices in distilled.by_class]
        table = [float(line[column]) for line in lines]
        assert table == pytest.approx(by_hand, abs=1e-4)
        assert float(means[column]) == pytest.approx(sum(by_hand) / 3, abs=1e-4)


def test_fig5_shows_the_same_class_and_slice_of_each_set(root):
    runs = {name: root / name for name in ("PRISM", "same", "other")}
    rows, names, others = grid_rows(open_sets(runs, 1), runs, [2, 0], [1, 2], root / "train")
    assert names == ["start of PRISM 1", "PRISM 1", "same 1", "other 1",
                     "start of PRISM 2", "PRISM 2", "same 2", "other 2"]
    assert others == ["other"]
    alike = {name: runs[name] for name in ("PRISM", "same")}
    assert grid_rows(open_sets(alike, 1), alike, [2, 0], [1], root / "train")[1] == [
        "start", "PRISM", "same"]

    real = open_real("imagefolder", "train", root / "train", 32)
    for row, ipc_id in ((0, 1), (4, 2)):
        starts = torch.stack([real.image(real.by_class[label][ipc_id]) for label in (2, 0)])
        assert torch.equal(rows[row], starts)
        assert torch.equal(rows[row + 2], starts)  # --iteration 0 saved the start as it is
        assert not torch.equal(rows[row + 1], starts)
        result = Image.open(root / f"PRISM/images/new002/class002_id00{ipc_id}.png")
        assert torch.equal(rows[row + 1][0], images.to_tensor(result))


def test_fig5_notes_other_starts(root, tmp_path, capsys):
    draw(root, "fig5", tmp_path / "fig5.png", ["PRISM", "other"], "--slices", "0", "1",
         "--classes", "n01484850", "n01440764")
    assert "note: other started from other images" in capsys.readouterr().out
    assert Image.open(tmp_path / "fig5.png").size == (144 + 2 * 98 + 2, 22 + 6 * 98 + 2)


def test_fig5_without_known_starts_shows_the_results(root, tmp_path, capsys):
    draw(root, "fig5", tmp_path / "fig5.png", ["noise"])
    assert "no set's start images could be found again" in capsys.readouterr().out
    assert Image.open(tmp_path / "fig5.png").height == 22 + 98 + 2
    draw(root, "fig5", tmp_path / "both.png", ["noise", "PRISM"])
    assert "note: noise started from other images" in capsys.readouterr().out
    with pytest.raises(UserError, match="PRISM: class n01440764 has no image number 3. Give other"):
        draw(root, "fig5", tmp_path / "fig5.png", ["PRISM"], "--slices", "3")


def test_fig1_draws_every_image_of_the_classes(root, tmp_path, monkeypatch):
    drawn, original = {}, embedding.draw
    monkeypatch.setattr(embedding, "draw", lambda panels, legend, title: (
        drawn.update(panels=panels, legend=legend) or original(panels, legend, title)))
    draw(root, "fig1", tmp_path / "fig1.pdf", ["PRISM", "other"], "--embedding", "tsne",
         "--classes", "n01484850", "n01440764")
    assert (tmp_path / "fig1.pdf").read_bytes().startswith(b"%PDF")
    assert drawn["legend"] == {2: "great white shark", 0: "tench"}
    for points, labels in drawn["panels"].values():
        assert points.shape == (6, 2)
        assert labels.tolist() == [2, 2, 2, 0, 0, 0]
    assert not torch.equal(drawn["panels"]["PRISM"][0], drawn["panels"]["other"][0])


def test_plain_class_folders_of_another_tool(root, tmp_path, capsys):
    """PNGs of other names in folders of other classes, which no tool of ours wrote."""
    made = [path for path in sorted((root / "PRISM/images").rglob("*.png"))]
    for i, path in enumerate(made):
        copy = tmp_path / "plain" / ("cat", "dog", "red fox")[i // 3] / f"picture {i % 3}b.PNG"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    root.joinpath("plain").symlink_to(tmp_path / "plain")

    draw(root, "fig5", tmp_path / "fig5.png", ["plain"], "--slices", "0", "2")
    assert "note: no set's start images could be found again" in capsys.readouterr().out
    picture = images.to_tensor(Image.open(tmp_path / "fig5.png"))
    assert picture.shape == (3, 22 + 2 * 98 + 2, 144 + 3 * 98 + 2)
    assert torch.equal(picture[:, 22 + 98 + 2 :: 3, 144 + 2 :: 3][:, :32, :32],
                       images.to_tensor(Image.open(made[2])))  # enlarged three times
    draw(root, "fig1", tmp_path / "fig1.png", ["plain"], "--embedding", "tsne")
    draw(root, "fig4", tmp_path / "fig4.png", ["plain"])
    draw(root, "fig4", tmp_path / "prism.png", ["PRISM"])
    ours, plain = ([line.split(",") for line in (tmp_path / name).read_text().splitlines()]
                   for name in ("prism.csv", "fig4.csv"))
    assert [line[0] for line in plain[2:]] == ["cat", "dog", "red fox"]
    assert [line[1] for line in plain[1:]] == [line[1] for line in ours[1:]]


@pytest.mark.parametrize(("argv", "message"), [
    ([], "arguments are required: figure"),
    (["fig2"], "invalid choice: 'fig2'"),
    (["fig4", "--runs", "PRISM", "--output", "x.png"], "found 'PRISM', expected NAME=FOLDER"),
    (["fig4", "--runs", "a=x", "a=y", "--output", "x.png"], "two sets have one name"),
    (["fig4", "--runs", "a=x", "--output", "x.jpg"], "ends in .png or .pdf or .svg"),
    (["fig5", "--runs", "a=x", "--output", "x.pdf"], "expected a name that ends in .png."),
    (["fig5", "--runs", "a=x", "--output", "x.png", "--network", "n"], "unrecognized arguments"),
])
def test_wrong_options_are_one_sentence(argv, message):
    with pytest.raises(UserError, match=message):
        main(argv)


@pytest.mark.parametrize("figure", [
    pytest.param("fig1", marks=pytest.mark.slow), "fig4",
    pytest.param("fig5", marks=pytest.mark.slow)])
def test_scripts(figure, root, tmp_path):
    """From another folder, with relative paths."""
    prism, other, teachers = (os.path.relpath(root / name, tmp_path)
                              for name in ("PRISM", "other", "teachers"))
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "NGPU": "2",
           "EMBEDDING": "tsne", "OUTPUT": "out/fig.png", "NETWORK": NET,
           "TEACHER_WEIGHTS": teachers, "RUNS": f"PRISM={prism} other={other}"}
    done = subprocess.run(["sh", ROOT / "report" / f"{figure}.sh"], cwd=tmp_path, env=env,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/fig.png").exists()
