from types import SimpleNamespace

import pytest
import tiny
import torch

from data.image_set import open_real
from data.images import normalise, to_uint8
from recover.options import Options
from recover.start import Starts, check_teacher
from utils.errors import UserError
from utils.options import from_values
from utils.seeding import stream

SIZE = 32
UNIT = SimpleNamespace(classes=(0, 2, 1, 0), ipc_ids=(0, 1, 3, 3), key=("batch", 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def real(folder):
    root = tiny.image_folder(folder / "train", per_class=4)
    return open_real("imagefolder", "train", root, SIZE, workers=1)


def starts(real, start, **changed):
    values = {"start": start, "seed": 3, "workers": 1, **changed}
    return Starts(real, from_values(Options, values), run=None)


def test_real_starts_are_the_files_in_order(real):
    pixels, x, origins = starts(real, "real").images(UNIT)
    paths = [real.paths[4 * c + i] for c, i in zip(UNIT.classes, UNIT.ipc_ids, strict=True)]
    assert origins == [str(path) for path in paths]
    assert torch.equal(pixels[1], real.image(9))
    assert torch.equal(x, normalise(pixels))
    assert starts(real, "real").available == [4, 4, 4]
    assert starts(real, "real").identity is None


def test_random_uses_each_image_once_and_drawn_repeats(real):
    random, drawn = (starts(real, start) for start in ("random", "drawn"))
    assert sorted(random.index(1, i) for i in range(4)) == real.by_class[1].tolist()
    place = torch.randperm(4, generator=stream(3, "start", 1))[2]
    assert random.index(1, 2) == 4 + place
    several = [drawn.index(1, i) for i in range(40)]
    assert set(several) == set(real.by_class[1].tolist())
    assert several[7] == 4 + torch.randint(4, (), generator=stream(3, "start", 1, 7))
    assert drawn.available is None


def test_each_start_is_mirrored_by_its_own_draw(real):
    plain = starts(real, "real").images(UNIT)[0]
    assert torch.equal(starts(real, "real", start_flip=1.0).images(UNIT)[0], plain.flip(3))
    some = starts(real, "real", start_flip=0.5).images(UNIT)[0]
    for image, before, c, i in zip(some, plain, UNIT.classes, UNIT.ipc_ids, strict=True):
        mirrored = torch.rand(1, generator=stream(3, "start flip", c, i), dtype=torch.float64) < 0.5
        assert torch.equal(image, before.flip(2) if mirrored else before)


def test_noise_is_of_the_unit(real):
    pixels, x, origins = starts(real, "noise").images(UNIT)
    generator = stream(3, "noise", "batch", 5)
    assert torch.equal(x, torch.randn(4, 3, SIZE, SIZE, generator=generator))
    assert torch.equal(pixels, to_uint8(x))
    assert origins == ["noise"] * 4


def test_another_folder_in_the_class_order_of_the_real_images(real, folder):
    """Images of the right size are taken as they are; others are resized and cropped."""
    for size, reordered in ((SIZE, tiny.WNIDS[::-1]), (48, tiny.WNIDS)):
        run = tiny.distilled_folder(folder / f"run{size}", folder / "train", reordered, 4, size)
        other = starts(real, "real", start_dir=run / "images")
        pixels, _, origins = other.images(UNIT)
        assert pixels.shape == (4, 3, SIZE, SIZE)
        number = reordered.index(tiny.WNIDS[2])
        assert origins[1] == str(run / f"images/new{number:03d}/class{number:03d}_id001.png")
        assert len(other.identity) == 64

    run = tiny.distilled_folder(folder / "two", folder / "train", tiny.WNIDS[:2], 4)
    with pytest.raises(UserError, match="has 2 classes .* start images of the same classes"):
        starts(real, "real", start_dir=run / "images")


def test_a_teacher_near_chance_is_refused(real, capsys):
    class Teacher(torch.nn.Module):
        num_classes = 3

        def forward(self, x):
            return torch.eye(3)[torch.zeros(len(x), dtype=torch.int64)]

    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="resnet18 classifies 33.3 % .* expected at least 40.0 %"):
        check_teacher("resnet18", Teacher(), real, None, cpu)
    check_teacher("resnet18", Teacher(), real, 30.0, cpu)
    assert "33.3 % of 12 real images right (chance 33.3 %)" in capsys.readouterr().out


def test_all_outputs_of_a_full_head_compete(real, capsys):
    """It always answers output 3, which is class 1 of the data; of ten outputs chance is 10 %."""
    class Teacher(torch.nn.Module):
        num_classes, columns = 10, torch.tensor([7, 3, 5])

        def forward(self, x):
            return torch.eye(10)[torch.full((len(x),), 3)]

    check_teacher("resnet18", Teacher(), real, None, torch.device("cpu"))
    assert "33.3 % of 12 real images right (chance 10.0 %)" in capsys.readouterr().out
