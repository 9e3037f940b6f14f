"""How exact is the float32 path at the far end of a stream?

    python benchmarks/bench_positions.py

A small trunk with the published width of a head, and weights as large as those of the golden sets,
runs whole streams of the published lengths in float32. It is compared with itself in float64, its
rotary angles computed in several ways: in float32 as the published program does, in float32 with
another order of the same steps, and exactly. One CPU core takes a minute or two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from khala.evals import report
from khala.nn import Trunk, TrunkConfig

CONFIG = TrunkConfig(
    width=128,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_width=64,
    ffn_width=176,
    double_fc1_bias=True,
)
STREAMS = {"backbone": (16_384, True), "super-resolution": (8_192, False)}
"""Longest streams of the published models, and whether attention is causal."""

SPREADS = (("norm", 0.2), ("q_proj.weight", 0.3), ("k_proj.weight", 0.3), ("weight", 0.15))
"""Largest numbers of a tensor by what its name holds; of all others 0.1."""


def main() -> int:
    """Run, compare, print, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--positions", type=int, help="shorter streams, for a quick look")
    args = parser.parse_args()
    rows: list[list[report.Cell]] = []
    for name, (longest, causal) in STREAMS.items():
        rows += compared(name, min(longest, args.positions or longest), causal)
    columns = [
        "stream",
        "positions",
        "float64 with angles",
        "largest, millionths",
        "mean, millionths",
    ]
    title = "Final hidden states, float32 away from float64"
    result = report.circumstances("positions", {}) | {
        "command": "python benchmarks/bench_positions.py",
        "tables": [report.table(title, columns, rows)],
    }
    report.print_result(Console(width=120), result)
    report.write_result(args.out / "positions.json", result)
    return 0


@torch.inference_mode()
def compared(name: str, num: int, causal: bool) -> list[list[report.Cell]]:
    """Return one row for each way to compute the angles."""
    trunk = Trunk(CONFIG, max_positions=num)
    generator = torch.Generator().manual_seed(0)
    for key, tensor in trunk.state_dict().items():
        spread = next((value for word, value in SPREADS if word in key), 0.1)
        tensor.uniform_(-spread, spread, generator=generator)
        tensor += float("norm" in key)
    stream_1SD = torch.rand(1, num, CONFIG.width, generator=generator) - 0.5
    float32_SD = trunk.transform(stream_1SD, causal=causal)[0].double()
    trunk = trunk.double()
    rows: list[list[report.Cell]] = []
    for how, angles_SK in angles(num).items():
        cos, sin = angles_SK.cos(), angles_SK.sin()
        trunk.cos_SK, trunk.sin_SK = torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1)
        error_SD = (trunk.transform(stream_1SD.double(), causal=causal)[0] - float32_SD).abs()
        rows.append([name, num, how, 1e6 * float(error_SD.max()), 1e6 * float(error_SD.mean())])
    return rows


def angles(num: int) -> dict[str, Tensor]:
    """Return the angles of every position and pair of channels, float64, by how they came about."""
    width, base = CONFIG.head_width, CONFIG.rope_base
    places = torch.arange(num, dtype=torch.float32)
    exponents = torch.arange(0, width, 2, dtype=torch.float32) / width
    exact = torch.outer(places.double(), base ** -exponents.double())
    return {
        "float32, 1 / base^x (published)": torch.outer(places, 1.0 / base**exponents).double(),
        "float32, base^-x": torch.outer(places, base**-exponents).double(),
        "exact": exact,
    }


if __name__ == "__main__":
    raise SystemExit(main())
