"""``khala eval codec``: what the codec keeps of held-out songs, level by level, beside Opus.

Shape letters, this file only: B batch, C channels, N samples, Q levels, T frames.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from khala.codec import Codec
from khala.corpus import HELD_OUT, Corpus, CorpusSong, open_corpus
from khala.corpus.folders import open_folder
from khala.errors import ConfigError, CorpusError
from khala.evals import plots, report
from khala.evals.command_peer import CommandPeer
from khala.evals.distances import Distances, Wave, mean_distances, measure
from khala.evals.peers import PeerResult, run_peer
from khala.evals.recogniser import Recogniser, error_rate, shuffled_error_rate, sung_phonemes

RunPeer = Callable[[Wave], PeerResult]

LEVELS = (2, 4, 8, 16, 32, 64)
LOWER_IS_BETTER = ("mel80", "multi_stft", "lsd_db")
HIGHER_IS_BETTER = ("si_sdr_db", "sdr_1_4k_db")
REFEREE = "opus-16"
LEAST_CODE_USE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecEval:
    """Arguments of ``khala eval codec``."""

    model: Path
    """Model folder, or its ``codec/``."""

    corpus: Path
    """Demo corpus, or any folder of audio; only held-out songs are measured."""

    out: Path | None = None
    """Folder for codec.json and codec.png."""

    clips: int = 24
    """Clips that are measured, spread over the held-out songs."""

    seconds: float = 10.0
    """Length of a clip."""

    peers: tuple[str, ...] = ("opus-12", "opus-16", "opus-24", "opus-32")
    """Codecs run on the same clips; empty for none."""

    peer_commands: str | None = None
    """One more peer: "NAME: ENCODE {wav} {coded} | DECODE {coded} {decoded}"."""

    recogniser: Path | None = None
    """Folder of a trained recogniser: adds phoneme error rates."""

    usage_minutes: float = 30.0
    """Audio encoded to count the codes of every level."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A stretch of a held-out song, and the phonemes sung in it."""

    song: CorpusSong
    start_s: float
    wave_CN: Wave
    phonemes: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """One clip as something made of it."""

    wave_CN: Wave
    distances: Distances


def run_codec_eval(
    model: Path,
    corpus: Path,
    out: Path | None = None,
    clips: int = 24,
    seconds: float = 10.0,
    peers: tuple[str, ...] | list[str] = ("opus-12", "opus-16", "opus-24", "opus-32"),
    peer_commands: str | None = None,
    recogniser: Path | None = None,
    usage_minutes: float = 30.0,
    on_message: report.OnMessage = report.ignore_messages,
) -> dict[str, Any]:
    """Measure reconstructions at each of `LEVELS`, peers on the same clips, and the use of codes.

    Raises:
        CorpusError: no held-out song is long enough for a clip.
        ConfigError: no clips, or an unknown peer.
        CheckpointError: the model cannot be read.
    """
    arguments = dict(locals())
    arguments.pop("on_message")
    if clips < 1 or not seconds >= 1.0:
        raise ConfigError(f"at least one clip of one second is needed, not {clips} of {seconds} s")
    outside = None if peer_commands is None else CommandPeer.parse(peer_commands)
    codec = Codec.from_pretrained(model)
    opened = open_corpus(corpus) if (corpus / "corpus.json").is_file() else open_folder(corpus)
    chosen = choose_clips(opened, clips, seconds, hop=codec.config.hop)
    ear = None if recogniser is None else Recogniser.from_pretrained(recogniser)
    if ear is not None and sum(bool(clip.phonemes) for clip in chosen) < 2:
        raise CorpusError(f"{corpus} has no two held-out clips with known words: no --recogniser")
    runners: dict[str, RunPeer] = {name: partial(run_peer, name) for name in peers}
    if outside is not None:
        runners[outside.name] = outside.run
    distances, rates_kbit_s, heard = _reconstruct(codec, chosen, runners, ear, on_message)
    usage = code_usage(codec, opened, usage_minutes, on_message)
    result = _summary(codec, distances, rates_kbit_s, usage)
    if ear is not None:
        result["per"] = _words(heard, [clip.phonemes for clip in chosen])
        result["tables"].append(_words_table(result["per"]))
    result["num_clips"] = len(chosen)
    result["clips"] = [{"song": clip.song.id, "start_s": clip.start_s} for clip in chosen]
    return report.finish(
        "codec",
        result,
        arguments=arguments,
        out=out,
        draw=lambda path: _plot(path, result, on_message),
    )


