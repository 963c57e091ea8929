"""report.diversity through its entry: what it writes about runs and folders of other tools."""

import csv

import pytest
import tiny
import torch
from PIL import Image

from data.image_set import Files, ImageSet
from data.images import normalise
from data.opening import open_distilled, open_real
from models.teachers import load_teachers
from recover import data_synthesis
from report import diversity_report, measures
from report.diversity import main
from report.options import parse_diversity
from report.start_grid import real_starts
from utils.errors import UserError
from utils.files import write_json

NET = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Copies of real images that recover made, a plain folder of PNGs, and held-out images."""
    root = tmp_path_factory.mktemp("diversity")
    tiny.image_folder(root / "train", per_class=7, size=(32, 32))
    tiny.image_folder(root / "val", per_class=4, size=(32, 32), seed=1)
    tiny.teacher_folder(root / "teachers", [NET], tiny.WNIDS)
    for name, more in (("copies", []), ("noise", ["--start", "noise"])):
        data_synthesis.main([
            "--train-dir", str(root / "train"), "--teacher-weights", str(root / "teachers"),
            "--primary-teacher", NET, "--min-teacher-accuracy", "0", "--image-size", "32",
            "--iteration", "0", "--ipc-end", "2", "--output-dir", str(root / name), *more])
    for i, path in enumerate(sorted((root / "val").rglob("*.JPEG"))):
        made = root / "plain" / path.parent.name / f"picture {i}.PNG"
        made.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).rotate(90).save(made, "PNG")
    return root


def measured(root, output, *argv, runs=("copies", "plain")):
    """The lines of the table that the entry writes."""
    main(["--runs", *(f"{name}={root / name}" for name in runs), "--network", NET,
          "--teacher-weights", str(root / "teachers"), "--train-dir", str(root / "train"),
          "--device", "cpu", "--workers", "1", "--output", str(output), *argv])
    return lines(output.with_suffix(".csv"))


def lines(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_per_set_class_and_image(root, tmp_path, capsys):
    copies, plain, held_out = measured(root, tmp_path / "d.png", "--neighbours", "3", "--val-dir",
                                       str(root / "val"))
    assert [line["set"] for line in (copies, plain, held_out)] == [
        "copies", "plain", "held-out real"]
    assert [line["images"] for line in (copies, plain, held_out)] == ["6", "12", "6"]
    assert [copies[name] for name in ("pairs", "own_start_share", "known_starts", "k")] == [
        "3", "1.0", "6", "3"]
    assert float(copies["median_nearest_distance"]) < 1e-3
    assert (plain["own_start_share"], plain["known_starts"], plain["pairs"]) == ("", "0", "18")
    assert plain["random_real_per_class"] == "all"
    text = capsys.readouterr().out
    assert "note: the sets differ in their number of images, so their coverage does not" in text
    assert "penultimate features, beside all real images of an image's class (21 in all)" in text
    assert "copies: 6 images; mean cosine within a class " in text
    assert ("100 % of the 6 that started from one of these are nearest to their own start; "
            "coverage ") in text

    # The same by the functions, on features of single images
    network = load_teachers([NET], root / "teachers", tiny.WNIDS, torch.device("cpu"), 32)[NET]
    real = open_real("imagefolder", "train", root / "train", 32)
    images = open_distilled(root / "plain")
    own, reals = (torch.cat([network.features(normalise(images.image(i)[None]))
                             for i in range(len(images))]).double() for images in (images, real))
    classes = [line for line in lines(tmp_path / "d_classes.csv") if line["set"] == "plain"]
    assert [line["class"] for line in classes] == list(tiny.WNIDS)
    for c, line in enumerate(classes):
        made, of_class = own[4 * c : 4 * c + 4], reals[7 * c : 7 * c + 7]
        covered = measures.covered(of_class, measures.neighbour_radii(of_class, 3), made)
        assert float(line["coverage"]) == pytest.approx(covered.double().mean().item(), abs=1e-4)
    assert float(plain["coverage"]) == pytest.approx(
        sum(float(line["coverage"]) for line in classes) / 3, abs=1e-4)

    first = lines(tmp_path / "d_images.csv")[0]
    assert first["nearest_real_image"] == f"{tiny.WNIDS[0]}/img_000.JPEG"
    assert (first["image"], first["own_start"]) == ("new000/class000_id000.png", "yes")
    assert len(lines(tmp_path / "d_images.csv")) == 24
    assert Image.open(tmp_path / "d.png").width > 600


def test_a_subset_of_the_reals_is_never_called_all(root, tmp_path, capsys):
    (plain,) = measured(root, tmp_path / "d.svg", "--real-per-class", "5", runs=["plain"])
    text = capsys.readouterr().out
    assert "note: no --val-dir, so there is no reference of held-out real images" in text
    assert "beside a random subset of the real images of an image's class (at most 5" in text
    assert "beside all" not in text
    assert "coverage" not in text  # five images have no fifth neighbour
    assert (plain["real_images_compared"], plain["real_images"], plain["random_real_per_class"],
            plain["coverage"]) == ("15", "21", "5", "")
    assert "a random subset of the real images" in (tmp_path / "d.svg").read_text()

    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    measured(root, tmp_path / "d.png", "--real-per-class", "5", runs=["plain"])
    assert len(before) == 3
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.csv")}


def test_starts_that_are_no_training_images_are_not_known(root, tmp_path):
    assert len(real_starts(root / "copies")) == 6
    assert real_starts(root / "copies")["new001/class001_id001.png"] == (
        f"{tiny.WNIDS[1]}/img_001.JPEG")
    assert real_starts(root / "plain") == {}
    (noise,) = measured(root, tmp_path / "d.png", runs=["noise"])
    assert noise["known_starts"] == "0"

    write_json(tmp_path / "run/units/u.json", {"start": {"images/new000/a.png": "cat/b.png"}})
    write_json(tmp_path / "run/images.json", {"identity": {"start_images": None}})
    assert real_starts(tmp_path / "run") == {"new000/a.png": "cat/b.png"}
    write_json(tmp_path / "run/images.json", {"identity": {"start_images": "ab"}})
    assert real_starts(tmp_path / "run") == {}


def test_the_dataset_is_what_the_records_say():
    def opened(*argv, **sets):
        options = parse_diversity(["--runs", "a=x", "--output", "x.png", *argv]).reals
        return diversity_report.open_reals(sets, options, 1)

    classes = list("0123456789")
    digits = ImageSet("digits", classes, [0] * 12, 16, Files(None, [], None))
    plain = ImageSet("imagefolder", [f"new00{c}" for c in classes], [], 16, Files(None, [], None))
    for argv, sets in (([], {"a": plain, "b": digits}), (["--dataset", "digits"], {"a": plain})):
        real, held_out = opened(*argv, **sets)
        assert (len(real), len(held_out), real.image_size) == (1297, 500, 16)
        assert real.dataset == "digits"
        assert [len(i) for i in diversity_report.as_many(held_out, digits)] == [1] * 10


def test_wrong_input_is_one_sentence(root, tmp_path):
    tiny.image_folder(tmp_path / "two", classes=("new000", "new001"), per_class=2, size=(32, 32))
    with pytest.raises(UserError, match="train: has 3 classes, the sets have 2. Give the data"):
        measured(root, tmp_path / "d.png", "--runs", f"two={tmp_path / 'two'}", runs=["copies"])
    with pytest.raises(UserError, match="a folder of train images is needed: give --train-dir"):
        main(["--runs", f"plain={root / 'plain'}", "--network", NET, "--teacher-weights",
              str(root / "teachers"), "--output", str(tmp_path / "d.png")])
    with pytest.raises(UserError, match="'held-out real' is what the reference is called. Name"):
        measured(root, tmp_path / "d.png", "--runs", f"held-out real={root / 'plain'}")
    with pytest.raises(UserError, match="expected a name that ends in .png or .pdf or .svg"):
        main(["--runs", "a=x", "--output", "x.jpg"])
    assert not list(tmp_path.glob("d*"))
