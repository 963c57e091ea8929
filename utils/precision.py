"""Number formats that nets run in, and compiling them: opt-in switches, since both change the last bits of results."""

import contextlib
from dataclasses import dataclass

import torch

PRECISIONS = ("fp32", "bf16")


def add_arguments(group):
    """Add --precision and --compile to an option group."""
    group.add_argument("--precision", choices=PRECISIONS, default="fp32",
                       help="bf16: convolutions and matrix products in bfloat16 (torch.autocast); statistics, losses and weights "
                            "stay in float32")
    group.add_argument("--compile", action="store_true",
                       help="torch.compile the nets: a minute or more at the start, then faster steps (needs a C++ compiler on a "
                            "CPU, Triton on a GPU)")


def autocast(device, precision):
    """Context in which nets run: torch.autocast to bfloat16, or nothing for fp32. device: torch.device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def full_precision(device):
    """Context inside `autocast` whose operations take tensors as they are: statistics are not for bfloat16."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def compiled(function):
    """`function` compiled for every shape of its own, so that what is run does not depend on the shapes seen before.

    PyTorch would run the plain function, silently, after eight shapes: here a ninth is compiled, too.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(function, dynamic=False)


@dataclass(frozen=True)
class Arithmetic:
    """How nets run: precision, a name in PRECISIONS, and whether they are compiled."""

    precision: str = "fp32"
    compile: bool = False

    def of(self, function):
        """`function` run this way. Its first argument is a tensor on the device, its results may be of a lower type than that."""
        run = compiled(function) if self.compile else function

        def in_precision(x, *rest):
            with autocast(x.device, self.precision):
                return run(x, *rest)

        return in_precision
