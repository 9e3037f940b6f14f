"""The tagger hears the same of the same song, whatever its length, level and channels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from khala.errors import AudioError, CheckpointError, ConfigError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.recogniser import Recogniser, RecogniserConfig
from khala.evals.tagger import Tagger, TaggerConfig
from khala.evals.tagger.model import WINDOWS_AT_ONCE, features

CONFIG = TaggerConfig(
    instruments=("bell", "drone"),
    styles=("fast", "slow"),
    num_mels=24,
    widths=(4, 6),
    embedding=5,
    window_s=1.0,
)


@pytest.fixture
def tagger() -> Tagger:
    """Untrained, with running statistics that are not those of a fresh network."""
    torch.manual_seed(3)
    model = Tagger(CONFIG)
    model.train()
    for _ in range(3):
        model(torch.randn(4, 40, 24) * 2 + 1)
    return model.eval()


def song(seconds: float, *, seed: int = 0) -> Wave:
    """Return noise that swells and changes its colour."""
    generator = np.random.default_rng(seed)
    num = round(seconds * SAMPLE_RATE_HZ)
    swell_N = 0.1 + 0.05 * np.sin(np.arange(num) / 9_000)
    wave_CN = generator.normal(0, 1, (2, num)) * swell_N
    wave_CN[:, num // 2 :] = np.cumsum(wave_CN[:, num // 2 :], axis=1) * 0.02
    return wave_CN.astype(np.float32)


def test_the_same_song_is_heard_the_same(tagger: Tagger) -> None:
    """A score that changes from run to run can be chosen; and listening must not train."""
    wave_CN = song(2.5)
    first, again = tagger.hear(wave_CN), tagger.hear(wave_CN)
    assert first.instruments == again.instruments
    assert np.array_equal(first.chances_I, again.chances_I)
    tagger.train()
    assert np.array_equal(tagger.embed(wave_CN), tagger.eval().embed(wave_CN))
    assert not np.allclose(tagger.embed(wave_CN), tagger.embed(song(2.5, seed=1)))


def test_a_long_song_is_the_mean_of_its_windows(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole song must fit into any memory, and no second of it may be left out."""
    wave_CN = song(10.4)
    starts = np.linspace(0, 9.4 * SAMPLE_RATE_HZ, 11).round().astype(int)
    with torch.inference_mode():
        slowly = [
            tagger(
                torch.from_numpy(features(wave_CN[:, at : at + SAMPLE_RATE_HZ], num_mels=24))[None]
            )[0].numpy()
            for at in starts
        ]
    sizes = []
    whole = Tagger.forward

    def counted(self: Tagger, features_BTM: torch.Tensor) -> torch.Tensor:
        sizes.append(len(features_BTM))
        return whole(self, features_BTM)

    monkeypatch.setattr(Tagger, "forward", counted)
    assert np.allclose(tagger.embed(wave_CN), np.mean(slowly, axis=0), atol=1e-5)
    assert sum(sizes) == 11
    assert max(sizes) == WINDOWS_AT_ONCE


def test_one_channel_is_two_equal_ones_and_level_is_nothing(tagger: Tagger) -> None:
    """A quiet master or a mono file is not another style."""
    wave_CN = song(2.0)
    mono_1N = wave_CN.mean(axis=0, keepdims=True)
    both = tagger.embed(np.repeat(mono_1N, 2, axis=0))
    assert np.allclose(tagger.embed(mono_1N), both, atol=1e-6)
    assert np.allclose(tagger.embed(wave_CN), tagger.embed(0.25 * wave_CN), atol=1e-3)


@pytest.mark.parametrize("num_samples", [1, 10, 3_000])
def test_a_scrap_of_sound_is_heard(tagger: Tagger, num_samples: int) -> None:
    """One short file in a folder must not end the scoring of all others."""
    wave_CN = song(1.0)[:, 5_000 : 5_000 + num_samples]
    assert np.isfinite(tagger.embed(wave_CN)).all()
    assert np.isfinite(tagger.hear(wave_CN).chances_I).all()


def test_nothing_plays_in_silence(tagger: Tagger) -> None:
    """A network always answers: a silent song must not be praised for its drums."""
    with torch.no_grad():
        tagger.head.bias += 20.0
    silence_CN = np.zeros((2, 3 * SAMPLE_RATE_HZ), dtype=np.float32)
    heard = tagger.hear(silence_CN)
    assert (heard.instruments, heard.style, heard.sings) == ((), "", False)
    assert np.isfinite(tagger.embed(silence_CN)).all()
    half_CN = np.concatenate([silence_CN, song(3.0)], axis=1)
    assert tagger.hear(half_CN).instruments == ("bell", "drone")
    with pytest.raises(AudioError, match="without a sample"):
        tagger.hear(silence_CN[:, :0])


def test_an_instrument_that_rests_half_the_song_is_in_it(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piano that waits for the chorus was asked for and is there."""
    embeddings = torch.zeros(5, CONFIG.embedding)
    embeddings[3:, 0] = 1.0

    def windows(wave_CN: Wave) -> tuple[torch.Tensor, torch.Tensor]:
        del wave_CN
        return embeddings, torch.tensor([True, True, False, True, True])

    monkeypatch.setattr(tagger, "_windows", windows)
    with torch.no_grad():
        tagger.head.weight.zero_()
        tagger.head.bias.zero_()
        tagger.head.weight[0, 0] = 12.0
        tagger.head.bias[0] = -6.0
    heard = tagger.hear(song(1.0))
    assert heard.instruments == ("bell",)
    assert heard.chances_I[0] > 0.99
    assert heard.chances_I[1] == pytest.approx(0.5)


def test_what_was_saved_is_what_is_read(tagger: Tagger, tmp_path: Path) -> None:
    """Thresholds and statistics left out of the file would change every score unseen."""
    tagger.thresholds_I[:] = torch.tensor([0.1, 0.9])
    digest = tagger.save(tmp_path / "tagger")
    again = Tagger.from_pretrained(tmp_path / "tagger")
    assert again.config == dataclasses.replace(CONFIG)
    for name, tensor in tagger.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    wave_CN = song(2.0)
    assert np.array_equal(tagger.embed(wave_CN), again.embed(wave_CN))
    assert again.save(tmp_path / "copy") == digest


def test_a_damaged_or_other_model_is_refused(tagger: Tagger, tmp_path: Path) -> None:
    """Scores of a broken ear look like scores."""
    with pytest.raises(CheckpointError, match="missing"):
        Tagger.from_pretrained(tmp_path / "nowhere")
    tagger.save(tmp_path / "tagger")
    path = tmp_path / "tagger" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged"):
        Tagger.from_pretrained(tmp_path / "tagger")
    Recogniser(RecogniserConfig(phonemes=("a",), width=8, dilations=(1,))).save(tmp_path / "ear")
    with pytest.raises(CheckpointError, match="not a 'tagger'"):
        Tagger.from_pretrained(tmp_path / "ear")


@pytest.mark.parametrize(
    "change",
    [
        {"instruments": ()},
        {"styles": ("a", "a")},
        {"widths": ()},
        {"embedding": 0},
        {"dropout": 1.0},
        {"window_s": 0.1},
    ],
)
def test_impossible_networks_are_refused(change: dict[str, object]) -> None:
    """A config from a file must be refused by its name, not by a crash in a convolution."""
    with pytest.raises(ConfigError):
        dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
