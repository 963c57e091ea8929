"""Random JPEG files, and the views of an epoch made from them one by one, as is usual."""

import torch
from PIL import Image
from torch.utils.data import Dataset

from data.image_set import Files, ImageSet
from data.images import MEAN, STD, to_tensor
from utils.seeding import stream


def class_names(count):
    return [f"class{label:03d}" for label in range(count)]


def random_images(folder, count, image_size, classes=1, file_size=None):
    """An ImageSet of JPEGs of smooth random colours, with about as many bytes as photographs.

    file_size: (width, height) of real photographs, which are resized and cropped to image_size;
    None for distilled images, which have that size.
    """
    generator, names, paths = stream("benchmark", "images"), class_names(classes), []
    for number in range(count):
        coarse = torch.randint(0, 256, (12, 12, 3), generator=generator, dtype=torch.uint8)
        size = file_size or (image_size, image_size)
        image = Image.fromarray(coarse.numpy()).resize(size, Image.Resampling.BICUBIC)
        paths.append(folder / names[number % classes] / f"{number:05d}.jpg")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        image.save(paths[-1])
    source = Files(folder, paths, None if file_size is None else "validation")
    return ImageSet("imagefolder", names, torch.arange(count) % classes, image_size, source,
                    torch.get_num_threads())


class PlainViews(Dataset):
    """The views of an EpochPlan before mixing: float32 [3, S, S], by position in the epoch.

    Each is decoded, cropped, flipped and normalised by itself with Pillow.
    """

    def __init__(self, images, plan):
        self.paths, self.plan, self.size = images.paths, plan, images.image_size
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self):
        return len(self.plan.order)

    def __getitem__(self, position):
        plan = self.plan
        top, left, height, width = plan.crops[position].tolist()
        with Image.open(self.paths[plan.order[position]]) as file:
            view = file.convert("RGB").crop((left, top, left + width, top + height))
        view = view.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if plan.flips[position]:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return (to_tensor(view).float() / 255 - self.mean) / self.std
