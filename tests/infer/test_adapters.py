"""Songs with adapters: what is heard, what the song file remembers, and what a replay asks for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from khala import Khala, Song, SongRequest
from khala.adapter import AdapterConfig, save_adapter
from khala.backbone import Backbone
from khala.checkpoint import digest
from khala.cli import main
from khala.errors import CheckpointError
from khala.infer import Event, Notice, replay
from khala.infer.assemble import assemble_model
from khala.nn.lora import LoraConfig, add_lora, lora_tensors
from khala.superres import SuperResolution

REQUEST = SongRequest(instrumental=True, duration_s=1.5, seed=7, levels=8)
LORA = LoraConfig(rank=2)


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One adapter for each language model, with something loud in it."""
    folder = tmp_path_factory.mktemp("adapters")
    for part, cls in (("backbone", Backbone), ("superres", SuperResolution)):
        model = cls.from_pretrained(tiny_model)
        add_lora(model, LORA, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in lora_tensors(model).values():
                tensor.normal_(generator=generator)
        config = AdapterConfig(part=part, base=digest(tiny_model / part), lora=LORA)
        save_adapter(folder / part, model, config)
    return {part: folder / part for part in ("backbone", "superres")}


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Song:
    """The song of the model alone."""
    return Khala.from_pretrained(tiny_model).generate(REQUEST)


def test_strength_0_is_the_song_without(
    tiny_model: Path, adapters: dict[str, Path], plain: Song, tmp_path: Path
) -> None:
    """A style turned off must give back every byte of the song that was there before."""
    lora = [f"{folder}:0" for folder in adapters.values()]
    song = Khala.from_pretrained(tiny_model, lora=lora).generate(REQUEST)
    one, two = (each.save(tmp_path / name) for each, name in ((plain, "a"), (song, "b")))
    assert one.read_bytes() == two.read_bytes()


def test_each_adapter_changes_its_part(
    tiny_model: Path, adapters: dict[str, Path], plain: Song
) -> None:
    """The folder says which model it is for; the other one must not move."""
    fine = Khala.from_pretrained(tiny_model, lora=[adapters["superres"]]).generate(REQUEST)
    assert np.array_equal(fine.codes_QT[:2], plain.codes_QT[:2])
    assert not np.array_equal(fine.codes_QT[2:], plain.codes_QT[2:])
    assert fine.digests["superres.lora"] == f"{digest(adapters['superres'])}@1.0"
    assert "backbone.lora" not in fine.digests
    coarse = Khala.from_pretrained(tiny_model, lora=[f"{adapters['backbone']}:0.5"])
    song = coarse.generate(REQUEST)
    assert not np.array_equal(song.codes_QT[:2, :20], plain.codes_QT[:2, :20])
    assert song.digests["backbone.lora"] == f"{digest(adapters['backbone'])}@0.5"


def test_a_replay_asks_for_the_adapter(
    tiny_model: Path, adapters: dict[str, Path], plain: Song, tmp_path: Path
) -> None:
    """A song that was made with an adapter must never be called wrong for lack of it."""
    lora = [f"{adapters['backbone']}:0.5", adapters["superres"]]
    with_both = Khala.from_pretrained(tiny_model, lora=lora)
    song = Song.load(with_both.generate(REQUEST).save(tmp_path / "song.khala"))
    assert replay(with_both, song).identical
    short = digest(adapters["backbone"])[:16]
    for given, words in (
        ([], f"made with the backbone adapter {short} at strength 0.5, and none is given"),
        ([adapters["backbone"], adapters["superres"]], "given is .* at strength 1.0"),
        (lora[:1], "superres adapter .* at strength 1.0"),
    ):
        with pytest.raises(CheckpointError, match=words):
            replay(Khala.from_pretrained(tiny_model, lora=given), song)
    with pytest.raises(CheckpointError, match="without a backbone adapter"):
        replay(with_both, plain)


def test_other_details_name_who_made_them(
    tiny_model: Path, adapters: dict[str, Path], plain: Song
) -> None:
    """A song file that names an adapter that had no part in it, or hides one, proves nothing."""
    base = Khala.from_pretrained(tiny_model)
    fine = Khala.from_pretrained(tiny_model, lora=[adapters["superres"]])
    heard: list[Event] = []
    styled = fine.refine(plain, levels=8, keep_levels=2, on_event=heard.append)
    assert "superres.lora" in styled.digests
    assert not [one for one in heard if isinstance(one, Notice)], "it was asked for"
    again = base.refine(styled, levels=8, keep_levels=2, on_event=heard.append)
    assert np.array_equal(again.codes_QT, plain.codes_QT)
    assert again.digests == plain.digests
    (notice,) = [one for one in heard if isinstance(one, Notice)]
    assert notice.code == "other_adapter"
    untouched = base.refine(styled, levels=8)
    assert untouched.digests == styled.digests
    short = dataclasses.replace(styled, codes_QT=styled.codes_QT[:5])
    assert np.array_equal(fine.refine(short, levels=8).codes_QT, styled.codes_QT)


def test_on_the_command_line(
    tiny_model: Path,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--lora makes, finishes and replays a song; without it, one line says which one is missing."""
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(tiny_model), "--quiet"]
    lora = ["--lora", f"{adapters['backbone']}:0.7", "--lora", str(adapters["superres"])]
    words = ["--instrumental", "--duration", "1.5", "--seed", "7"]
    assert main(["generate", *words, *model, *lora, "--levels", "8", "--out", "a.wav"]) == 0
    assert main(["generate", *words, *model, *lora, "--levels", "2", "--out", "b.wav"]) == 0
    assert main(["refine", "b.khala", "--levels", "8", *model, *lora, "--out", "b.wav"]) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    capsys.readouterr()
    assert main(["verify", "b.khala", *model, *lora, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"]
    for wrong, expected in (
        ([], "made with the backbone adapter"),
        (["--lora", "none"], "no adapter in 'none'"),
        (["--lora", f"{adapters['backbone']}:3"], "from 0 to 2"),
    ):
        assert main(["verify", "b.khala", *model, *wrong]) == 2
        line = capsys.readouterr().err
        assert expected in line
        assert line.count("\n") == 1


def test_an_adapter_for_good(tiny_model: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    """A model with a style in its weights must sing what the model and its adapter sing."""
    lora = [f"{adapters['backbone']}:0.5", adapters["superres"]]
    parts = {"codec": tiny_model, "backbone": tiny_model, "superres": tiny_model}
    assemble_model(**parts, out=tmp_path / "style", lora=lora)
    one = Khala.from_pretrained(tmp_path / "style").generate(REQUEST)
    two = Khala.from_pretrained(tiny_model, lora=lora).generate(REQUEST)
    assert np.array_equal(one.codes_QT, two.codes_QT)
    assert not [name for name in one.digests if name.endswith("lora")]
    with pytest.raises(CheckpointError, match="trained from another backbone"):
        assemble_model(**parts | {"backbone": tmp_path / "style"}, out=tmp_path / "b", lora=lora)
    assert not (tmp_path / "b").exists()
    assemble_model(**parts, out=tmp_path / "small", lora=lora, compact=True)
    assert Khala.from_pretrained(tmp_path / "small").generate(REQUEST).num_levels == 8
