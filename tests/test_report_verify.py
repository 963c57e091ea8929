"""What a network says about the images of runs: numbers by hand, and the entry on tiny networks."""

import json
import math

import pytest
import tiny
import torch
from PIL import Image

from data.images import normalise
from models.teachers import load_teachers
from report import answers
from report.answers import Answer, Row
from report.sets import open_sets
from report.verify import main
from utils.errors import UserError
from utils.files import write_json

NET, CLASSES = "shufflenet_v2_x0_5", ("n01440764", "n01443537", "n01484850", "n02123045")


# Numbers

def test_answers_by_hand():
    words = ["tench", "goldfish", "shark", "tabby", "hen", "cock"]
    logits = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0, -9.0],
                           [3.0, 2.0, 1.0, 0.5, 0.2, 0.1]])
    first, second = answers.answers(logits, torch.tensor([1, 5]), words, ["a", "b"])
    probability = math.exp(2) / (4 + math.exp(2) + math.exp(-9))
    assert first == Answer("a", "goldfish", "goldfish", pytest.approx(probability), True, True)
    assert (second.wanted, second.said, second.right, second.in_top5) == (
        "cock", "tench", False, False)
    assert answers.answers(logits, torch.tensor([1, 4]), words, ["a", "b"])[1].in_top5


def test_two_classes_of_one_word_are_two_classes():
    """ImageNet has two cranes and two maillots."""
    said = answers.answers(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), ["crane", "crane"], "a")
    assert (said[0].wanted, said[0].said, said[0].right) == ("crane", "crane", False)


def test_shares_by_hand():
    assert answers.share([True, True, True, False]) == pytest.approx((75, 100 * math.sqrt(3) / 8))
    assert answers.share([False, False]) == (0, 0)


def test_the_table_says_who_guided_the_images():
    right, wrong = Answer("a", "hen", "hen", 0.9, True, True), Answer("b", "hen", "cock", 0.5,
                                                                    False, True)
    answered = {"PRISM": [right, wrong, wrong, wrong], "other": [right, right]}
    guides = {"PRISM": ["netA", "netB"], "other": []}
    assert answers.table(answered, guides).splitlines()[2:] == [
        "| PRISM | netA, netB | 4 | 25.0 ± 21.7 | 100.0 ± 0.0 |",
        "| other | not known | 2 | 100.0 ± 0.0 | 100.0 ± 0.0 |"]
    assert answers.explanation("netC", 1000, guides).startswith(
        "Top-1 and top-5 in % of netC among its 1000 classes, with the standard error")
    assert "no evidence" not in answers.explanation("netC", 1000, guides)
    assert answers.explanation("netB", 1000, guides).endswith(
        " It guided the images of PRISM, so its answers about them are no evidence.")


# The picture

def test_a_picture_frames_right_and_wrong_answers(tmp_path):
    """Three classes, two side by side: the third follows below."""
    pictures = [Image.new("RGB", (100, 100), colour) for colour in ("black", "white", "red")]
    given = [Answer("a", "hen", "hen", 0.9, True, True),
             Answer("b", "cock", "hen", 0.6, False, True),
             Answer("c", "tabby", "tabby", 0.7, True, True)]
    answers.draw([Row(["PRISM", "2 of 3"], pictures, given)], ["hen", "cock", "tabby"], "title", 2,
                 tmp_path / "p.png")
    canvas = Image.open(tmp_path / "p.png")
    side = 200  # the least whole multiple of 100 that is at least LEAST_SIDE
    cell, row = side + 2 * 5 + 10, side + 2 * 5 + 2 * 28 + 10
    assert canvas.size == (130 + 2 * cell, 28 + 10 + 2 * (28 + row + 10))

    top = 28 + 10 + 28
    below = top + row + 10 + 28
    assert canvas.getpixel((130, top)) == canvas.getpixel((130, below)) == answers.RIGHT
    assert canvas.getpixel((130 + cell, top)) == answers.WRONG
    assert canvas.getpixel((130 + cell, below)) == (255, 255, 255)
    assert canvas.getpixel((130 + 5, top + 5)) == (0, 0, 0)
    assert canvas.getpixel((130 + 5 + side - 1, below + 5)) == (255, 0, 0)


