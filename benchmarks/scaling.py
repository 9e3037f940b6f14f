"""Memory, time and cost of training the full models on 1 to 512 GPUs, by arithmetic.

    python benchmarks/scaling.py            # the tables of docs/scaling.md
    python benchmarks/scaling.py --check    # and what can be measured without a GPU beside them

What is assumed of the machines stands in `Machine`; change it to yours.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.autograd.graph import saved_tensors_hooks

from khala.evals import report
from khala.nn import TrunkConfig, attention
from khala.nn.cross_entropy import MAX_SCORES
from khala.nn.trunk import Trunk
from khala.recipes import backbone_full, superres_full
from khala.train.flops import trunk_flops
from khala.train.recompute import recompute_layers
from khala.train.tasks.backbone import BackboneRun
from khala.train.tasks.superres import SuperResRun

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
GB = 1e9
STATE_BYTES = 4 + 4 + 8 + 4
"""Of a parameter, in float32: itself, its gradient, two moments of AdamW, its average."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is assumed of every GPU and of what joins them. None of it was measured by us."""

    peak_flops: float = 989e12
    """Dense bfloat16 of an H100 or H200."""

    efficiency: float = 0.38
    """Part of the peak that a step reaches: others publish .33 to .46 on such machines."""

    inside: float = 350e9
    """Bytes a second and GPU among the 8 of a server."""

    outside: float = 40e9
    """Bytes a second and GPU between servers."""

    per_server: int = 8
    """GPUs."""

    usd_per_hour: float = 2.5
    """Of one GPU."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One of the two language models, and a stream of the greatest length."""

    name: str
    trunk: TrunkConfig
    num_rows: int
    positions: int
    head_rows: int
    causal: bool
    num_steps: int
    num_parts: int

    @property
    def sharded(self) -> int:
        """Parameters of the layers, which FSDP2 deals out."""
        one = self.trunk
        queries, keys = one.num_heads * one.head_width, one.num_kv_heads * one.head_width
        matrices = one.width * (2 * queries + 2 * keys + 3 * one.ffn_width)
        biases = queries + 2 * keys + one.width + 2 * one.ffn_width + one.width
        return one.num_layers * (matrices + biases + 2 * one.width)

    @property
    def whole(self) -> int:
        """Parameters that every process has whole: both tables and the last norm."""
        return 2 * self.num_rows * self.trunk.width + self.trunk.width

    @property
    def flops(self) -> float:
        """Arithmetic of one part, forward and backward, without what is recomputed."""
        return trunk_flops(
            self.trunk,
            lengths=[self.positions],
            head_rows=self.head_rows,
            head_positions=self.positions,
            causal=self.causal,
        )

    def activations(self, *, recompute: bool) -> float:
        """Return the bytes kept of one part for going back."""
        if recompute:
            layers = self.trunk.num_layers * 4 * self.trunk.width + layer_bytes(self.trunk)
        else:
            layers = self.trunk.num_layers * layer_bytes(self.trunk)
        # scores in float32, their gradient, and hidden rows before and after the last norm
        scores = 8 * min(self.head_rows * self.positions, MAX_SCORES)
        return self.positions * (layers + 12 * self.trunk.width) + scores

    def memory(self, gpus: int, *, recompute: bool) -> float:
        """Return the bytes that one GPU holds at its fullest."""
        gathered = 2 * self.sharded / self.trunk.num_layers * 2 if gpus > 1 else 0.0
        states = STATE_BYTES * (self.whole + self.sharded / gpus) + gathered
        return states + self.activations(recompute=recompute)


def layer_bytes(config: TrunkConfig, *, fused_norms: bool = True) -> int:
    """Return the bytes that one layer keeps of one position: bfloat16 beside a float32 stream.

    Two norms keep what they read (4 D each) and give (2 D each, read by the products after them);
    attention keeps queries, keys, values and its output, before and after heads are put together;
    SwiGLU keeps both halves, the activated one and their product. Where a norm is several kernels,
    as on a CPU, it keeps what it scales too (4 D each).
    """
    queries = config.num_heads * config.head_width
    keys = config.num_kv_heads * config.head_width
    attended = 2 * (queries + 2 * keys + queries) + 2 * queries + 4 * config.num_heads
    normed = 2 * (4 + 2 + (0 if fused_norms else 4)) * config.width
    return normed + attended + 2 * 4 * config.ffn_width


def backbone() -> Model:
    """Return the full backbone."""
    run = backbone_full()
    rows = 2 * run.model.layout.codebook_size + 1
    return model_of(run, "backbone", run.task.tokens_per_batch, head_rows=rows, causal=True)


def superres() -> Model:
    """Return the full super-resolution model."""
    run = superres_full()
    rows = run.model.layout.codebook_size
    return model_of(run, "superres", run.task.positions_per_batch, head_rows=rows, causal=False)


