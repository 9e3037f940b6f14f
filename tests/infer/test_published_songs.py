"""Songs as the published program makes them: what differs, and that a song keeps saying so."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from khala import Khala, Song, SongRequest
from khala.audio import read_audio, write_audio
from khala.checkpoint import write_manifest
from khala.cli import main
from khala.codec import Codec
from khala.codec.crossfade import decode_crossfaded
from khala.errors import Cancelled, RequestError, StageError
from khala.infer import Event, Notice, Progress, replay
from khala.infer.published import Plan, Published, plan_song, published_mode
from khala.infer.sound import decode_song
from khala.superres.complete import Sketch, complete_songs
from khala.tokens import TextTokenizer, nano_layout, published_layout

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "goldens" / "text.json").read_text(encoding="utf-8")
)
REQUEST = SongRequest(prompt="pop, piano", lyrics="(verse)\nla la\u3002", seed=7, levels=6)
BYTES = TextTokenizer.bytes()


def rig(model: Khala, *, end: float) -> None:
    """Teach a backbone of noise to write the levels in turn, and how much it wants to end."""
    backbone, layout = model.backbone, model.backbone.config.layout
    with torch.no_grad():
        for layer in backbone.layers:
            for linear in (layer.attn.o_proj, layer.mlp.down_proj):
                linear.weight.zero_()
                linear.bias.zero_()
        first, second = (slice(*layout.window(level)) for level in range(2))
        backbone.embed.weight[:, 0] = 4.0
        backbone.embed.weight[first, 0] = -4.0
        backbone.lm_head.weight[:, 0] = 0.0
        backbone.lm_head.weight[first, 0] = 3.0
        backbone.lm_head.weight[second, 0] = -3.0
        backbone.lm_head.weight[layout.control.end_of_text, 0] = end


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Khala:
    torch.set_num_threads(1)
    model = Khala.from_pretrained(tiny_model)
    rig(model, end=3.1)
    return model


@pytest.fixture(scope="module")
def song(model: Khala) -> Song:
    return model.generate(REQUEST, compat="published")


def notices(heard: list[Event]) -> dict[str, Notice]:
    return {one.code: one for one in heard if isinstance(one, Notice)}


def planned(request: SongRequest, **changes: Any) -> Plan:
    """A plan for models of the bundled model's alphabet."""
    return plan_song(
        request,
        published=dataclasses.replace(Published(), **changes),
        layout=nano_layout(),
        tokenizer=BYTES,
        positions=(60_000, 60_000),
    )


def test_the_song_says_how_it_was_made_and_is_made_again(
    model: Khala, song: Song, tmp_path: Path
) -> None:
    """A song made with the defects must never pass for one without, nor be replayed as one."""
    again = Song.load(song.save(tmp_path / "a.khala"))
    assert again.compat == "published"
    assert again.lyrics == "(verse)\nla la.", "as the model read them"
    assert replay(model, again).identical
    other = dataclasses.replace(again, compat="none")
    assert not replay(model, other).identical
    model.write(song, tmp_path / "a.flac")
    assert b"compat published" in (tmp_path / "a.flac").read_bytes()


def test_finished_later_equals_at_once(model: Khala, song: Song) -> None:
    """The mode is the song's: a sketch is completed by the program that began it."""
    sketch = model.generate(dataclasses.replace(REQUEST, levels=2), compat="published")
    assert np.array_equal(sketch.codes_QT, song.codes_QT[:2])
    halfway = model.refine(sketch, levels=4)
    assert np.array_equal(model.refine(halfway, levels=6).codes_QT, song.codes_QT)
    wrong = model.refine(dataclasses.replace(sketch, compat="none"), levels=6)
    assert not np.array_equal(wrong.codes_QT, song.codes_QT)


