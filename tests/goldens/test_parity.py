"""Khala's models against published ones of several sizes, on the way a user takes.

Weights are written as their authors publish them and as the converted copy has them, `khala
convert` makes model folders of both, and what is loaded from those must give every number.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import ours
import pytest
import torch
from compare import compare, smallest_margin
from golden_sets import (
    INFO,
    NAMES,
    sizes_of,
    tensors_of,
    trunk_of,
    wanted_of,
    write_copy,
    write_published,
)
from golden_weights import ROWS
from reference import LanguageModel
from reference import greedy as reference_greedy

from khala.backbone import Backbone, generate_coarse
from khala.checkpoint import load_tensors
from khala.cli import main
from khala.codec import Codec
from khala.superres import Sketch, SuperResolution, complete_songs

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def converted(tmp_path: Path, kind: str, name: str, weights: dict[str, np.ndarray]) -> Path:
    """Return the model folder of one model; both layouts must give the same one."""
    folders = []
    for write in (write_published, write_copy):
        source = write(tmp_path / f"{write.__name__}-in", kind, name, weights)
        folder = tmp_path / write.__name__
        assert main(["convert", "--from", str(source), "--to", str(folder), "--quiet"]) == 0
        folders.append(folder)
        if name == "A":  # the largest: the other sets compare the layouts
            break
    configs = [json.loads((folder / kind / "config.json").read_text()) for folder in folders]
    assert all(config == configs[0] for config in configs)
    first, *rest = [load_tensors(folder / kind) for folder in folders]
    for tensors in rest:
        assert tensors.keys() == first.keys()
        assert all(tensors[key].equal(tensor) for key, tensor in first.items())
    return folders[0]


@pytest.mark.parametrize("name", NAMES)
def test_backbone(tmp_path: Path, name: str) -> None:
    """A slip in norm, rotation, grouping or bias turns released weights into noise."""
    weights = tensors_of("backbone", name)
    wanted = wanted_of("backbone", name, weights)
    model = Backbone.from_pretrained(converted(tmp_path, "backbone", name, weights))
    assert model.config.trunk == trunk_of(sizes_of(name))
    assert model.config.num_rows == sizes_of(name).get("rows", ROWS)["backbone"]
    made = ours.backbone_arrays(
        model, wanted["prompt_ids"], wanted["positions"], INFO["windows"], sizes_of(name)["gen"]
    )
    compare(made, wanted)
    margins = ("margin", "greedy_free_margin", "greedy_audio_margin")
    assert smallest_margin(wanted, margins) > 1e-4, "a near tie would prove nothing"
    assert np.abs(made["single_bias_hidden_last"] - made["hidden_final"][-1]).max() > 0.05
    if name == "A":
        return
    assert wanted["padded_logits_tail"].max() > wanted["max"].max(), "padded rows are no bait"
    # What the generator writes after a prompt of text, against the reference without a cache.
    num_text = sizes_of(name)["bb_prompt"] - 2 * sizes_of(name)["bb_audio_frames"]
    text_S, layout = wanted["prompt_ids"][:num_text], model.config.layout
    codes_2T, _ = generate_coarse(
        model, text_S, num_frames_min=4, num_frames_max=4, temperature=1.0, top_k=1, seed=0
    )
    reference = LanguageModel(weights, sizes_of(name))
    ids, gaps = reference_greedy(reference, text_S, lambda step: layout.window(step % 2), 8)
    assert gaps.min() > 1e-4
    firsts = np.array([layout.first_id(0), layout.first_id(1)])
    assert codes_2T.T.tolist() == (ids.reshape(4, 2) - firsts).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_superres(tmp_path: Path, name: str) -> None:
    """62 passes feed each other: one wrong sum, marker or mask and every later level is noise."""
    weights = tensors_of("superres", name)
    wanted = wanted_of("superres", name, weights)
    model = SuperResolution.from_pretrained(converted(tmp_path, "superres", name, weights))
    assert model.config.trunk == trunk_of(sizes_of(name))
    made = ours.superres_arrays(model, wanted["text_ids"], wanted["q0q1_codes"])
    compare(made, wanted)
    assert smallest_margin(wanted, ("margins",)) > 1e-4, "a near tie would prove nothing"
    # The traps: both run without complaint and sound like noise.
    for trap in ("causal_hidden_idx2", "single_bias_hidden_idx2"):
        assert np.abs(made[trap] - made["hidden_idx2"]).max() > 0.05
    # A song beside a longer one, with masked pads, is the song alone.
    prompt_S = torch.from_numpy(wanted["text_ids"].astype(np.int64))
    coarse_2T = torch.from_numpy(wanted["q0q1_codes"].astype(np.int64)).T
    longer = Sketch(prompt_S=prompt_S.repeat(2), codes_QT=coarse_2T.repeat(1, 2), seed=1)
    alone = Sketch(prompt_S=prompt_S, codes_QT=coarse_2T, seed=0)
    both = complete_songs(model, [alone, longer], top_k=1, levels=12)
    assert both[0].tolist() == wanted["codes"][:12].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_codec(tmp_path: Path, name: str) -> None:
    """A codec that reads or speaks published codes wrong makes every song noise."""
    weights, sizes = tensors_of("codec", name), sizes_of(name)
    wanted = wanted_of("codec", name, weights)
    codec = Codec.from_pretrained(converted(tmp_path, "codec", name, weights))
    chunks = {"size": sizes["chunk_size"], "overlap": sizes["chunk_overlap"]}
    compare(ours.codec_arrays(codec, wanted["wav"], wanted["chunk_codes"], **chunks), wanted)
    assert smallest_margin(wanted, ("nn_margin",)) > 1e-4, "a near tie would prove nothing"
    assert np.abs(wanted["chunk_wave"] - wanted["chunk_full_wave"]).max() > 0.05
    # Long songs are coded in pieces, which nobody may notice.
    wave_1CN = torch.from_numpy(wanted["wav"])[None]
    codes_QT = codec.encode(wave_1CN, pad=False, chunk_frames=2)[0]
    np.testing.assert_array_equal(codes_QT.numpy(), wanted["codes"])
    pieces_CN = codec.decode(torch.from_numpy(wanted["chunk_codes"])[None], chunk_frames=4)[0]
    np.testing.assert_allclose(pieces_CN[:, ::16], wanted["chunk_full_wave"], rtol=0, atol=3e-4)
