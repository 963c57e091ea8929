"""Number formats that networks run in, and compiling them: switches that change last bits."""

import contextlib
from dataclasses import dataclass

from utils.options import option

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Arithmetic:
    """How networks run; its fields are options of every stage."""

    precision: str = option(
        "fp32", "bf16: convolutions and matrix products in bfloat16 (torch.autocast); statistics, "
        "losses and weights stay in float32", choices=PRECISIONS)
    compile: bool = option(
        False, "torch.compile the networks: a minute or more at the start, then faster steps "
        "(needs a C++ compiler on a CPU, Triton on a GPU)")

    def of(self, function):
        """`function`, run this way.

        Its first argument is a tensor on the device. Its results may be of a lower type than that.
        """
        run = compiled(function) if self.compile else function

        def in_precision(x, *rest):
            with autocast(x.device, self.precision):
                return run(x, *rest)

        return in_precision


def autocast(device, precision):
    """Context in which networks run: torch.autocast to bfloat16, or nothing for fp32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def full_precision(device):
    """Context inside `autocast` whose operations take tensors as they are, for statistics."""
    import torch

    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def compiled(function):
    """`function` compiled anew for every shape, so that results do not depend on earlier shapes.

    PyTorch would run the plain function, silently, after eight shapes: here a ninth is compiled.
    """
    import torch

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(function, dynamic=False)
