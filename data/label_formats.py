"""Number formats of soft labels: what is stored of a row of logits, and what a reader gets back.

A format is a pure function of each row: the same bits for any batch, device and number of threads. So labels made on the fly
and passed through a format are the stored ones. A row that is not finite, or does not fit, gives stored numbers that are not.
"""

from dataclasses import dataclass

import torch

from utils.errors import UserError

_FLOATS = {"fp16": torch.float16, "fp32": torch.float32}
FORMATS = ("fp16", "fp32", "int8", "topk")
_STEPS = 254  # between the ends of a row in int8: -127 ... 127


@dataclass(frozen=True)
class Floats:
    """Every logit as a float. name: fp16 or fp32. classes: number of logits in a row."""

    classes: int
    name: str
    top_k = None

    @property
    def columns(self):
        """What is stored of a row: {tensor: (dtype, number of columns, or None for one number)}."""
        return {"logits": (_FLOATS[self.name], self.classes)}

    def encode(self, logits):
        """float [B, classes] -> {tensor: [B, columns] or [B]}, on the same device."""
        return {"logits": logits.to(_FLOATS[self.name])}

    def decode(self, stored):
        """What a reader gets back: float32 [B, classes]."""
        return stored["logits"].float()


@dataclass(frozen=True)
class RowInt8:
    """254 equal steps from a row's least to its largest logit: z ~ offset + scale * q, with an error of half a step at most.

    offset = (max + min) / 2, scale = (max - min) / 254, q = round((z - offset) / scale); halves go to the even number.
    Logits lean to one side (one class far up, the others around 0), so steps that are symmetric around 0 would be coarser.
    """

    classes: int
    name = "int8"
    top_k = None

    @property
    def columns(self):
        return {"scale": (torch.float32, None), "offset": (torch.float32, None), "logits": (torch.int8, self.classes)}

    def encode(self, logits):
        logits = logits.float()
        low, high = logits.aminmax(dim=1)
        offset, width = (high + low) / 2, high - low
        scale = width / torch.full_like(width, _STEPS)  # a plain 254 would be a product with 1/254 on a GPU
        step = torch.where(scale == 0, 1, scale)  # equal logits: all of them are the offset
        q = ((logits - offset[:, None]) / step[:, None]).round().clamp(-127, 127)
        return {"scale": scale, "offset": offset, "logits": q.to(torch.int8)}

    def decode(self, stored):
        return stored["logits"].float() * stored["scale"][:, None] + stored["offset"][:, None]


@dataclass(frozen=True)
class TopK:
    """The top_k largest logits of a row in fp16 with their classes, largest first; the others get their own mean, "rest".

    Of equal logits (in fp16) the lower class comes first. rest is the exact mean of the others' fp16 values, rounded once, so it
    depends on no order of summation; 0 when all classes are kept.
    """

    classes: int
    top_k: int
    name = "topk"

    @property
    def columns(self):
        index = torch.int16 if self.classes <= 2**15 else torch.int32
        return {"rest": (torch.float32, None), "logits": (torch.float16, self.top_k), "classes": (index, self.top_k)}

    def encode(self, logits):
        values, order = logits.half().float().sort(dim=1, descending=True, stable=True)
        others = values[:, self.top_k :].double()  # multiples of 2^-24 below 2^16: a float64 sum of thousands is exact
        count = torch.full((len(others),), max(1, self.classes - self.top_k), dtype=torch.float64, device=others.device)
        return {"rest": (others.sum(1) / count).float(), "logits": values[:, : self.top_k].half(),
                "classes": order[:, : self.top_k].to(self.columns["classes"][0])}

    def decode(self, stored):
        rows = stored["rest"][:, None].repeat(1, self.classes)
        return rows.scatter_(1, stored["classes"].long(), stored["logits"].float())


def label_format(name, classes, top_k=None):
    """The format of this name for rows of `classes` logits. top_k: of topk, None for the others.

    Raises KeyError for an unknown name, UserError for a top_k that is missing, not read or larger than the number of classes.
    """
    if name == "topk" and top_k is None:
        raise UserError("--label-format topk: how many logits of a row are kept? Give --label-top-k, too.")
    if name != "topk" and top_k is not None:
        raise UserError(f"--label-top-k {top_k} is not read with --label-format {name}. Leave it out, or give --label-format topk.")
    if top_k is not None and top_k > classes:
        raise UserError(f"--label-top-k {top_k}: there are {classes} classes. Give at most {classes}.")
    return {"fp16": lambda: Floats(classes, "fp16"), "fp32": lambda: Floats(classes, "fp32"), "int8": lambda: RowInt8(classes),
            "topk": lambda: TopK(classes, top_k)}[name]()


def through_format(logits, number_format):
    """What a reader gets back after `logits` [B, classes] were stored in this format: float32, same shape and device."""
    return number_format.decode(number_format.encode(logits))


def row_bytes(number_format):
    """Bytes of one image's label."""
    return sum(dtype.itemsize * (columns or 1) for dtype, columns in number_format.columns.values())