def test_fine_levels_are_drawn_as_published(model: Khala, song: Song) -> None:
    """Ten codes, no temperature, draws numbered over the padding: the program's own numbers."""
    plan = model._plan(REQUEST, Published())
    sketch = Sketch(
        prompt_S=torch.tensor(plan.superres_prompt),
        codes_QT=torch.from_numpy(song.codes_QT[:2].astype(np.int64)),
        seed=7,
    )
    (codes_QT,) = complete_songs(
        model.superres,
        [sketch],
        top_k=10,
        temperature=1.0,
        padded_positions=8_192,
        levels=6,
        autocast=model.models.plan.products,
    )
    assert np.array_equal(codes_QT.numpy(), song.codes_QT)


def test_a_description_is_not_told_to_super_resolution(model: Khala, song: Song) -> None:
    """What the published application calls a natural prompt reaches only half of the models."""
    natural = model.generate(REQUEST, compat="published-natural")
    assert np.array_equal(natural.codes_QT[:2], song.codes_QT[:2])
    assert not np.array_equal(natural.codes_QT[2:], song.codes_QT[2:])
    assert replay(model, natural).identical
    plan = model._plan(REQUEST, Published(natural=True))
    assert bytes(one for one in plan.backbone_prompt if one < 256).startswith(b"pop, piano")
    assert bytes(one for one in plan.superres_prompt if one < 256).startswith(b"(verse)la la.")


def test_the_model_alone_ends_the_song(model: Khala, song: Song) -> None:
    """Nobody gets the duration that was asked for: the program knows minutes, as words."""
    heard: list[Event] = []
    again = model.generate(dataclasses.replace(REQUEST, levels=2), compat="published",
                           on_event=heard.append)  # fmt: skip
    assert song.ended == again.ended == "end_token"
    assert notices(heard)["published_setting"].value == 60.0
    steps = [one.done for one in heard if isinstance(one, Progress)]
    assert steps == sorted(steps)
    assert again.num_frames in steps


def test_where_the_model_ends_before_the_program_would(tiny_model: Path) -> None:
    """The original goes on past what its models have learned; here the end is said."""
    model = Khala.from_pretrained(tiny_model)
    rig(model, end=0.0)
    heard: list[Event] = []
    request = dataclasses.replace(REQUEST, levels=2)
    song = model.generate(request, compat="published", on_event=heard.append)
    plan = model._plan(request, Published())
    assert song.ended == "limit"
    assert song.num_frames == plan.max_tokens // 2
    assert len(plan.superres_prompt) + song.num_frames == model.superres.config.max_positions
    assert notices(heard)["published_limit"].value == song.num_frames
    assert model.refine(song, levels=3).num_levels == 3


def test_ids_that_are_no_song_are_one_clear_error(tiny_model: Path) -> None:
    """Text among the codes would be noise or a crash; the user hears at once, and then why."""
    model = Khala.from_pretrained(tiny_model)
    heard: list[Event] = []
    with pytest.raises(StageError, match=r"no code of the level.*leave out compat") as info:
        model.generate(REQUEST, compat="published", on_event=heard.append)
    assert info.value.stage == "backbone"
    first = notices(heard)["published_failure"]
    assert f"id {first.value:g} at place" in first.message
    assert model.generate(dataclasses.replace(REQUEST, duration_s=2.0)).compat == "none"


@pytest.mark.parametrize("frames", [0, 30])
def test_stopped(model: Khala, song: Song, frames: int) -> None:
    """Ctrl-C keeps whole frames, and what is kept can be replayed."""
    assert song.num_frames > 30
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        return polls > frames

    with pytest.raises(Cancelled) as info:
        model.generate(REQUEST, compat="published", should_stop=stop)
    part = info.value.finished
    if not frames:
        assert part is None
        return
    assert isinstance(part, Song)
    assert (part.compat, part.num_frames) == ("published", 30)
    assert np.array_equal(part.codes_QT, song.codes_QT[:2, :30])
    assert replay(model, part).identical


