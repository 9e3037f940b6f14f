"""What a song costs at least: bytes read and FLOPs done by models of the published size.

    python benchmarks/roofline.py

Nothing is measured: a computer is two numbers, how fast it reads memory and how fast it multiplies
bfloat16, and no program is faster than them. FLOPs are counted by running the models on torch's
meta device.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from khala.backbone import Backbone, BackboneConfig
from khala.codec import Codec, CodecConfig, ConvConfig
from khala.convert.expectations import NUM_ROWS, TRUNK
from khala.evals import report
from khala.superres import Packing, SuperResConfig, SuperResolution
from khala.tokens import published_layout

ITEM = 2
"""Bytes of a bfloat16 number."""

FRAME_RATE_HZ = 44_100 / 2_048
NUM_PASSES = 62


@dataclass(frozen=True, kw_only=True)
class Computer:
    """Two ceilings."""

    name: str
    bytes_per_s: float
    flops_per_s: float


COMPUTERS = (
    Computer(name="H200: 4.3 TB/s, 790 TFLOP/s", bytes_per_s=4.3e12, flops_per_s=790e12),
    Computer(name="RTX 4090: 1.0 TB/s, 165 TFLOP/s", bytes_per_s=1.0e12, flops_per_s=165e12),
    Computer(name="400 GB/s, 25 TFLOP/s", bytes_per_s=400e9, flops_per_s=25e12),
    Computer(name="CPU: 60 GB/s, 2 TFLOP/s", bytes_per_s=60e9, flops_per_s=2e12),
    Computer(name="CPU: 20 GB/s, .2 TFLOP/s", bytes_per_s=20e9, flops_per_s=0.2e12),
)


def main() -> int:
    """Count, divide, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=180.0, help="of song")
    parser.add_argument("--prompt", type=int, default=300, help="tokens of prompt and lyrics")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    frames = round(args.seconds * FRAME_RATE_HZ)
    read = backbone_bytes(args.prompt, frames)
    passes = superres_flops(args.prompt, frames)
    sound = codec_flops(frames)
    rows = []
    for one in COMPUTERS:
        seconds = [read / one.bytes_per_s, passes / one.flops_per_s, sound / one.flops_per_s]
        rows.append([one.name, *seconds, sum(seconds), args.seconds / sum(seconds)])
    columns = ["computer", "sketch, s", "detail, s", "sound, s", "whole, s", "times real time"]
    title = f"computed floors of a song of {args.seconds:g} s, bfloat16, one at a time"
    result = report.circumstances("roofline", {}) | {
        "command": f"python benchmarks/roofline.py --seconds {args.seconds:g} "
        f"--prompt {args.prompt}",
        "backbone_bytes": read,
        "superres_flops": passes,
        "codec_flops": sound,
        "tables": [report.table(title, columns, rows)],
    }
    report.print_result(Console(width=140), result)
    report.write_result(args.out / "roofline.json", result)
    return 0


def backbone_bytes(num_prompt: int, frames: int) -> float:
    """Bytes that writing levels 0 and 1 reads: for each token the trunk, two rows' window of the
    head, and the keys and values so far. Reading the prompt is one pass, and not counted.
    """
    layout = published_layout()
    with torch.device("meta"):
        model = Backbone(BackboneConfig(trunk=TRUNK, layout=layout, max_positions=16_384))
    tables = model.embed.weight.numel() + model.lm_head.weight.numel()
    trunk = sum(one.numel() for one in model.parameters()) - tables
    window = (layout.codebook_size + 1) * TRUNK.width
    position = 2 * TRUNK.num_layers * TRUNK.num_kv_heads * TRUNK.head_width
    tokens = 2 * frames
    past = tokens * num_prompt + tokens * (tokens - 1) / 2
    return ITEM * (tokens * (trunk + window) + past * position)


@torch.no_grad()
def superres_flops(num_prompt: int, frames: int) -> float:
    """FLOPs of the 62 passes over prompt and frames."""
    config = SuperResConfig(
        trunk=TRUNK,
        layout=published_layout(),
        max_positions=num_prompt + frames,
        num_rows=NUM_ROWS["superres"],
    )
    with torch.device("meta"):
        model = SuperResolution(config)
        rows = torch.zeros(1, frames, TRUNK.width)
        prompt = torch.zeros(1, num_prompt, dtype=torch.int64)
    packing = Packing.full(1, num_prompt, frames, torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        hidden = model.level_hidden(prompt, rows, [2], packing=packing)
        model.level_logits(packing.frames_of(hidden), 2)
    return float(NUM_PASSES * counter.get_total_flops())


@torch.no_grad()
def codec_flops(frames: int) -> float:
    """FLOPs of decoding, counted on 128 frames and scaled."""
    with torch.device("meta"):
        codec = Codec(CodecConfig(conv=ConvConfig()))
        latents = torch.zeros(1, 128, codec.config.quantizer.latent_width)
    with FlopCounterMode(display=False) as counter:
        codec.synthesise(latents)
    return counter.get_total_flops() * frames / 128


if __name__ == "__main__":
    sys.exit(main())
