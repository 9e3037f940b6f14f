"""Language models whose tensors have our names already: the converted copy's safetensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from khala.backbone import Backbone, BackboneConfig
from khala.convert.megatron import check_names, shape_of
from khala.convert.sizes import Sizes
from khala.convert.stored import PlainTensor, StoredTensor
from khala.superres import SuperResConfig, SuperResolution

__all__ = ["plain_sizes", "plain_tensors"]


def plain_sizes(stored: Mapping[str, StoredTensor], *, source: str) -> Sizes:
    """Return the sizes that the tensors' shapes say.

    Raises:
        CheckpointError: a tensor that would say one is missing or has another number of dimensions.
    """
    num_rows, width = shape_of(stored, "embed.weight", 2, source)
    first = "layers.0."
    query_width = shape_of(stored, f"{first}attn.q_proj.weight", 2, source)[0]
    kv_width = shape_of(stored, f"{first}attn.k_proj.weight", 2, source)[0]
    ffn_width = shape_of(stored, f"{first}mlp.down_proj.weight", 2, source)[1]
    layers = {name.split(".")[1] for name in stored if name.startswith("layers.")}
    return Sizes(
        num_rows=num_rows,
        width=width,
        num_layers=1 + max(int(number) for number in layers if number.isdecimal()),
        query_width=query_width,
        kv_width=kv_width,
        ffn_width=ffn_width,
    )


def plain_tensors(
    stored: Mapping[str, StoredTensor], config: BackboneConfig | SuperResConfig, *, source: str
) -> list[PlainTensor]:
    """Return the tensors of our model; nothing is read yet.

    Raises:
        CheckpointError: names the first missing, extra or misshapen tensor, and what is wanted.
    """
    with torch.device("meta"):
        model: Backbone | SuperResolution = (
            Backbone(config) if isinstance(config, BackboneConfig) else SuperResolution(config)
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_names(stored, wanted, source=source)
    return [
        PlainTensor(
            name=name,
            shape=shape,
            dtype=stored[name].dtype,
            sources=(name,),
            read=stored[name].read,
        )
        for name, shape in wanted.items()
    ]
