"""Somebody else's speech recogniser, from a local folder, through `transformers`.

Whisper and its like (sound in, text out), and wav2vec 2.0 and its like (CTC over letters). Nothing
is downloaded, no code of the folder is run, and nothing is unpickled.

Shape letters, this file only: C channels, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from khala.audio import resample
from khala.errors import AudioError, CheckpointError
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.pretrained import one_line, read_whole
from khala.evals.recogniser import edit_distance, lyric_words
from khala.evals.recogniser.lyrics import WORD

__all__ = ["Transcriber", "score_transcript"]

WINDOW_S = 30.0
SHORTEST_S = 1.0
"""A rest of the song that is shorter joins the window before it, or is followed by silence."""

NUM_SHUFFLES = 3


class Transcriber:
    """Hears words; which ones depends on what it was trained on, which was seldom singing."""

    def __init__(self, name: str, model: Any, extractor: Any, tokenizer: Any) -> None:
        self.name = name
        self._model, self._extractor, self._tokenizer = model, extractor, tokenizer
        self._rate_hz = int(extractor.sampling_rate)

    @torch.inference_mode()
    def transcribe(self, wave_CN: Wave) -> list[str]:
        """Return the words heard in a 44.1 kHz song, lower case, window by window.

        Windows follow one another every 30 s, so a word on a seam may be lost.

        Raises:
            AudioError: the wave holds no sample.
            CheckpointError: the model does not take what its extractor gives.
        """
        if wave_CN.shape[1] == 0:
            raise AudioError("a wave without a sample cannot be heard")
        mono_1N = np.asarray(wave_CN, dtype=np.float32).mean(axis=0, keepdims=True)
        mono_N = resample(mono_1N, SAMPLE_RATE_HZ, self._rate_hz)[0]
        length = round(WINDOW_S * self._rate_hz)
        shortest = round(SHORTEST_S * self._rate_hz)
        mono_N = np.pad(mono_N, (0, max(0, shortest - mono_N.size)))
        num_windows = max(1, math.ceil((mono_N.size - shortest) / length))
        seams = [index * length for index in range(num_windows)] + [mono_N.size]
        try:
            texts = [
                self._text(mono_N[seams[index] : seams[index + 1]]) for index in range(num_windows)
            ]
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            raise CheckpointError(f"{self.name} cannot hear a song: {one_line(error)}") from error
        return WORD.findall(" ".join(texts).lower().replace("\u2019", "'"))

    def _text(self, mono_N: np.ndarray) -> str:
        inputs = self._extractor(mono_N, sampling_rate=self._rate_hz, return_tensors="pt")
        if hasattr(self._model, "generate") and self._model.config.is_encoder_decoder:
            ids_BS = self._model.generate(**inputs)
        else:
            ids_BS = self._model(**inputs).logits.argmax(dim=-1)
        return str(self._tokenizer.batch_decode(ids_BS, skip_special_tokens=True)[0])

    @classmethod
    def from_folder(cls, folder: Path) -> Transcriber:
        """Read a model that ``save_pretrained`` wrote, with feature extractor and tokenizer.

        Raises:
            ConfigError: transformers is not installed.
            CheckpointError: no such folder, or no speech recogniser that can be read as a whole.
        """
        model, extractor, tokenizer = read_whole(
            folder,
            ("AutoModelForSpeechSeq2Seq", "AutoModelForCTC"),
            option="--transcriber",
            with_tokenizer=True,
        )
        return cls(folder.resolve().name, model, extractor, tokenizer)


def score_transcript(heard: Sequence[str], lyrics: str, others: Sequence[str]) -> dict[str, Any]:
    """Return "wer", the share of a lyric's words that are wrong, and "wer_shuffled" for others'.

    Args:
        heard: words, as `Transcriber.transcribe` gives them.
        lyrics: what was to be sung; empty for an instrumental, which has no rate.
        others: lyrics of other songs; those nearest in length are the ceiling.
    """
    wanted = lyric_words(lyrics) if lyrics.strip() else []
    found: dict[str, Any] = {"words_heard": len(heard), "wer": None, "wer_shuffled": None}
    if not wanted:
        return found
    found["wer"] = edit_distance(heard, wanted) / len(wanted)
    said = [lyric_words(other) for other in others if other.strip() and other != lyrics]
    nearest = sorted((one for one in said if one), key=lambda one: abs(len(one) - len(wanted)))
    if nearest:
        rates = [edit_distance(heard, one) / len(one) for one in nearest[:NUM_SHUFFLES]]
        found["wer_shuffled"] = float(np.mean(rates))
    return found
