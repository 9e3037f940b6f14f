"""The benchmark's reference arm, held against what it is a reference for; and the command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from khala import Backbone, SuperResolution
from khala.backbone import generate_coarse
from khala.cli import main
from khala.errors import ConfigError
from khala.evals.speed.ceilings import measure_ceilings
from khala.evals.speed.reference import (
    PADDED,
    DecodeHabits,
    PassHabits,
    ReferenceBackbone,
    ReferenceSuperResolution,
)
from khala.evals.speed.run import BenchSettings, run_bench
from khala.tokens import COARSE_LEVELS

PROMPT_S = torch.arange(40, 70)


def loud(model: Backbone | SuperResolution) -> None:
    """Make the best candidates clear, so that rounding decides nothing."""
    with torch.no_grad():
        model.lm_head.weight *= 50


@pytest.mark.parametrize("habits", list(itertools.product((True, False), repeat=2)))
def test_the_reference_writes_what_we_write(tiny_model: Path, habits: tuple[bool, bool]) -> None:
    """A reference that does something else would make every ratio a lie."""
    backbone = Backbone.from_pretrained(tiny_model)
    loud(backbone)
    glues, whole = habits
    reference = ReferenceBackbone(backbone, DecodeHabits(glues_cache=glues, whole_head=whole))
    codes_2T, _ = generate_coarse(
        backbone, PROMPT_S, num_frames_min=12, num_frames_max=12, temperature=0.0, top_k=1, seed=0
    )
    logits_V = reference.begin(PROMPT_S, num_new=24)
    for place in range(24):
        frame, level = divmod(place, COARSE_LEVELS)
        low, high = backbone.config.layout.window(level)
        window_V = logits_V[low:high] if whole else logits_V
        assert int(window_V.argmax()) == int(codes_2T[level, frame])
        token = int(codes_2T[level, frame]) + low
        logits_V = reference.read(torch.tensor([token]))
    assert 0 <= reference.choose(logits_V, top_k=5, temperature=1.0) < len(logits_V)


def test_the_reference_completes_what_we_complete(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding and summing again must cost time and change nothing."""
    model = SuperResolution.from_pretrained(tiny_model)
    loud(model)
    codes_QT = torch.randint(0, 1024, (2, 20), generator=torch.Generator().manual_seed(0))
    wanted = model.complete(PROMPT_S, codes_QT, top_k=1, levels=5)
    monkeypatch.setattr("khala.evals.speed.reference.PADDED", 64)
    for pads in (True, False):
        reference = ReferenceSuperResolution(model, PassHabits(pads=pads))
        made: Tensor = codes_QT
        while len(made) < 5:
            made = torch.cat((made, reference.add_level(PROMPT_S, made, top_k=1)[None]))
        assert torch.equal(made, wanted)
    assert PADDED == 8192


def test_ceilings_are_rates() -> None:
    """A floor of nothing would be under every time."""
    roof = measure_ceilings(1_000_000)
    assert 0.5 < roof.read_gb_s < 2_000
    assert roof.read_weights_gb_s > 0.5
    assert 0.001 < roof.float32_tflop_s < 100


def test_the_benchmark_in_short(tiny_model: Path, tmp_path: Path) -> None:
    """All its tables, with everything that a claim needs beside a figure."""
    settings = BenchSettings(
        model=str(tiny_model), runs=5, duration_s=3.0, lengths_s=(1.5, 2.0), batches=(1, 2)
    )
    result = run_bench(settings, out=tmp_path, arguments={"model": tiny_model})
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["command"] == "khala bench --model tiny"
    assert set(kept["decode"]["arms"]) > {"reference", "ours, plain", "ours, int8 compiled"}
    assert kept["superres"]["floor_s"] > 0
    arms = kept["decode"]["arms"]
    gains = {name: arm["predicted_times_faster"] for name, arm in arms.items()}
    assert kept["superres"]["arms"]["ours, mixed"]["predicted_times_faster"] > 1.0
    assert gains["reference"] == 1.0 < gains["one cache of full length"]
    assert gains["ours, plain"] < gains["ours, int8"] < gains["ours, int8 compiled"]
    assert len(kept["tables"]) == 6
    # each is a run of its own on a computer that does other things, too: the least of several tells
    first_s, whole_s = (min(one[name] for one in kept["song"]) for name in ("first sound", "whole"))
    assert first_s < whole_s
    for one in kept["lengths"]:
        assert one["whole"] == pytest.approx(
            one["backbone"] + one["superres"] + one["codec"], abs=1e-5
        )
        assert 0.1 < one["superres"] / one["superres expected"] < 10
    assert result["peak_memory_gb"] > 0.1
    assert (tmp_path / "bench.png").is_file()
    assert (tmp_path / "bench.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stages", "decode,song,sleep"], "not sleep"),
        (["--batches", "1,two"], "--batches is '1,two'"),
        (["--runs", "0"], "above 0"),
        (["--model", "small", "--stages", "song"], "random weights"),
        (["--lengths=-3"], "above 0"),
        (["--model", "small", "--stages", "decode", "--batches", "2"], "no tokenizer"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, before anything is measured."""
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_stage_list_must_name_something() -> None:
    """Nothing to time is a mistake, not a result."""
    with pytest.raises(ConfigError):
        BenchSettings(stages=())
