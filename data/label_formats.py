"""Number formats of soft labels: what is stored of a row of logits, and what a reader gets back.

A format is a pure function of each row: it gives the same bits for any batch, device and number of
threads. So labels that are made on the fly and passed through a format are the stored ones. A row
that is not finite, or does not fit, gives stored numbers that are not finite.
"""

from dataclasses import dataclass

import torch

from utils.errors import UserError

_FLOATS = {"fp16": torch.float16, "fp32": torch.float32}
_STEPS = 254  # between the ends of a row in int8: -127 ... 127


@dataclass(frozen=True)
class Floats:
    """Every logit as a float. name: fp16 or fp32. classes: number of logits in a row."""

    classes: int
    name: str
    top_k = None

    @property
    def bytes_per_row(self):
        return _FLOATS[self.name].itemsize * self.classes

    def encode(self, logits):
        """float [B, classes] -> {tensor name: [B, columns] or [B]}, on the same device."""
        return {"logits": logits.to(_FLOATS[self.name])}

    def decode(self, stored):
        """What a reader gets back: float32 [B, classes]."""
        return stored["logits"].float()


@dataclass(frozen=True)
class RowInt8:
    """254 equal steps between a row's ends: z ~ offset + scale q, off by half a step at most.

    offset = (max + min) / 2, scale = (max - min) / 254, q = round((z - offset) / scale), halves to
    the even number. Logits lean to one side (one class far up, the others around 0), so steps that
    are symmetric around 0 would be coarser.
    """

    classes: int
    name = "int8"
    top_k = None

    @property
    def bytes_per_row(self):
        return self.classes + 8

    def encode(self, logits):
        logits = logits.float()
        low, high = logits.aminmax(dim=1)
        offset, width = (high + low) / 2, high - low
        # A plain 254 would be a product with 1/254 on a GPU, which rounds otherwise.
        scale = width / torch.full_like(width, _STEPS)
        step = torch.where(scale == 0, 1, scale)  # equal logits: all of them are the offset
        q = ((logits - offset[:, None]) / step[:, None]).round().clamp(-127, 127)
        return {"scale": scale, "offset": offset, "logits": q.to(torch.int8)}

    def decode(self, stored):
        return stored["logits"].float() * stored["scale"][:, None] + stored["offset"][:, None]


@dataclass(frozen=True)
class TopK:
    """The top_k largest logits of a row in fp16 with their classes, largest first, and the rest.

    Of logits that are equal in fp16 the lower class comes first. All other classes get their mean,
    `rest`: the exact mean of their fp16 values, rounded once, so it depends on no order of
    summation; 0 when all classes are kept.
    """

    classes: int
    top_k: int
    name = "topk"

    @property
    def _index(self):
        return torch.int16 if self.classes <= 2**15 else torch.int32

    @property
    def bytes_per_row(self):
        return (2 + self._index.itemsize) * self.top_k + 4

    def encode(self, logits):
        values, order = logits.half().float().sort(dim=1, descending=True, stable=True)
        # Multiples of 2^-24 below 2^16: a float64 sum of thousands of them is exact.
        others = values[:, self.top_k :].double()
        count = torch.full((len(others),), max(1, self.classes - self.top_k),
                           dtype=torch.float64, device=others.device)
        return {"rest": (others.sum(1) / count).float(), "logits": values[:, : self.top_k].half(),
                "classes": order[:, : self.top_k].to(self._index)}

    def decode(self, stored):
        rows = stored["rest"][:, None].repeat(1, self.classes)
        return rows.scatter_(1, stored["classes"].long(), stored["logits"].float())


def label_format(name, classes, top_k=None):
    """The format of a name for rows of `classes` logits. top_k: of topk, None for the others.

    Raises UserError for a top_k that is missing, not read or larger than the number of classes.
    """
    if name == "topk" and top_k is None:
        raise UserError("--label-format topk: how many logits of a row are kept? Give "
                        "--label-top-k, too.")
    if name != "topk" and top_k is not None:
        raise UserError(f"--label-top-k {top_k} is not read with --label-format {name}. Leave it "
                        "out, or give --label-format topk.")
    if name == "topk" and top_k > classes:
        raise UserError(f"--label-top-k {top_k}: there are {classes} classes. Give at most "
                        f"{classes}.")
    return {"fp16": Floats(classes, "fp16"), "fp32": Floats(classes, "fp32"),
            "int8": RowInt8(classes), "topk": TopK(classes, top_k)}[name]


def through_format(logits, number_format):
    """What a reader gets back of logits [B, C] stored in this format: float32, same device."""
    return number_format.decode(number_format.encode(logits))
