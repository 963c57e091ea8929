import re

import pytest
import tiny
from PIL import Image

from report import page_content
from report.options import Page
from utils import options
from utils.errors import UserError
from utils.files import read_json, write_json

CLASSES = ("<b>&\"cat\"", "dog $x$", "newt|")


@pytest.fixture
def out(tmp_path):
    """Two run folders and a folder of another tool, of classes that are named badly."""
    tiny.image_folder(tmp_path / "train", CLASSES, 4)
    tiny.teacher_folder(tmp_path / "teachers", ["resnet18"], CLASSES)
    for name, top1 in (("prism", 90.0), ("random", 50.0)):
        folder = tiny.distilled_folder(tmp_path / name, tmp_path / "train", CLASSES, 4)
        tiny.finished_student(folder, "soft_seed0", top1=top1, labels={"options": {}})
    tiny.image_folder(tmp_path / "plain", CLASSES, 4, (32, 32))
    return tmp_path


def write(out, *names, **given):
    o = options.from_values(Page, {"device": "cpu", "network": "resnet18",
                                   "teacher_weights": str(out / "teachers"), **given})
    path = page_content.write_page({name: out / name for name in names}, o, out / "page.html")
    return path.read_text(), path.with_suffix(".md").read_text()


def test_a_page_of_runs_and_of_a_plain_folder(out, capsys):
    html, markdown = write(out, "prism", "random", "plain", images_shown=2, dataset_name="Pets",
                           network="none")
    assert "<h1>Pets, distilled to 12 images</h1>" in html
    assert "&lt;b&gt;&amp;&quot;cat&quot;" in html
    assert "<b>" not in html
    assert "prism is 40.0 points above random." in html
    for heading in ("Students", "Images", "Curves", "How they were made", "Cost"):
        assert f"## {heading}\n" in markdown
    assert "| resnet18, soft labels (prism, epochs 2) | **90.0** | 50.0 | – |" in markdown
    assert Image.open(out / "page_files/class002_set1.png").size == (2 * 32, 32)
    assert (out / "page_files/students.csv").read_text().splitlines()[2] == (
        "random,12,resnet18,soft,prism,epochs 2,0,50.0,49.0,500,2.5,cpu")
    printed = capsys.readouterr().out
    assert f"Page: {out / 'page.html'}" in printed
    assert "| prism | random | plain |" in printed


def test_the_same_command_writes_the_same_bytes(out):
    first, second = (write(out, "prism", "plain", network="none") for _ in range(2))
    assert first == second


def test_with_real_images_the_page_says_how_close_the_sets_are_to_them(out):
    tiny.image_folder(out / "more", CLASSES, 4, (32, 32))  # the images of plain
    _, markdown = write(out, "plain", "prism", train_dir=out / "more")
    assert re.search(r"\| median distance to the nearest real image \| 0 \| \d", markdown)
    assert "beside all real images of an image's class (12 in all)" in markdown
    assert "(page_files/distances.svg)" in markdown
    assert "(page_files/map1.svg)" in markdown
    assert "nearest to its own start" not in markdown  # no record says what they started from


def test_without_a_network_there_is_no_diversity_and_the_page_says_why(out):
    html, _ = write(out, "plain", network=None, teacher_weights=None)
    assert "No record names a network, so neither diversity nor a map is shown." in html
    assert "No student was trained on these images yet." in html
    html, _ = write(out, "plain", network="none", teacher_weights=None)
    assert "Diversity" not in html


def starts(turned=0):
    """A record of recover: the training image that each image started from."""
    return {"start": {f"images/new{c:03d}/class{c:03d}_id{i:03d}.png":
                      f"{name}/img_{(i + turned) % 4:03d}.JPEG"
                      for c, name in enumerate(CLASSES) for i in range(4)}}


def test_start_images_of_a_run_are_above_its_own(out):
    write_json(out / "prism/units/u.json", starts())
    html, markdown = write(out, "prism", "random", train_dir=out / "train", network="none")
    assert markdown.count("_start0.png") == 3
    assert "A row &quot;start&quot; shows the real images" in html
    _, markdown = write(out, "prism", "random", network="none")
    assert "_start" not in markdown
    assert "looked for in --train-dir" in markdown


def test_sets_share_a_row_of_start_images_where_these_are_the_same(out):
    for name, turned, header in (("random", 0, "| class | start | prism | random |"),
                                 ("random", 1, "| class | start | prism | start of random | ran")):
        write_json(out / "prism/units/u.json", starts())
        write_json(out / name / "units/u.json", starts(turned))
        _, markdown = write(out, "prism", "random", train_dir=out / "train", network="none")
        assert header in markdown


def test_real_images_as_they_are_have_no_start(out):
    manifest = read_json(out / "random/images.json", "")
    write_json(out / "random/images.json",
               {**manifest, "options": {**manifest["options"], "iteration": 0}})
    write_json(out / "random/units/u.json", starts())
    _, markdown = write(out, "random", train_dir=out / "train", network="none")
    assert "| class | random |" in markdown
    assert "none: real images" in markdown


def test_another_network_must_be_there(out):
    with pytest.raises(UserError, match="no alexnet.safetensors"):
        write(out, "prism", network="alexnet")


def test_held_out_images_need_the_real_training_images(out):
    with pytest.raises(UserError, match="val: is measured beside the real training images alone, "
                                        "and these are not given. Give --train-dir too."):
        write(out, "prism", val_dir=out / "val")
    assert not (out / "page.html").exists()


def test_large_images_are_reduced(tmp_path):
    tiny.image_folder(tmp_path / "plain", ("a", "b"), 3, (224, 224))
    write(tmp_path, "plain", network="none")
    strip = Image.open(tmp_path / "page_files/class001_set0.jpg")
    assert strip.size == (3 * 96, 96)
    assert strip.format == "JPEG"


def test_the_page_of_one_run_is_in_its_folder(out, monkeypatch):
    monkeypatch.setenv("CALLER_DIR", str(out / "here"))
    assert page_content.default_output({"a": out / "prism"}) == out / "prism/report.html"
    assert page_content.default_output({"a": out / "plain"}) == out / "here/report.html"
    assert page_content.default_output({"a": out / "prism", "b": out / "random"}) == (
        out / "here/report.html")