def choose_clips(corpus: Corpus, num_clips: int, seconds: float, *, hop: int) -> list[Clip]:
    """Return clips spread evenly over the held-out songs and along each of them."""
    held_out = [song for split in HELD_OUT for song in corpus.split(split)]
    songs = [song for song in held_out if song.duration_s >= seconds + 0.1]
    songs.sort(key=lambda song: song.instrumental)
    if not songs:
        raise CorpusError(f"{corpus.folder} has no held-out song of {seconds:g} s yet")
    per_song = -(-num_clips // len(songs))
    clips = []
    for index in range(num_clips):
        song = songs[index % len(songs)]
        place = (index // len(songs) + 0.5) / per_song
        start_s = math.floor(place * (song.duration_s - seconds) * 44_100 / hop) * hop / 44_100
        truth = song.truth() if song.truth_path is not None else {"phonemes": []}
        clips.append(
            Clip(
                song=song,
                start_s=start_s,
                wave_CN=corpus.read_mix(song, start_s, seconds),
                phonemes=sung_phonemes(truth, start_s=start_s, end_s=start_s + seconds),
            )
        )
    return clips


def code_usage(
    codec: Codec, corpus: Corpus, minutes: float, on_message: report.OnMessage
) -> list[dict[str, float]]:
    """Encode whole songs, held-out ones first, and return each level's share of used codes.

    ``entropy_bits`` is that of the level's histogram (10 is every code equally often).
    """
    songs = [song for split in (*HELD_OUT, "train") for song in corpus.split(split)]
    size = codec.config.quantizer.codebook_size
    counts = np.zeros((codec.config.quantizer.num_levels, size), dtype=np.int64)
    encoded_s = 0.0
    for song in songs:
        if encoded_s >= 60 * minutes:
            break
        codes_QT = codec.encode(torch.from_numpy(corpus.read(song))[None])[0].numpy()
        for level, codes_T in enumerate(codes_QT):
            counts[level] += np.bincount(codes_T, minlength=size)
        encoded_s += song.duration_s
    on_message(f"counted the codes of {encoded_s / 60:.1f} min")
    usage = []
    for level, count in enumerate(counts):
        shares = count[count > 0] / count.sum()
        usage.append(
            {
                "level": level,
                "used": float((count > 0).mean()),
                "entropy_bits": float(-(shares * np.log2(shares)).sum()),
                "commonest": float(shares.max()),
            }
        )
    return usage


def _reconstruct(
    codec: Codec,
    clips: list[Clip],
    peers: Mapping[str, RunPeer],
    ear: Recogniser | None,
    on_message: report.OnMessage,
) -> tuple[dict[str, list[Distances]], dict[str, float], dict[str, list[list[str]]]]:
    """Return the distances, the bitrates and the phonemes heard, by what was listened to."""
    distances: defaultdict[str, list[Distances]] = defaultdict(list)
    heard: defaultdict[str, list[list[str]]] = defaultdict(list)
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for index, clip in enumerate(clips):
        waves = _decoded(codec, clip.wave_CN, rates)
        for name, run in peers.items():
            result = run(clip.wave_CN)
            waves[name] = result.wave_CN
            rates[name].append(result.kbit_s)
        for name, wave_CN in waves.items():
            distances[name].append(measure(clip.wave_CN, wave_CN))
        if ear is not None:
            for name, wave_CN in {"original": clip.wave_CN, **waves}.items():
                heard[name].append(ear.recognise(wave_CN))
        on_message(f"clip {index + 1} of {len(clips)}")
    return dict(distances), {name: float(np.mean(r)) for name, r in rates.items()}, dict(heard)


@torch.inference_mode()
def _decoded(codec: Codec, wave_CN: Wave, rates: defaultdict[str, list[float]]) -> dict[str, Wave]:
    """Return the clip decoded from every prefix of levels, and from latents not quantised."""
    wave_BCN = torch.from_numpy(wave_CN)[None]
    num_samples = wave_BCN.shape[-1]
    codes_BQT = codec.encode(wave_BCN)
    config = codec.config
    waves: dict[str, Wave] = {}
    for num_levels in LEVELS:
        if num_levels > config.quantizer.num_levels:
            break
        decoded_BCN = codec.decode(codes_BQT[:, :num_levels])
        waves[f"k={num_levels}"] = _wave(decoded_BCN, num_samples)
        bits = num_levels * math.log2(config.quantizer.codebook_size)
        rates[f"k={num_levels}"].append(bits * config.sample_rate_hz / config.hop / 1000)
    missing = -num_samples % config.hop
    latents_BTD, _ = codec.latents(torch.nn.functional.pad(wave_BCN, (0, missing)))
    waves["not quantised"] = _wave(codec.synthesise(latents_BTD), num_samples)
    return waves


def _wave(wave_BCN: Tensor, num_samples: int) -> Wave:
    return np.ascontiguousarray(wave_BCN[0, :, :num_samples].numpy())


def _summary(
    codec: Codec,
    distances: dict[str, list[Distances]],
    rates_kbit_s: dict[str, float],
    usage: list[dict[str, float]],
) -> dict[str, Any]:
    means = {name: mean_distances(found) for name, found in distances.items()}
    names = list(Distances.__dataclass_fields__)
    rows: list[list[report.Cell]] = [
        [name, rates_kbit_s.get(name), *(mean[one] for one in names)]
        for name, mean in means.items()
    ]
    checks = _checks(codec, distances, means, usage)
    shown = [u for u in usage if u["level"] < 4 or u["level"] % 8 == 7]
    tables = [
        report.table("Held-out clips", ["codec", "kbit/s", *names], rows),
        report.table(
            "Use of codes",
            ["level", "used", "entropy (bits)", "commonest"],
            [[int(u["level"]), u["used"], u["entropy_bits"], u["commonest"]] for u in shown],
        ),
        report.table(
            "What part F asks for",
            ["claim", "measured", "+- s.e.", "holds"],
            [[c["claim"], c["measured"], c["standard_error"], c["holds"]] for c in checks],
        ),
    ]
    return {
        "means": means,
        "kbit_s": rates_kbit_s,
        "usage": usage,
        "checks": checks,
        "tables": tables,
        "distances": {name: [asdict(one) for one in found] for name, found in distances.items()},
    }


def _checks(
    codec: Codec,
    distances: dict[str, list[Distances]],
    means: dict[str, dict[str, float]],
    usage: list[dict[str, float]],
) -> list[dict[str, Any]]:
    """Compare with the referee clip by clip, and check prefixes and codes."""
    best = f"k={min(LEVELS[-1], codec.config.quantizer.num_levels)}"
    checks: list[dict[str, Any]] = []
    if REFEREE in distances:
        for name, allowed in (
            ("mel80", 0.0),
            ("multi_stft", 0.0),
            ("si_sdr_db", -1.0),
            ("sdr_1_4k_db", -1.0),
        ):
            gaps = np.array(
                [
                    getattr(ours, name) - getattr(theirs, name)
                    for ours, theirs in zip(distances[best], distances[REFEREE], strict=True)
                ]
            )
            lower = name in LOWER_IS_BETTER
            checks.append(
                {
                    "claim": f"{name} at {best} minus {REFEREE} "
                    + ("below 0" if lower else f"above {allowed:g} dB"),
                    "measured": float(gaps.mean()),
                    "standard_error": float(gaps.std(ddof=min(1, gaps.size - 1)))
                    / math.sqrt(gaps.size),
                    "holds": bool(gaps.mean() < 0 if lower else gaps.mean() > allowed),
                }
            )
    least = min(u["used"] for u in usage)
    prefixes = [means[f"k={k}"] for k in LEVELS if f"k={k}" in means]
    checks.append(
        {
            "claim": f"every level uses over {100 * LEAST_CODE_USE:.0f} % of its codes (least)",
            "measured": least,
            "standard_error": None,
            "holds": least > LEAST_CODE_USE,
        }
    )
    for name in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        sign = 1 if name in LOWER_IS_BETTER else -1
        steps = [sign * (a[name] - b[name]) for a, b in itertools.pairwise(prefixes)]
        checks.append(
            {
                "claim": f"{name} improves with every doubling of levels (least step)",
                "measured": min(steps, default=0.0),
                "standard_error": None,
                "holds": all(step > 0 for step in steps),
            }
        )
    return checks


def _words(
    heard: dict[str, list[list[str]]], wanted: list[list[str]]
) -> dict[str, dict[str, float]]:
    found = {name: asdict(error_rate(phonemes, wanted)) for name, phonemes in heard.items()}
    found["original, shuffled lyrics"] = asdict(shuffled_error_rate(heard["original"], wanted))
    return found


def _words_table(per: dict[str, dict[str, float]]) -> dict[str, Any]:
    rows: list[list[report.Cell]] = [
        [name, one["per"], one["standard_error"]] for name, one in per.items()
    ]
    return report.table("Where the words are", ["heard in", "PER", "s.e."], rows)


def _plot(path: Path, result: dict[str, Any], on_message: report.OnMessage) -> None:
    """Draw quality over bitrate: ours by levels, Opus by rate."""
    rates = result["kbit_s"]
    panels = []
    for name in ("mel80", "multi_stft", "si_sdr_db", "sdr_1_4k_db"):
        lines = {
            label: sorted(
                (rates[one], mean[name])
                for one, mean in result["means"].items()
                if one in rates and one.startswith(start)
            )
            for label, start in (("khala", "k="), ("Opus, hard CBR", "opus-"))
        }
        series = {label: points for label, points in lines.items() if points}
        panels.append(plots.Panel(title=name, x_label="kbit/s", series=series))
    plots.save_curves(path, panels, on_message=on_message)
