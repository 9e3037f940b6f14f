"""How long does converting the published weights take, and how much memory?

    python benchmarks/bench_convert.py --work full-size

The checkpoints are made on the spot, with random numbers in the published sizes and layouts: two
language models as torch.distributed.checkpoint folders of several shards, and the codec. They need
8 GB on the disk (15 GB with ``--stored float32``), and what comes out as much again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter, save

from khala.codec import Codec, CodecConfig, ConvConfig
from khala.convert.expectations import NUM_ROWS, TRUNK
from khala.evals import report
from khala.nn import TrunkConfig

FOLDERS = {"backbone": "backbone", "superres": "superresolution"}
CONVERTING = """
import json, resource, sys, time
from pathlib import Path
from khala.convert.conversion import convert
from khala.convert.published import look
begun = time.perf_counter()
source = look(Path(sys.argv[1]))
looked = time.perf_counter()
convert(source, Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak *= 1 if sys.platform == "darwin" else 1024
seconds = {"look_s": looked - begun, "convert_s": time.perf_counter() - looked}
largest = max(t.dtype.itemsize * t.shape[0] * t.shape[-1]
              for p in source.parts.values() for t in p.tensors if len(t.shape) == 2)
print(json.dumps({**seconds, "peak_bytes": peak, "largest_tensor_bytes": largest}))
"""
PARENT = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
"""A process begins with the peak of the one that started it; this one's is small."""


def main() -> int:
    """Make the checkpoints if they are not there, convert, print, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints; kept")
    parser.add_argument("--stored", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    source = args.work / "published"
    write_published(source, {"bfloat16": torch.bfloat16, "float32": torch.float32}[args.stored])
    shutil.rmtree(args.work / "model", ignore_errors=True)
    result = report.circumstances("convert", {}) | convert(source, args.work / "model")
    result["command"] = f"python benchmarks/bench_convert.py --work {args.work.name}"
    largest = result["largest_tensor_bytes"]
    result["allowed_bytes"] = int(1.5 * largest + 500e6)
    row = [result["read_bytes"] / 1e9, result["written_bytes"] / 1e9, largest / 1e6]
    row += [result["convert_s"], result["peak_bytes"] / 1e6, result["allowed_bytes"] / 1e6]
    titles = ["read, GB", "written, GB", "largest tensor, MB"]
    titles += ["seconds", "peak memory, MB", "allowed, MB"]
    result["tables"] = [report.table("converting full-size weights", titles, [row])]
    report.print_result(Console(width=120), result)
    report.write_result(args.out / "convert.json", result)
    return 0


def write_published(source: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write checkpoints of the published sizes and layout, as far as they are not there."""
    for kind, name in FOLDERS.items():
        if not (source / name / ".metadata").is_file():
            write_language_model(source / name, NUM_ROWS[kind], dtype)
    if not (source / "codec.ckpt").is_file():
        write_codec(source / "codec.ckpt")


def convert(source: Path, out: Path) -> dict[str, Any]:
    """Convert in a process of its own; return what it measured."""
    words = [sys.executable, "-c", PARENT, sys.executable, "-c", CONVERTING]
    done = subprocess.run([*words, str(source), str(out)], check=True, stdout=subprocess.PIPE)
    measured = dict(json.loads(done.stdout))
    for name, folder in (("read_bytes", source), ("written_bytes", out)):
        files = [path for path in folder.rglob("*") if path.is_file()]
        measured[name] = sum(path.stat().st_size for path in files)
    return measured


def write_language_model(folder: Path, num_rows: int, dtype: torch.dtype) -> None:
    """Write random weights as Megatron lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(num_rows)
    state: dict[str, Tensor] = {}
    for name, shape in megatron_shapes(TRUNK, num_rows).items():
        state[name] = torch.empty(shape, dtype=dtype)
        for row in state[name].view(-1, shape[-1]).split(4096):
            row.copy_(0.02 * torch.randn(row.shape, generator=generator))
    writer = FileSystemWriter(folder, single_file_per_rank=False)
    save(state, storage_writer=writer, no_dist=True)


def megatron_shapes(trunk: TrunkConfig, num_rows: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a published checkpoint: 291."""
    width, ffn = trunk.width, trunk.ffn_width
    queries = trunk.num_heads * trunk.head_width
    joined = queries + 2 * trunk.num_kv_heads * trunk.head_width
    layer: dict[str, tuple[int, ...]] = {
        "self_attention.linear_qkv.layer_norm_weight": (width,),
        "self_attention.linear_qkv.weight": (joined, width),
        "self_attention.linear_qkv.bias": (joined,),
        "self_attention.linear_proj.weight": (width, queries),
        "self_attention.linear_proj.bias": (width,),
        "mlp.linear_fc1.layer_norm_weight": (width,),
        **{f"mlp.linear_fc1.weight_{half}": (ffn, width) for half in "wv"},
        **{f"mlp.linear_fc1.bias_{half}": (ffn,) for half in "wv"},
        "mlp.linear_fc2.weight": (width, ffn),
        "mlp.linear_fc2.bias": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.word_embeddings.weight": (num_rows, width),
        "output_layer.weight": (num_rows, width),
        "decoder.final_layernorm.weight": (width,),
    }
    for index in range(trunk.num_layers):
        shapes |= {f"decoder.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def write_codec(path: Path) -> None:
    """Write a codec of the published size as its training did."""
    codec = Codec(CodecConfig(conv=ConvConfig()))
    state = {f"generator.{name}": tensor for name, tensor in codec.state_dict().items()}
    tables = state.pop("generator.quantizer.codebooks")
    for level, table in enumerate(tables):
        one = f"generator.quantizer.vq_layer_{level}._codebook."
        table = table.clone()
        state |= {f"{one}inited": torch.ones(1), f"{one}cluster_size": torch.ones(len(table))}
        state |= {f"{one}embed": table, f"{one}embed_avg": table.clone()}
        state[f"generator.quantizer.embed_{level}"] = table
    torch.save({"state_dict": state}, path)  # noqa: TID251 (as the codec's authors did)


if __name__ == "__main__":
    sys.exit(main())
