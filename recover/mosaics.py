"""RDED's images: the most recognisable crops of a class's real images, several to an image."""

import torch
import torch.nn.functional as F
from PIL import Image

from data.augment import draw_crops
from data.images import normalise, to_tensor
from utils.errors import UserError

AREA = (0.08, 1.0)  # of a crop, as a part of the image (RDED)
SQUARE = (1.0, 1.0)


def cell_side(image_size, grid):
    """Side in pixels of one crop when grid x grid crops make an image.

    Raises UserError when they do not fill it.
    """
    if image_size % grid:
        fitting = ", ".join(str(g) for g in range(1, image_size + 1) if image_size % g == 0)
        raise UserError(f"--mosaic-grid {grid}: {image_size} px cannot be cut into {grid} equal "
                        f"parts. Choose one of {fitting}, or another --image-size.")
    return image_size // grid


def check_candidates(name, available, candidates, ipc, grid):
    """Raise UserError when a class cannot give the crops of its mosaics, one crop an image.

    name: of the class. available: number of its real images. candidates: how many of them are drawn
    at most. ipc: mosaics of the class.
    """
    needed, drawn = ipc * grid**2, min(available, candidates)
    if drawn >= needed:
        return
    if available >= needed:
        advice = f"Raise --mosaic-candidates to {needed} or more, or lower --ipc-end"
    else:
        enough_for = drawn // grid**2
        advice = f"Lower --ipc-end (this class is enough for {enough_for}), or add images"
    raise UserError(f"class {name}: {drawn} candidates for mosaics (it has {available} images, "
                    f"--mosaic-candidates {candidates}), but {ipc} images of {grid}x{grid} crops "
                    f"need {needed}. {advice}.")


def draw_candidates(available, candidates, generator):
    """Which images of a class are looked at, drawn without replacement: int64, ascending.

    All are where there are fewer than `candidates`.
    """
    return torch.randperm(available, generator=generator)[:candidates].sort().values


def draw_boxes(picture, crops, generator):
    """Boxes of square crops of a PIL image by RandomResizedCrop's law, area 0.08 to 1.

    Returns int64 [crops, 4]: top, left, height, width in pixels.
    """
    return draw_crops(crops, picture.height, picture.width, AREA, SQUARE, generator)


def cut(picture, box, side):
    """One crop of a PIL image, resized (bilinear, antialiased): uint8 [3, side, side].

    It is cropped first, so no pixel outside the box is mixed in.
    """
    top, left, height, width = map(int, box)
    crop = picture.crop((left, top, left + width, top + height))
    return to_tensor(crop.resize((side, side), Image.Resampling.BILINEAR))


def centred(crops, image_size):
    """Crops uint8 [n, 3, s, s] as the ranker sees them: float32 [n, 3, image_size, image_size].

    They are normalised, then padded with zeros on all sides. So the padding is ImageNet's mean
    colour (RDED).
    """
    spare = image_size - crops.shape[-1]
    before = spare // 2
    return F.pad(normalise(crops), [before, spare - before] * 2)


def scores(logits, labels):
    """Cross-entropy of each crop, float64 [n] from logits [n, C]; low ones are recognisable."""
    return F.cross_entropy(logits.double(), labels, reduction="none")


def choose(values, count):
    """The best crop of each image, then the best `count` images (RDED).

    values: scores [images, crops]; equal ones keep their order. Returns (image, crop), each int64
    [count], best first.
    """
    best, crop = values.min(1)
    image = torch.sort(best, stable=True).indices[:count]
    return image, crop[image]


def ranks_of(j, ipc, grid):
    """Ranks of the crops in mosaic j of ipc: j, ipc + j, 2 ipc + j, ... in row-major cells.

    So every mosaic gets its share of good and less good crops (RDED).
    """
    return [cell * ipc + j for cell in range(grid**2)]


def compose(cells, grid):
    """Cells uint8 [grid^2, 3, s, s] in row-major order as one image, uint8 [3, grid*s, grid*s]."""
    _, channels, side, _ = cells.shape
    rows = cells.view(grid, grid, channels, side, side).permute(2, 0, 3, 1, 4)
    return rows.reshape(channels, grid * side, grid * side)
