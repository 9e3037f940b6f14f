"""Several processes as one run: who does which parts of a step, and how gradients are added up.

``torchrun --nproc-per-node N -m khala train ...`` starts the processes; their number is told by the
environment. The parts of a step (``train.num_parts``) are dealt out in turn, so a run has the same
batches, in the same order, with any number of processes that divides them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from khala.errors import ConfigError

__all__ = ["ALONE", "Ranks", "gather_layers", "is_first_process", "local", "shard_layers"]
__all__ += ["start_ranks", "whole"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of a run."""

    rank: int = 0
    """Number of this process."""

    num: int = 1
    """Processes in all."""

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def own_parts(self, num_parts: int) -> Sequence[int]:
        """Return the parts of a step that this process does.

        Raises:
            ConfigError: they cannot be dealt out evenly.
        """
        if num_parts % self.num:
            raise ConfigError(
                f"train.num_parts is {num_parts} and there are {self.num} processes: it must be a "
                f"multiple, such as --set train.num_parts={self.num * -(-num_parts // self.num)}"
            )
        return range(self.rank, num_parts, self.num)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes; those of sharded layers are added up already.

        One that some process has and another has not is nothing there; one that nobody has stays
        away, as in one process.
        """
        if self.num == 1:
            return
        plain = [one for one in parameters if not isinstance(one, DTensor)]
        used = torch.tensor([one.grad is not None for one in plain], dtype=torch.int32)
        dist.all_reduce(used, op=dist.ReduceOp.MAX)
        wanted = [one for one, is_used in zip(plain, used.tolist(), strict=True) if is_used]
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [one.grad for one in wanted if one.grad is not None]
        for kind in dict.fromkeys(one.dtype for one in gradients):
            group = [one for one in gradients if one.dtype == kind]
            flat = torch.cat([one.flatten() for one in group])
            dist.all_reduce(flat)
            parts = torch.split(flat, [one.numel() for one in group])
            for one, part in zip(group, parts, strict=True):
                one.copy_(part.view_as(one))

    def add(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.num > 1:
            dist.all_reduce(value)
        return value

    def means(self, seen: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        """Return the mean of every loss over the parts of all processes that have it."""
        if self.num == 1:
            return {name: torch.stack(list(values)).mean() for name, values in seen.items()}
        told: list[dict[str, list[float]]] = [{} for _ in range(self.num)]
        own = {name: [float(value) for value in values] for name, values in seen.items()}
        dist.all_gather_object(told, own)
        names = sorted({name for one in told for name in one})
        return {
            name: torch.tensor([value for one in told for value in one.get(name, ())]).mean()
            for name in names
        }

    def any(self, flag: bool) -> bool:
        """Say whether any process says yes."""
        if self.num == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.num > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the others."""
        if self.num > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Ranks()
"""A run of one process."""


def start_ranks(device: str) -> tuple[Ranks, str]:
    """Join the processes that torchrun started; return them and this process's device.

    Raises:
        ConfigError: the environment is half of torchrun's.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, device
    missing = [
        name
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if name not in os.environ
    ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is set and {', '.join(missing)} is not: start by torchrun")
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo" + (",cuda:nccl" if device.startswith("cuda") else ""))
    return Ranks(dist.get_rank(), dist.get_world_size()), device


def is_first_process() -> bool:
    """Say whether this process speaks for all, also before it joined them and after it left."""
    return int(os.environ.get("RANK", "0")) == 0


def shard_layers(model: nn.Module, ranks: Ranks, *, bfloat16: bool) -> None:
    """Give each process a part of every transformer layer (FSDP2); tables stay whole everywhere.

    Args:
        model: any module that holds layers in lists called "layers".
        ranks: the processes.
        bfloat16: gather the layers in half the bytes; gradients are added up in float32.
    """
    if ranks.num == 1:
        return
    kind = next(model.parameters()).device.type
    mesh = init_device_mesh(kind, (ranks.num,))
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if bfloat16
        else MixedPrecisionPolicy()
    )
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "layers" and isinstance(module, nn.ModuleList):
            for layer in module:
                sharded = fully_shard(layer, mesh=mesh, mp_policy=policy)
                # losses are divided by the parts of all processes: their sum is the mean
                sharded.set_gradient_divide_factor(1.0)
                sharded.set_force_sum_reduction_for_comms(True)


def gather_layers(model: nn.Module) -> None:
    """Make every sharded parameter whole again, for good; every process must ask.

    For the end of a run: the model can be saved, and is not to be trained on.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                module._parameters[name] = nn.Parameter(whole(parameter.detach()))


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor; all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
