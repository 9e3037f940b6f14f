"""Do distances between sets order what they should? One half of held-out originals is measured
from the other half: as it is, through the codec at all and at few levels, dull, and as noise.

    python benchmarks/bench_distances.py --corpus corpus --tagger tagger
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.signal import butter, sosfiltfilt

from khala.checkpoint import resolve_part
from khala.codec import Codec
from khala.corpus import HELD_OUT, Corpus, CorpusSong, open_corpus
from khala.evals import report
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.sets import SetsOfSongs
from khala.evals.tagger import Tagger

FIRST_S = 3.0
DULL_HZ = 2_000
FEW_LEVELS = 4


def main() -> int:
    """Measure, print, and keep the result beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tagger", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--songs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    corpus = open_corpus(arguments.corpus)
    songs = choose(corpus, arguments.songs, FIRST_S + arguments.seconds)
    result = measure(corpus, songs, arguments)
    report.print_result(Console(), result)
    report.write_result(arguments.out / "distances.json", result)
    return 0


def choose(corpus: Corpus, num_songs: int, shortest_s: float) -> list[CorpusSong]:
    """Return held-out songs, in turn from every split."""
    by_split = [corpus.split(split) for split in HELD_OUT]
    longest = max(len(songs) for songs in by_split)
    turns = [songs[at] for at in range(longest) for songs in by_split if at < len(songs)]
    return [song for song in turns if song.duration_s >= shortest_s][:num_songs]


def ways(model: str) -> Mapping[str, Callable[[Wave, int], Wave]]:
    """Return what is done to an original, given its number, from nothing to everything."""
    codec = Codec.from_pretrained(resolve_part(model, "codec")).eval()
    sos = butter(8, DULL_HZ, fs=SAMPLE_RATE_HZ, output="sos")

    @torch.inference_mode()
    def coded(wave_CN: Wave, num_levels: int | None) -> Wave:
        codes_BQT = codec.encode(torch.from_numpy(wave_CN)[None])
        return codec.decode(codes_BQT[:, :num_levels])[0, :, : wave_CN.shape[1]].numpy()

    def noise(wave_CN: Wave, number: int) -> Wave:
        drawn_CN = np.random.default_rng(number).normal(0, wave_CN.std(), wave_CN.shape)
        return drawn_CN.astype(np.float32)

    return {
        "originals": lambda wave_CN, _: wave_CN,
        "codec, all levels": lambda wave_CN, _: coded(wave_CN, None),
        f"codec, {FEW_LEVELS} levels": lambda wave_CN, _: coded(wave_CN, FEW_LEVELS),
        f"nothing above {DULL_HZ} Hz": lambda wave_CN, _: sosfiltfilt(sos, wave_CN, axis=1),
        "white noise": noise,
    }


def measure(
    corpus: Corpus, songs: list[CorpusSong], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure every way of spoiling the odd songs from the even ones."""
    tagger = Tagger.from_pretrained(arguments.tagger)
    waves = [corpus.read_mix(song, FIRST_S, arguments.seconds) for song in songs]
    found: list[dict[str, Any]] = []
    notes: list[str] = []
    for name, spoil in ways(arguments.model).items():
        sets = SetsOfSongs([tagger])
        for number, wave_CN in enumerate(waves):
            if number % 2:
                spoilt_CN = np.ascontiguousarray(spoil(wave_CN, number), dtype=np.float32)
                sets.add_song(spoilt_CN)
            else:
                sets.add_reference(wave_CN)
        distances = sets.distances()
        found += [{"songs": name, **row} for row in distances["distances"]]
        notes = distances["notes"]
    columns = ("songs", "distance", "value", "low", "high", "biased", "num_songs", "num_reference")
    return {
        "eval": "distances",
        **report.circumstances("distances", {}),
        "command": f"python benchmarks/bench_distances.py --corpus {arguments.corpus.name} "
        f"--tagger {arguments.tagger.name} --model {arguments.model} --songs {len(songs)} "
        f"--seconds {arguments.seconds:g}",
        "distances": found,
        "tables": [
            report.table(
                "Held-out originals, spoilt, from other originals",
                columns,
                [[row[column] for column in columns] for row in found],
            )
        ],
        "notes": notes,
    }


if __name__ == "__main__":
    sys.exit(main())
