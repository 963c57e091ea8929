"""Measures of sets of digits: diversity, distance to real images, the two forms of the mean."""

import torch

from data.images import save_grid
from data.names import class_words
from data.opening import open_distilled, open_real
from models import diffusion
from models.teachers import load_teachers
from recover.dap.backbones import Backbone, choose_size
from recover.dap.generation import resized
from recover.dap.guidance import gather_reals, guidance, mean_distance
from recover.dap.options import Model
from report import similarity
from utils.precision import Arithmetic
from utils.progress import progress_bar
from utils.seeding import stream

CPU = torch.device("cpu")
TIMES = (999, 754, 510)  # of the guided range, at which the two forms of the mean are compared


def measure(folders, sizes):
    """Yield a line per set: {"images", "seed", "cosine", "distance", "form_cosine"}.

    folders: {(row, seed): run folder}. cosine: mean over classes of the cosine similarity of pairs,
    in the penultimate features of the ResNet-18 teacher. distance: mean D_K, with the linear kernel
    at t = 0, to the held-out real images of the class. form_cosine: see `compare_forms`, on the
    sets of DAP.
    """
    test = open_real("digits", "test")
    network = load_teachers(["resnet18"], sizes.teachers, test.classes, CPU)["resnet18"]
    model = diffusion.load("pixel-dit", sizes.diffusion)
    backbone = Backbone(model, test.classes, Model(backbone="pixel-dit"), choose_size(model, None),
                        Arithmetic(), CPU)
    held_out = [latents(test, indices, backbone) for indices in test.by_class]

    with progress_bar(len(folders), "measure", " sets") as bar:
        for (row, seed), folder in folders.items():
            images = open_distilled(folder / "images")
            cosine = similarity.mean(similarity.cosines(images, network, CPU))
            bar.update(1)
            yield {"images": row, "seed": seed,
                   "cosine": round(cosine, 4),
                   "distance": round(distance_to(held_out, images, backbone), 4),
                   "form_cosine": (round(compare_forms(held_out, images, backbone), 6)
                                   if row.startswith("gamma") else None)}


def latents(images, indices, backbone):
    """x_0 of images of a set, which are 32 px wide, at the size of the model.

    Real and distilled images take the same way, so that resizing does not tell them apart.
    """
    return backbone.encode(resized(images.pixels(indices), backbone.size))


@torch.no_grad()
def distance_to(held_out, images, backbone):
    """Mean over images of (1/M) sum_j D_K(phi(x), phi(x_j)), x_j the M real images of the class."""
    total = 0.0
    for c, indices in enumerate(images.by_class):
        condition = backbone.condition(c)
        reals = gather_reals(backbone.features(held_out[c], 0, condition))
        z = backbone.features(latents(images, indices, backbone), 0, condition)
        total += float(mean_distance(z, reals)[0].sum())
    return total / len(images)


def compare_forms(held_out, images, backbone):
    """The least cosine of g_t with the exact mean and with the class mean, over all images."""
    least = 1.0
    for c, indices in enumerate(images.by_class):
        condition, x0 = backbone.condition(c), latents(images, indices, backbone)
        for t in TIMES:
            noise = torch.randn(x0.shape, generator=stream("forms", c, t))
            x = backbone.diffuse(x0, noise, t)
            real_noise = torch.randn(held_out[c].shape, generator=stream("forms, reals", c, t))
            with torch.no_grad():
                z = backbone.features(backbone.diffuse(held_out[c], real_noise, t), t, condition)
            g, h = (guidance(lambda y, t=t, c=condition: backbone.features(y, t, c), x,
                             gather_reals(reals))[0].flatten(1)
                    for reals in (z, z.mean(0, keepdim=True)))
            least = min(least, float(torch.cosine_similarity(g, h).min()))
    return least


def draw(folders, path):
    """Draw the first two images of every class, a row each, of the sets of the first seed."""
    rows, names = [], []
    first = next(iter(folders))[1]
    for (row, seed), folder in folders.items():
        if seed != first:
            continue
        images = open_distilled(folder / "images")
        for number in range(2):
            indices = [int(own[number]) for own in images.by_class]
            rows.append(images.pixels(indices))
            names.append(row if number == 0 else "")
    save_grid(rows, path, names, [class_words(name) for name in images.classes])