# The entry

@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two runs of three classes x 2 images, and a teacher that knows a fourth class as well."""
    root = tmp_path_factory.mktemp("verify")
    for seed, name in enumerate(("one", "two")):
        tiny.image_folder(root / f"train{seed}", CLASSES[:3], 2, seed=seed)
        tiny.distilled_folder(root / name, root / f"train{seed}", CLASSES[:3], 2, 32)
    write_json(root / "one/units/slice00000_chunk000.json", {"weights": {NET: "ab", "other": "c"}})
    tiny.teacher_folder(root / "teachers", [NET], CLASSES)
    return root


def verify(root, output, *options):
    main(["--runs", f"PRISM={root / 'one'}", f"B={root / 'two'}", "--verifier", NET,
          "--teacher-weights", str(root / "teachers"), "--device", "cpu", "--threads", "1",
          "--output", str(output), *options])


def test_the_verifier_is_asked_about_all_its_classes(root, tmp_path, capsys):
    verify(root, tmp_path / "v.png", "--slices", "0", "1", "--columns", "2")
    printed = capsys.readouterr().out
    assert f"| PRISM | other, {NET} | 6 | " in printed
    assert "| B | not known | 6 | " in printed
    assert f"of {NET} among its 4 classes" in printed
    assert "It guided the images of PRISM, so" in printed
    page = (tmp_path / "v.md").read_text()
    assert printed.split("\n\nverify: ")[0] in page
    assert page.endswith("![pictures](v.png)\n")

    content = json.loads((tmp_path / "v.json").read_text())
    assert (content["verifier"], content["classes"]) == (NET, 4)
    teacher = load_teachers([NET], root / "teachers", CLASSES, torch.device("cpu"), 32)[NET]
    images = open_sets({"B": root / "two"}, 1)["B"]
    largest = teacher(normalise(images.all_pixels)).argmax(1)
    of_b = content["sets"]["B"]
    assert of_b["top1"] == pytest.approx(100 * float((largest == images.labels).float().mean()))
    assert [answer["right"] for answer in of_b["answers"]] == (largest == images.labels).tolist()
    assert [answer["wanted"] for answer in of_b["answers"]] == [
        "tench", "tench", "goldfish", "goldfish", "great white shark", "great white shark"]

    # 32 px are enlarged six times; four rows (two sets, two slices), in bands of two classes.
    row = 192 + 2 * 5 + 2 * 28 + 10
    assert Image.open(tmp_path / "v.png").size == (
        130 + 2 * (192 + 2 * 5 + 10), 28 + 10 + 2 * (28 + 4 * row + 10))


def test_the_same_command_gives_the_same_bytes(root, tmp_path):
    for name in ("a", "b"):
        verify(root, tmp_path / name / "v.png", "--classes", "n01484850")
    for name in ("v.png", "v.json", "v.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(("options", "sentence"), [
    (["--output", "v.pdf"], "v.pdf: expected a name that ends in .png or .jpg."),
    (["--slices", "2"], "PRISM: class n01440764 has no image number 2. Give other --slices"),
    (["--classes", "n02123045"], "--classes n02123045: no such class. The classes are n01440764"),
    (["--verifier", "no_such_net"], "no_such_net: no such network."),
    (["--runs", "a=x", "a=y"], "two sets have one name"),
])
def test_wrong_options_are_one_sentence(options, sentence, root, tmp_path):
    with pytest.raises(UserError, match=sentence):
        verify(root, tmp_path / "v.png", *options)
    assert not list(tmp_path.iterdir())
