"""Telling one layer what sounds in each frame: phoneme, chord, tempo, and how soon a beat comes.

The loss of the next token rewards them only a little, and finds them late: a phoneme is a small
part of a frame's sound, and a tempo or a key is asked for once and then heard in what was played.
Where the corpus knows them, linear maps must read them from one layer *before* the frame is written
(deep supervision, https://arxiv.org/abs/1409.5185), so that the model looks them up in its prompt;
the layers above find them there. Only training knows of it: the maps are not exported.

Shape letters: B batch, S stream positions, T frames, N taught positions, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from khala.corpus import CodesExample, Word

__all__ = ["Lessons", "frames_to_beat", "names_in", "sounding", "tempo_class"]

UNKNOWN = -1
BEAT_BINS, BINS_PER_FRAME = 48, 2
"""Half frames of 23 ms: the next beat of 60 a minute is at most 43 of them away."""

SLOWEST_BPM, TEMPO_STEP, TEMPO_CLASSES = 50.0, 1.03, 44
"""Classes of tempo, each 3 % wide: 50 to 184 beats a minute."""


def names_in(sounds: Iterable[Sequence[Word]]) -> list[str]:
    """Return every phoneme, or chord, of some songs once, in order."""
    return sorted({sound.text for song in sounds for sound in song})


def sounding(
    sounds: Sequence[Word], classes: dict[str, int], *, num_frames: int, duration_s: float
) -> Tensor:
    """Return the class of what sounds in the middle of each frame, [T]; 0 where nothing does."""
    found_T = torch.zeros(num_frames, dtype=torch.int64)
    rate_hz = num_frames / duration_s
    for sound in sounds:
        first = max(0, round(sound.start_s * rate_hz))
        found_T[first : max(first + 1, round(sound.end_s * rate_hz))] = classes[sound.text]
    return found_T


def frames_to_beat(beats_s: Sequence[float], *, num_frames: int, duration_s: float) -> Tensor:
    """Return how many half frames after each frame's start the next beat comes, [T].

    Where no beat follows, or only after more than ``BEAT_BINS``, it is -1: unknown.
    """
    rate_hz = num_frames / duration_s
    starts_T = torch.arange(num_frames, dtype=torch.float64)
    beats_N = torch.tensor(beats_s, dtype=torch.float64) * rate_hz
    beats_N = torch.cat((beats_N, torch.tensor([torch.inf], dtype=torch.float64)))
    next_T = beats_N[torch.searchsorted(beats_N, starts_T)]
    bins_T = ((next_T - starts_T) * BINS_PER_FRAME).floor().clamp_max(BEAT_BINS).long()
    return torch.where(bins_T < BEAT_BINS, bins_T, UNKNOWN)


def tempo_class(beats_s: Sequence[float]) -> int:
    """Return the class of the tempo of some beats; -1, unknown, for fewer than three."""
    if len(beats_s) < 3:
        return UNKNOWN
    bpm = 60.0 * (len(beats_s) - 1) / (beats_s[-1] - beats_s[0])
    place = round(math.log(bpm / SLOWEST_BPM) / math.log(TEMPO_STEP))
    return place if 0 <= place < TEMPO_CLASSES else UNKNOWN


class Lessons(nn.Module):
    """What is read from a layer: a phoneme, a chord, a distance to the next beat, and the tempo.

    A tempo that is only heard in when beats come is hardly looked up where it is written: in the
    first seconds, before there is anything to hear. So it is asked for at every frame.
    """

    def __init__(self, width: int, *, phonemes: Sequence[str], chords: Sequence[str]) -> None:
        super().__init__()
        self.phonemes = {name: index for index, name in enumerate(phonemes, start=1)}
        self.chords = {name: index for index, name in enumerate(chords, start=1)}
        self.norm = nn.RMSNorm(width)
        self.readers = nn.ModuleDict(
            {
                "phoneme": nn.Linear(width, len(phonemes) + 1),
                "chord": nn.Linear(width, len(chords) + 1),
                "beat": nn.Linear(width, BEAT_BINS),
                "tempo": nn.Linear(width, TEMPO_CLASSES),
            }
        )

    @classmethod
    def of(cls, songs: Iterable[CodesExample], *, width: int) -> Self:
        """Return lessons for all the phonemes and chords of some songs."""
        songs = list(songs)
        return cls(
            width,
            phonemes=names_in(song.phonemes for song in songs),
            chords=names_in(song.chords for song in songs),
        )

    def targets(self, example: CodesExample) -> Tensor:
        """Return phoneme, chord, beat and tempo of each frame, [T, 4]; -1 is unknown."""
        frames, duration_s = example.num_frames, example.duration_s
        columns = []
        for sounds, classes, silent in (
            (example.phonemes, self.phonemes, example.instrumental),
            (example.chords, self.chords, False),
        ):
            if sounds or silent:
                columns.append(sounding(sounds, classes, num_frames=frames, duration_s=duration_s))
            else:
                columns.append(torch.full((frames,), UNKNOWN))
        columns.append(frames_to_beat(example.beats_s, num_frames=frames, duration_s=duration_s))
        columns.append(torch.full((frames,), tempo_class(example.beats_s)))
        return torch.stack(columns, dim=1)

    def forward(self, hidden_ND: Tensor, targets_N4: Tensor) -> dict[str, Tensor]:
        """Return the mean nats of each, by name, over the frames where it is known."""
        hidden_ND = self.norm(hidden_ND)
        losses = {}
        for (name, reader), targets_N in zip(
            self.readers.items(), targets_N4.unbind(1), strict=True
        ):
            total = F.cross_entropy(
                reader(hidden_ND).float(), targets_N, ignore_index=UNKNOWN, reduction="sum"
            )
            losses[name] = total / (targets_N != UNKNOWN).sum().clamp_min(1)
        return losses
