"""One song, from its number to sound and ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from khala.synth.band import Band, find_soundfont
from khala.synth.compose import compose
from khala.synth.form import plan_song
from khala.synth.mix import RATE_HZ, Mix, mix_song
from khala.synth.score import Score, stream
from khala.synth.singer import Singer
from khala.synth.truth import Sung, song_truth
from khala.synth.voicebank import VoiceBank
from khala.synth.voices import voice_named
from khala.synth.voicestore import bank_path


@dataclass(frozen=True, slots=True)
class RenderedSong:
    """A song's sound and everything known about it."""

    mix: Mix
    truth: dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Studio:
    """The band and the singers of one process, loaded when first needed."""

    soundfont: Path | None = None
    banks: Path
    """Folder of the voice banks."""

    _band: Band | None = None
    _singers: dict[str, Singer] = field(default_factory=dict)

    def band(self) -> Band:
        """The band. Raises ``CorpusError`` when FluidSynth or its SoundFont is missing."""
        if self._band is None:
            self._band = Band(find_soundfont(self.soundfont))
        return self._band

    def singer(self, name: str) -> Singer:
        """A singer by name. Raises ``CorpusError`` when the voice bank is missing."""
        if name not in self._singers:
            voice = voice_named(name)
            self._singers[name] = Singer(voice, VoiceBank(bank_path(self.banks, voice)))
        return self._singers[name]


def render_song(index: int, seed: int, *, studio: Studio) -> RenderedSong:
    """Compose and render song ``index``; a pure function of (index, seed)."""
    score = compose(plan_song(index, seed))
    num_samples = round(score.plan.duration_s * RATE_HZ)
    vocals_N, sung = _sing(score, studio, num_samples)
    noise = stream(seed, index, "noise").getrandbits(48)
    band_CN = studio.band().render(score, num_samples, noise)
    _fade(band_CN)
    over_db = stream(seed, index, "mix").uniform(4.0, 6.5)
    mix = mix_song(vocals_N, band_CN, vocal_over_band_db=over_db, seed=noise)
    return RenderedSong(mix, song_truth(score, sung, num_samples / RATE_HZ))


def _sing(score: Score, studio: Studio, num_samples: int) -> tuple[np.ndarray, Sung]:
    vocals_N = np.zeros(num_samples, dtype=np.float32)
    plan = score.plan
    if plan.voice is None:
        return vocals_N, Sung()
    seed = stream(plan.seed, plan.index, "voice").getrandbits(48)
    lines = studio.singer(plan.voice).sing(score.words, plan.clock, seed)
    for line in lines:
        start = round(line.start_s * RATE_HZ)
        skip = max(0, -start)
        stop = min(num_samples, start + len(line.wave_N))
        vocals_N[start + skip : stop] += line.wave_N[skip : stop - start]
    return vocals_N, Sung(tuple(p for line in lines for p in line.phonemes))


def _fade(band_CN: np.ndarray, seconds: float = 0.8) -> None:
    """Let the last chord go, in place."""
    length = min(band_CN.shape[1], int(seconds * RATE_HZ))
    band_CN[:, -length:] *= np.cos(np.linspace(0.0, np.pi / 2, length, dtype=np.float32)) ** 2