@pytest.mark.parametrize("case", GOLDEN["requests"], ids=range(len(GOLDEN["requests"])))
def test_settings_of_the_published_application(case: dict[str, Any]) -> None:
    """What the program clamps in silence is used, and said."""
    api, worker = case["api_request"], case["worker_params"]
    request = SongRequest(
        lyrics="la",
        duration_s=min(max(60.0 * api["duration"], 1.0), 600.0),
        top_k=min(max(api.get("top_k_bb", 80), 1), 1_024),
        temperature=min(max(api.get("temperature", 1.0), 0.1), 2.0),
    )
    plan = plan_song(
        request,
        published=Published(),
        layout=published_layout(),
        tokenizer=BYTES,
        positions=(16_384, 8_192),
    )
    assert plan.request.duration_s == 60.0 * worker["duration"]
    assert plan.request.top_k == worker["top_k_bb"]
    assert plan.request.temperature == worker["temperature"]
    assert plan.request.superres_top_k == worker["top_k_sr"]
    names = ("duration_s", "top_k", "temperature")
    changed = [name for name in names if getattr(request, name) != getattr(plan.request, name)]
    assert len(plan.notices) == len(changed)


def test_prompts_are_cut_and_it_is_said() -> None:
    """The end of the lyrics and the duration are lost without a word; here with one."""
    request = SongRequest(prompt="pop", lyrics="la la la la", duration_s=60.0)
    whole = planned(request)
    assert (whole.max_tokens, whole.notices) == (23_552, ())
    cut = planned(request, most_backbone_prompt=12, most_superres_prompt=10)
    begin_audio = nano_layout().control.begin_audio
    assert cut.backbone_prompt == [*whole.backbone_prompt[:11], begin_audio]
    assert cut.superres_prompt == [*whole.superres_prompt[:9], begin_audio]
    lost = [len(whole.backbone_prompt) - 12, len(whole.backbone_prompt) - 10]
    assert [one.value for one in cut.notices] == lost
    assert {one.code for one in cut.notices} == {"published_cut"}


def test_prompts_that_crash_the_published_engine() -> None:
    """Between both cuts lie prompts whose songs exist only here: a comparison must know."""
    request = SongRequest(lyrics="a" * 2_040, duration_s=60.0)
    (cut, failure) = planned(request).notices
    assert (cut.code, cut.value) == ("published_cut", 1.0)
    assert (failure.code, failure.value) == ("published_failure", 2_049.0)
    assert planned(dataclasses.replace(request, lyrics="a" * 2_039)).notices == ()


def test_what_the_program_does_not_have(model: Khala) -> None:
    """A wish that would be ignored is an error, before any work."""
    for change, compat, words in (
        ({"guidance_scale": 2.0}, "published", "no guidance"),
        ({"duration_s": 240.0}, "published", "up to 180 seconds"),
        ({"levels": 64}, "published", "2 to 8"),
        ({"lyrics": "la " * 1_600}, "published", "reads 2048 and 1024 positions"),
        ({}, "publisht", "one of none, published, published-natural"),
    ):
        with pytest.raises(RequestError, match=words):
            model.check(dataclasses.replace(REQUEST, **change), compat=compat)  # type: ignore[arg-type]
    model.check(dataclasses.replace(REQUEST, guidance_scale=1.0), compat="published")
    assert published_mode("none") is None
    with pytest.raises(RequestError, match="one of none"):
        model.encode("a.wav", compat="x")


