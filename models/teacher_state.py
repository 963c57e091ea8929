"""The state of a teacher's training: how far it is, and what it goes on from.

What is read is checked, so that a damaged or forged state ends here and not in a step.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Place:
    """How far a training is.

    epoch: number of the epoch. done: its steps that are done. loss: float32 tensor, the sum of
    their losses. random: {"cpu", "cuda"}: states of the generators that dropout draws from next;
    empty before the first step of an epoch.
    """

    epoch: int
    done: int
    loss: torch.Tensor
    random: dict


def tensors(net, optimizer):
    """{"network": state dict of a module, "momentum": of each of its parameters, or None}."""
    momentum = [optimizer.state[weight].get("momentum_buffer") for weight in net.parameters()]
    return {"network": net.state_dict(), "momentum": momentum}


def take_over(state, net, optimizer):
    """Put what `tensors` gave into a module and its optimizer.

    Raises AttributeError, RuntimeError, TypeError or ValueError where it does not fit.
    """
    saved, own = state["network"], net.state_dict()
    if set(saved) != set(own):
        raise ValueError("it holds another network's weights")
    pairs = list(zip(state["momentum"], net.parameters(), strict=True))
    for name in own:
        check_like(name, saved[name], own[name])
    for momentum, parameter in pairs:
        if momentum is not None:
            check_like("momentum", momentum, parameter)

    net.load_state_dict(saved)
    for momentum, parameter in pairs:
        if momentum is not None:
            # Fused steps take for granted that it lies in memory as its parameter does.
            own = torch.empty_like(parameter, requires_grad=False)
            optimizer.state[parameter]["momentum_buffer"] = own.copy_(momentum)


def read_place(state, epochs, steps, device):
    """(Place, seconds spent) of a state. epochs, steps of each: of the whole training.

    Raises KeyError, RuntimeError, TypeError or ValueError for what no training can have left.
    """
    epoch, done, seconds = state["epoch"], state["done"], state["seconds"]
    check_number("epoch", epoch, int, epochs)
    check_number("done", done, int, steps)
    check_number("seconds", seconds, float, 1e12)
    check_like("loss", state["loss"], torch.zeros(()))
    random = state["random"] if done else {}
    if done:
        check_random_state(random, device)
    return Place(epoch, done, state["loss"].to(device), random), seconds


# Generators that dropout draws from

def _generators(device):
    cuda = {"cuda": torch.cuda.default_generators[device.index]} if device.type == "cuda" else {}
    return {"cpu": torch.default_generator, **cuda}


def random_state(device):
    """The states of PyTorch's global generators: {"cpu": uint8 tensor, and "cuda" on a GPU}."""
    return {name: generator.get_state() for name, generator in _generators(device).items()}


def set_random_state(states, device):
    """Put the global generators into the states of random_state; those without one stay as is."""
    for name, generator in _generators(device).items():
        if name in states:
            generator.set_state(states[name])


def check_random_state(states, device):
    """Raise an error for what random_state cannot have given, here or on another device."""
    torch.Generator().set_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.Generator(device).set_state(states["cuda"])


# What a state may hold

def check_number(name, value, kind, most):
    """Raise ValueError unless a value is a number of this kind from 0 to `most`."""
    if type(value) is not kind or not 0 <= value <= most or not math.isfinite(value):
        raise ValueError(f"{name} {value!r:.40}, expected a number from 0 to {most:g}")


def check_like(name, value, expected):
    """Raise an error unless a value is a finite tensor of the type and shape that is expected."""
    fits = (isinstance(value, torch.Tensor) and value.dtype == expected.dtype
            and value.shape == expected.shape and torch.isfinite(value).all())
    if not fits:
        raise ValueError(f"{name} is not what the network has, or not finite")
