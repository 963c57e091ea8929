"""The course of images: frames found again, the strip and the GIF that they make."""

import pytest
import torch
from PIL import Image

from data import images
from data.opening import open_distilled
from report import course
from report.figures import main
from utils.errors import UserError

SIDE, STEPS = 48, (0, 3, 7)


def colour(name, label, step):
    """The colour of a frame, uint8 [3, SIDE, SIDE]."""
    values = torch.tensor([40 * label + 20, 25 * step + 20, 200 if name == "ours" else 50])
    return values.to(torch.uint8).view(3, 1, 1).expand(3, SIDE, SIDE)


@pytest.fixture
def runs(tmp_path):
    """Two run folders of two classes with frames, one with file names of another tool."""
    for name, file in (("ours", "class00{}_id000"), ("other", "picture {}")):
        for label in range(2):
            stem, folder = file.format(label), ("new000", "new001")[label]
            images.save(colour(name, label, STEPS[-1]),
                        tmp_path / name / "images" / folder / f"{stem}.png")
            for step in STEPS:
                images.save(colour(name, label, step),
                            tmp_path / name / "frames" / folder / stem / f"step{step:05d}.png")
    return [f"{name}={tmp_path / name}" for name in ("ours", "other")]


def middle(picture, row, column):
    """The colour in the middle of a cell."""
    cell = 2 * SIDE + 2
    return picture.convert("RGB").getpixel((144 + column * cell + SIDE, 22 + row * cell + SIDE))


def test_a_strip_has_a_row_per_image_and_a_column_per_step(runs, tmp_path, capsys):
    main(["course", "--runs", *runs, "--output", str(tmp_path / "c.png")])
    assert "course: 3 frames in " in capsys.readouterr().out
    strip = Image.open(tmp_path / "c.png")
    assert strip.size == (144 + 3 * 98 + 2, 22 + 4 * 98 + 2)
    for row, (label, name) in enumerate([(0, "ours"), (0, "other"), (1, "ours"), (1, "other")]):
        for place, step in enumerate(STEPS):
            assert middle(strip, row, place) == tuple(colour(name, label, step)[:, 0, 0].tolist())


def test_a_gif_has_every_step_and_rests_at_both_ends(runs, tmp_path):
    main(["course", "--runs", *runs, "--classes", "new001", "new000", "--output",
          str(tmp_path / "c.png")])
    gif = Image.open(tmp_path / "c.gif")
    assert gif.n_frames == 3
    durations = []
    for place, step in enumerate(STEPS):
        gif.seek(place)
        durations.append(gif.info["duration"])
        for row, name in enumerate(("ours", "other")):
            for column, label in enumerate((1, 0)):
                assert middle(gif, row, column) == tuple(
                    colour(name, label, step)[:, 0, 0].tolist())
    assert durations == [1500, 150, 1500]

    main(["course", "--runs", *runs, "--classes", "new001", "new000", "--output",
          str(tmp_path / "again.png")])
    for suffix in (".gif", ".png"):
        assert ((tmp_path / f"c{suffix}").read_bytes()
                == (tmp_path / f"again{suffix}").read_bytes())


def test_frames_that_are_not_there_are_named(runs, tmp_path):
    for path in (tmp_path / "other/frames").rglob("step00003.png"):
        path.unlink()
    output = ["--output", str(tmp_path / "c.png")]
    with pytest.raises(UserError, match="other: has frames of the steps 0, 7, others of 0, 3, 7. "
                       "Give sets and slices with the same steps"):
        main(["course", "--runs", *runs, *output])
    main(["course", "--runs", runs[1], *output])  # alone it is shown as it is

    for path in (tmp_path / "other/frames/new001").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="frames/new001/picture 1: found no frames .*expected those "
                       "of picture 1.png. recover --frames 20 keeps them"):
        main(["course", "--runs", runs[1], *output])
    read = course.read_frames(tmp_path / "ours", open_distilled(tmp_path / "ours/images"), 1)
    assert list(read) == list(STEPS)
    assert torch.equal(read[3], colour("ours", 1, 3))


def test_a_strip_spreads_many_steps():
    assert course.spread([0, 5, 9], 3) == [0, 5, 9]
    assert course.spread(list(range(21)), 5) == [0, 5, 10, 15, 20]
    assert course.spread(list(range(100)), 11)[:2] == [0, 10]
    assert course.spread(list(range(100)), 11)[-1] == 99