def test_from_the_command_line(
    make_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word gives the other program's song, and the file alone gives it again."""
    folder = make_tiny_model(tmp_path / "model")
    rigged = Khala.from_pretrained(folder)
    rig(rigged, end=3.1)
    shutil.rmtree(folder / "backbone")
    rigged.backbone.save(folder / "backbone")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    monkeypatch.chdir(tmp_path)
    words = ["generate", "--lyrics=la", "--tags=pop", "--seed=7", f"--model={folder}", "--quiet"]
    assert main([*words, "--levels=6", "--compat=published", "--out=a.wav"]) == 0
    assert main([*words, "--levels=2", "--compat=published", "--out=sketch.wav"]) == 0
    assert Song.load("a.khala").compat == "published"
    assert main(["verify", "a.khala", "--quiet"]) == 0
    assert main(["decode", "a.khala", "again.wav", "--quiet"]) == 0
    assert Path("again.wav").read_bytes() == Path("a.wav").read_bytes()
    assert main(["refine", "sketch.khala", "--levels=6", "--out=b.wav", "--quiet"]) == 0
    assert np.array_equal(Song.load("b.khala").codes_QT, Song.load("a.khala").codes_QT)
    assert Song.load("b.khala").compat == "published"


def random_song(song: Song, num_frames: int) -> Song:
    rng = np.random.default_rng(0)
    return dataclasses.replace(song, codes_QT=rng.integers(0, 1_024, (8, num_frames)))


def test_the_published_sound(model: Khala, song: Song) -> None:
    """The end of a song a little longer than 1,440 frames is spoiled, and only in this mode."""
    long = random_song(song, 1_445)
    heard: list[Event] = []
    published = model.decode(long, on_event=heard.append)
    right = model.decode(long, compat="none")
    codes_1QT = torch.from_numpy(long.codes_QT.astype(np.int64))[None]
    wanted = decode_crossfaded(model.codec, codes_1QT)[0].numpy().clip(-1, 1)
    assert np.array_equal(published, wanted)
    whole = model.codec.decode(codes_1QT)[0].numpy()
    faded_from = 1_440 * 2_048
    differs = np.abs(whole.clip(-1, 1) - published).max(axis=0) > 1e-3
    assert not differs[:faded_from].any()
    assert differs[faded_from:].any()
    assert np.allclose(right, whole * min(1.0, 0.99 / np.abs(whole).max()), atol=1e-4)
    plain = dataclasses.replace(long, compat="none")
    assert np.array_equal(model.decode(plain), right)
    assert np.array_equal(model.decode(plain, compat="published"), published)
    steps = [one.done for one in heard if isinstance(one, Progress)]
    assert steps == [0, 1_445, 1_445]

    def stop() -> bool:
        return True

    with pytest.raises(Cancelled):
        model.decode(random_song(song, 2_000), should_stop=stop)


class Loud(Codec):
    """Ten times as loud as it was trained to be."""

    def decode(self, codes_BQT: torch.Tensor, **options: Any) -> torch.Tensor:
        return 10.0 * super().decode(codes_BQT, **options)


def test_loud_songs_are_clipped_and_it_is_said(tiny_model: Path, song: Song) -> None:
    """The published program distorts loud songs in silence; the default turns them down."""
    codec = Loud.from_pretrained(tiny_model)
    plain = Codec.from_pretrained(tiny_model)
    loud = random_song(song, 50)
    heard: list[Event] = []
    wave_CN = decode_song(codec, loud, on_event=heard.append)
    unclipped: npt.NDArray[np.float32] = 10.0 * decode_song(plain, loud, compat="published")
    num = int((np.abs(unclipped) > 1.0).sum())
    assert num > 0
    assert np.abs(wave_CN).max() == 1.0
    assert np.allclose(wave_CN, unclipped.clip(-1, 1), atol=1e-5)
    assert notices(heard)["clipped"].value == pytest.approx(num, abs=2)
    assert "scaled_down" not in notices(heard)


def test_recordings_lose_their_tail(model: Khala, tmp_path: Path) -> None:
    """The published codec drops up to 46 ms of every recording; ours keeps them."""
    wave_CN = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 3 * 2_048 + 100))
    write_audio(tmp_path / "a.wav", wave_CN, sample_rate_hz=44_100)
    kept = model.encode(tmp_path / "a.wav")
    dropped = model.encode(tmp_path / "a.wav", compat="published")
    assert (kept.num_frames, dropped.num_frames) == (4, 3)
    assert (kept.compat, dropped.compat) == ("none", "published")
    model.write(dropped, tmp_path / "b.wav")
    assert read_audio(tmp_path / "b.wav").shape[1] == 3 * 2_048