def model_of(
    run: BackboneRun | SuperResRun, name: str, positions: int, *, head_rows: int, causal: bool
) -> Model:
    """Return what must be known of a run."""
    assert run.model.num_rows is not None
    return Model(
        name=name,
        trunk=run.model.trunk,
        num_rows=run.model.num_rows,
        positions=positions,
        head_rows=head_rows,
        causal=causal,
        num_steps=run.train.num_steps,
        num_parts=run.train.num_parts,
    )


def step_s(model: Model, gpus: int, machine: Machine, *, recompute: bool) -> tuple[float, float]:
    """Return the seconds of a step, and the part of them that is spent waiting for others."""
    parts = max(1, model.num_parts // gpus)
    # going forward once more is a third of the arithmetic
    compute_s = model.flops * (4 / 3 if recompute else 1) / machine.peak_flops / machine.efficiency
    speed = machine.inside if gpus <= machine.per_server else machine.outside
    if gpus == 1:
        return parts * compute_s, 0.0
    share = (gpus - 1) / gpus
    # layers: gathered twice in bfloat16, their gradients added up in float32, for every part
    part_s = max(compute_s, share * model.sharded * (2 + 2 + 4) / speed)
    # tables: their gradients added up once a step, when nothing is left to compute
    end_s = 2 * share * 4 * model.whole / speed
    total_s = parts * part_s + end_s
    return total_s, 1 - parts * compute_s / total_s


def table_of(model: Model, machine: Machine) -> dict[str, Any]:
    """Return what every number of GPUs needs."""
    rows: list[list[report.Cell]] = []
    for gpus in GPUS:
        kept = model.memory(gpus, recompute=False) / GB
        again = model.memory(gpus, recompute=True) / GB
        parts = max(1, model.num_parts // gpus)
        seconds, waiting = step_s(model, gpus, machine, recompute=False)
        grown = max(1, gpus // model.num_parts)
        hours = seconds * model.num_steps / grown / 3600
        rate = parts * gpus * model.positions / seconds
        cost = hours * gpus * machine.usd_per_hour
        row: list[report.Cell] = [str(gpus), kept, again, parts, rate / 1e3, waiting, hours / 24]
        rows.append([*row, round(cost)])
    columns = [
        "GPUs", "GB each", "GB, recomputed", "parts each", "thousand positions a second",
        "waiting", "days", "USD",
    ]  # fmt: skip
    return report.table(f"The full {model.name}, by arithmetic", columns, rows)


@contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """Count what autograd keeps within a ``with`` block, each storage once, parameters apart."""
    seen: dict[int, int] = {}
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        kept[:] = [sum(seen.values())]
        held.append(tensor)  # so that no address is used twice
        return tensor

    held: list[torch.Tensor] = []
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def check(model: Model) -> dict[str, Any]:
    """Measure what layers of the full width keep, in bfloat16, with the kernel a GPU would use."""
    rows: list[list[report.Cell]] = []
    blocked, attention.suits = attention.suits, lambda _: False
    try:
        for recompute in (False, True):
            each = {}
            for num_layers, positions in ((1, 512), (2, 512), (2, 1024)):
                each[num_layers, positions] = measured(model, num_layers, positions, recompute)
            layer = (each[2, 512] - each[1, 512]) / 512
            rows.append(
                [
                    "recomputed" if recompute else "kept",
                    layer,
                    4 * model.trunk.width
                    if recompute
                    else layer_bytes(model.trunk, fused_norms=False),
                    each[2, 1024] / each[2, 512],
                ]
            )
    finally:
        attention.suits = blocked
    columns = ["layers", "bytes measured", "bytes by arithmetic", "twice the positions"]
    return report.table("Of one position in one layer of the full width", columns, rows)


def measured(model: Model, num_layers: int, positions: int, recompute: bool) -> int:
    """Return the bytes that some layers keep of a stream."""
    wide = {name: getattr(model.trunk, name) for name in TrunkConfig.__slots__}
    trunk = Trunk(TrunkConfig(**(wide | {"num_layers": num_layers})), max_positions=positions)
    if recompute:
        recompute_layers(trunk)
    stream = torch.randn(1, positions, model.trunk.width, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), kept_bytes() as kept:
        # the casts of weights are kept too, whatever the number of positions
        trunk.transform(stream, causal=model.causal)
    cast = 0 if recompute else 2 * sum(p.numel() for p in trunk.layers.parameters() if p.ndim > 1)
    return kept[0] - cast


def main() -> int:
    """Print the tables, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="measure what a CPU can")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    machine = Machine()
    tables = [table_of(model, machine) for model in (backbone(), superres())]
    if args.check:
        tables.append(check(backbone()))
    command = f"python benchmarks/scaling.py{' --check' if args.check else ''}"
    result = report.circumstances("scaling", {}) | {"command": command, "tables": tables}
    report.print_result(Console(width=140), result)
    report.write_result(args.out / "scaling.json", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
