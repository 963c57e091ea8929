from types import SimpleNamespace

import pytest
import tiny
import torch

from data.images import normalise, to_uint8
from data.opening import open_real
from recover.options import Options
from recover.start import Starts, check_teachers
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
    assert origins == [f"{path.parent.name}/{path.name}" for path in paths]
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
        assert origins[1] == f"new{number:03d}/class{number:03d}_id001.png"
        assert len(other.identity) == 64

    run = tiny.distilled_folder(folder / "two", folder / "train", tiny.WNIDS[:2], 4)
    with pytest.raises(UserError, match="has 2 classes .* start images of the same classes"):
        starts(real, "real", start_dir=run / "images")


class Always(torch.nn.Module):
    """A network whose answer is always one output."""

    def __init__(self, output, num_classes=3):
        super().__init__()
        self.output, self.num_classes = output, num_classes

    def forward(self, x):
        return torch.eye(self.num_classes)[torch.full((len(x),), self.output)]


def measured(real, least=None, **roles):
    """check_teachers of networks that give three real images in nine right. roles: by name."""
    return check_teachers({name: Always(0) for name in roles}, roles, real, least,
                          torch.device("cpu"))


@pytest.mark.parametrize("role", ["logit", "ranker"])
def test_a_chooser_near_chance_is_refused(real, capsys, role):
    with pytest.raises(UserError, match="resnet18 classifies 33.3 % .* expected at least 40.0 %"):
        measured(real, resnet18=[role, "BN"])
    assert measured(real, 30.0, resnet18=[role]) == {"resnet18": {"top1": 100 / 3, "images": 12}}
    text = capsys.readouterr().out
    assert "teachers on 12 real images" in text
    assert f"resnet18   33.3 % (chance 33.3 %)  {role}\n" in text
    assert "note" not in text


def test_other_networks_near_chance_give_a_note(real, capsys):
    assert len(measured(real, alexnet=["BN"], squeezenet=["verifier"])) == 2
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert len(notes) == 1
    assert notes[0].startswith("note: alexnet is near chance. Was it trained on this dataset?")


def test_all_outputs_of_a_full_head_compete(real, capsys):
    """It always answers output 3, which is class 1 of the data; of ten outputs chance is 10 %."""
    teacher = Always(3, num_classes=10)
    teacher.columns = torch.tensor([7, 3, 5])
    check_teachers({"net": teacher}, {"net": ["logit"]}, real, None, torch.device("cpu"))
    assert "net   33.3 % (chance 10.0 %)" in capsys.readouterr().out
