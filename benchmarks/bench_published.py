"""What do the published program's defects cost a listener? Each is made with ``compat="published"``
and with the default, on the bundled model and on sound made from arithmetic.

    python benchmarks/bench_published.py
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from khala import Khala, SongRequest
from khala.backbone.free import fits_its_place, generate_free
from khala.codec import Codec
from khala.codec.crossfade import CHUNK_FRAMES, OVERLAP_FRAMES, decode_crossfaded
from khala.evals import report
from khala.infer.published import Plan, plan_song, published_mode
from khala.superres.complete import Sketch, complete_songs
from khala.synth.tiny import render_tiny_song
from khala.tokens.published import clean_published, published_minutes

STRIDE = CHUNK_FRAMES - OVERLAP_FRAMES
PAST = (1, 2, 3, 5, 8, 10, 15, 20, 30, 60, 240, 480)
"""Frames of a song behind the place where its last piece begins."""

LEAD = 64
"""Frames before that place that are decoded here: more than any codec hears."""

WORDS = "good morning sun above the river\n"
SAMPLES = {
    "English, typewriter": "It's a long way home - don't wait",
    "English, typeset": "It’s a long way home – don’t “wait”",
    "Russian": "солнце встаёт над рекой и поёт",
    "Greek, capitals": "Ο ΗΛΙΟΣ ΠΑΝΩ ΑΠΟ ΤΟ ΠΟΤΑΜΙ",
    "Chinese": "太阳升起，河水歌唱。",
}
GOLDENS = Path(__file__).parents[1] / "tests" / "goldens" / "A"
TRAPS = (
    ("fc1 bias once", "backbone, last position", "single_bias_hidden_last", "hidden_final"),
    ("fc1 bias once", "super-resolution, level 2", "single_bias_hidden_idx2", "hidden_idx2"),
    ("causal mask", "super-resolution, level 2", "causal_hidden_idx2", "hidden_idx2"),
)


def main() -> int:
    """Measure, print, and keep the result beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="songs of each comparison")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    console = Console(width=140)
    torch.set_num_threads(1)
    model = Khala.from_pretrained("nano")
    wave_CN = long_sound(seconds=40.0)
    codes_1QT = model.codec.encode(torch.from_numpy(wave_CN)[None])
    seeds = range(arguments.seeds)
    tables = [
        spoiled_ends(model.codec, codes_1QT),
        golden_pieces(),
        decoded_twice(),
        clipped(model.codec, wave_CN),
        dropped_tails(model.codec, wave_CN, arguments.seeds),
        free_sampling(model, seeds),
        padding(model, codes_1QT[0, :2, :64], seeds),
        cut_prompts(model),
        changed_text(),
        minutes(),
        traps(),
    ]
    result = {"eval": "published", **report.circumstances("published", {}), "tables": tables}
    result["command"] = f"python benchmarks/bench_published.py --seeds {arguments.seeds}"
    report.print_result(console, result)
    report.write_result(arguments.out / "published.json", result)
    return 0


def long_sound(seconds: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return demo songs from arithmetic, one after another, [2, N]."""
    parts: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    for index in itertools.count():
        parts.append(render_tiny_song(index, 5).mix.mix_CN.astype(np.float32))
        if sum(part.shape[1] for part in parts) >= seconds * 44_100:
            return np.concatenate(parts, axis=1)[:, : int(seconds * 44_100)]
    raise AssertionError


def snr_db(found: Tensor, wanted: Tensor) -> float:
    """Return how far the difference lies below the sound."""
    noise = (found - wanted).double().square().sum()
    return float(10 * torch.log10(wanted.double().square().sum() / noise.clamp_min(1e-30)))


def spoiled_ends(codec: Codec, codes_1QT: Tensor) -> dict[str, Any]:
    """Compare the last piece of songs of many lengths with the same song decoded whole."""
    rows: list[list[report.Cell]] = []
    hop = codec.config.hop
    assert codec.halo_frames < LEAD
    offsets = [16 * step for step in range(5)]
    for past in PAST:
        found: list[list[float]] = []
        for offset in offsets:
            end_1QT = codes_1QT[..., offset : offset + LEAD + past]
            whole = codec.decode(end_1QT, chunk_frames=None)[0]
            faded = decode_crossfaded(
                codec, end_1QT, chunk_frames=LEAD + OVERLAP_FRAMES, overlap_frames=OVERLAP_FRAMES
            )[0]
            ours = codec.decode(end_1QT, chunk_frames=LEAD)[0]
            piece, frame = slice(-past * hop, None), slice(-hop, None)
            found.append(
                [
                    snr_db(faded[:, piece], whole[:, piece]),
                    snr_db(faded[:, frame], whole[:, frame]),
                    snr_db(ours[:, piece], whole[:, piece]),
                ]
            )
        seconds = past * hop / codec.config.sample_rate_hz
        means = [statistics.fmean(column) for column in zip(*found, strict=True)]
        rows.append([STRIDE + past, round(seconds, 2), *means])
    columns = ["frames of the song", "last piece, s"]
    columns += ["published, dB", "published, last frame, dB", "default, dB"]
    title = "The last piece against decoding the whole (signal to difference, mean of 5 songs)"
    return report.table(title, columns, rows)


def golden_pieces() -> dict[str, Any]:
    """Read what the published codec's own code made of pieces and of the whole."""
    with np.load(GOLDENS / "codec.npz") as arrays:
        names = ("chunk_wave", "chunk_full_wave", "chunk_codes")
        pieces, whole, codes = (torch.from_numpy(arrays[name]) for name in names)
    step = whole.shape[1] // codes.shape[1]  # every 16th sample is kept
    frames = [
        snr_db(one, other)
        for one, other in zip(pieces.split(step, dim=1), whole.split(step, dim=1), strict=True)
    ]
    touched = sum(one < 60 for one in frames)
    rows: list[list[report.Cell]] = [[len(frames), snr_db(pieces, whole), min(frames), touched]]
    columns = ["frames", "all, dB", "worst frame, dB", "frames below 60 dB"]
    title = "The published codec's layers in small (golden set A: pieces of 16 frames, 4 shared)"
    return report.table(title, columns, rows)


def decoded_twice() -> dict[str, Any]:
    """Count the frames that the published pieces decode."""
    rows: list[list[report.Cell]] = []
    for num_frames in (1_292, 1_920, 3_876, 11_776):
        starts = range(0, num_frames, STRIDE)
        work = sum(min(start + CHUNK_FRAMES, num_frames) - start for start in starts)
        rows.append([num_frames, len(starts), work / num_frames])
    columns = ["frames of the song", "pieces", "frames decoded per frame"]
    return report.table("Work of the published pieces", columns, rows)


def clipped(codec: Codec, wave_CN: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    """Decode a recording that is as loud as a file can be."""
    loud = torch.from_numpy(wave_CN[:, : 20 * 44_100])[None]
    rows: list[list[report.Cell]] = []
    for name, gain in (("peak at full scale", 1.0), ("20 dB into a limiter", 10.0)):
        master = (loud / loud.abs().max() * gain).clamp(-1, 1)
        wave = codec.decode(codec.encode(master))
        peak = float(wave.abs().max())
        beyond = int((wave.abs() > 1).sum())
        rows.append([name, peak, beyond, 20 * float(np.log10(min(1.0, 0.99 / peak)))])
    columns = ["20 s of sound", "peak of the decoded", "samples clipped", "default turns down, dB"]
    return report.table("Full scale", columns, rows)


def dropped_tails(
    codec: Codec, wave_CN: np.ndarray[Any, np.dtype[np.float32]], count: int
) -> dict[str, Any]:
    """Encode sounds of drawn lengths both ways."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2_048, 5 * 2_048, count)
    lost: dict[bool, list[int]] = {False: [], True: []}
    for length in lengths:
        wave = torch.from_numpy(wave_CN[:, :length])[None]
        for pad, missing in lost.items():
            num_frames = codec.encode(wave, pad=pad).shape[2]
            missing.append(max(int(length) - num_frames * codec.config.hop, 0))
    rows: list[list[report.Cell]] = []
    for pad, name in ((False, "published"), (True, "default")):
        ms = [1_000 * one / codec.config.sample_rate_hz for one in lost[pad]]
        rows.append([name, count, sum(one > 0 for one in ms), statistics.fmean(ms), max(ms)])
    columns = ["encoded", "sounds", "cut", "mean cut, ms", "longest cut, ms"]
    return report.table("The end of a recording", columns, rows)


def plan(model: Khala, request: SongRequest) -> Plan:
    """Return what the published program makes of a request."""
    mode = published_mode("published")
    assert mode is not None
    return plan_song(
        request,
        published=mode,
        layout=model.backbone.config.layout,
        tokenizer=model.tokenizer,
        positions=(60_000, 60_000),
    )


def free_sampling(model: Khala, seeds: range) -> dict[str, Any]:
    """Sample freely for 30 s of song, or until an id is no code of the level whose turn it is."""
    lyrics = "[Verse]\n" + WORDS * 4
    request = SongRequest(prompt="female vocal, pop, piano, 100 bpm", lyrics=lyrics)
    prompt = plan(model, request).backbone_prompt
    most = 2 * int(30 * model.frame_rate_hz)
    layout = model.backbone.config.layout
    places: list[int] = []
    kinds = {"text or control": 0, "a code of the other level": 0}
    for seed in seeds:
        wrong: list[tuple[int, int]] = []

        def hear(place: int, token: int, wrong: list[tuple[int, int]] = wrong) -> None:
            if not fits_its_place(token, place, layout):
                wrong.append((place, token))

        def is_wrong(wrong: list[tuple[int, int]] = wrong) -> bool:
            return bool(wrong)

        generate_free(
            model.backbone, prompt, max_tokens=most, temperature=1.0, top_k=80, seed=seed,
            on_token=hear, should_stop=is_wrong,
        )  # fmt: skip
        if wrong:
            places.append(wrong[0][0])
            is_text = wrong[0][1] < layout.text_vocab_size
            kinds["text or control" if is_text else "a code of the other level"] += 1
    median = statistics.median(places) / 2 / model.frame_rate_hz if places else None
    rows: list[list[report.Cell]] = [[len(seeds), len(places), median, *kinds.values()]]
    columns = ["songs of 30 s", "with a wrong id", "first after, s (median)", *kinds]
    return report.table("Sampled from the whole vocabulary, bundled model", columns, rows)


def padding(model: Khala, codes_2T: Tensor, seeds: range) -> dict[str, Any]:
    """Complete songs with another length of padding, and beside a longer song."""
    prompt_S = torch.tensor(plan(model, SongRequest(prompt="pop", lyrics="la la")).superres_prompt)
    longer = Sketch(prompt_S=prompt_S, codes_QT=codes_2T.repeat(1, 2), seed=999)
    columns = ["what changes", "songs", "songs that change", "codes that change, %"]
    rows: list[list[report.Cell]] = []
    names = ("published: one more position of padding", "default: made beside a longer song")
    for name in names:
        shares = []
        for seed in seeds:
            one = Sketch(prompt_S=prompt_S, codes_QT=codes_2T, seed=seed)
            if name.startswith("published"):
                pair = [
                    complete_songs(model.superres, [one], levels=10, top_k=10, temperature=1.0,
                                   padded_positions=padded)[0]
                    for padded in (8_192, 8_193)
                ]  # fmt: skip
            else:
                pair = [
                    complete_songs(model.superres, songs, levels=10)[0]
                    for songs in ([one], [one, longer])
                ]
            shares.append(float((pair[0][2:] != pair[1][2:]).double().mean()))
        changed = sum(share > 0 for share in shares)
        rows.append([name, len(seeds), changed, 100 * statistics.fmean(shares)])
    return report.table("The same seed again (levels 2 to 9 of 3 s)", columns, rows)


def cut_prompts(model: Khala) -> dict[str, Any]:
    """Cut prompts of one byte a token as published."""
    rows: list[list[report.Cell]] = []
    end = model.backbone.config.layout.control.end_of_prompt
    for num in (1_000, 2_000, 3_000, 5_000):
        lyrics = (WORDS * 200)[:num].strip()
        made = plan(model, SongRequest(prompt="pop, piano", lyrics=lyrics))
        prompts = (made.backbone_prompt, made.superres_prompt)
        whole = len(lyrics.replace("\n", "")) + len("pop, piano")
        lost = [whole - sum(one < 256 for one in ids) for ids in prompts]
        told = ["yes" if end in ids else "no" for ids in prompts]
        fails = any(notice.code == "published_failure" for notice in made.notices)
        rows.append([num, *lost, *told, "fails" if fails else "goes on"])
    columns = ["characters of lyrics", "lost by the backbone", "lost by super-resolution"]
    columns += ["backbone knows the length", "super-resolution does", "published engine"]
    return report.table("Prompts cut in silence, one token a letter", columns, rows)


def changed_text() -> dict[str, Any]:
    """Send words of several languages through the published table."""
    rows: list[list[report.Cell]] = []
    for name, text in SAMPLES.items():
        cleaned = clean_published(text)
        pairs = zip(text, cleaned, strict=True)
        changed = [one for one, other in pairs if one != other]
        rows.append([name, len(text), len(changed), sum(one.isalpha() for one in changed)])
    columns = ["lyrics", "characters", "replaced", "of them letters"]
    return report.table("The published table of replacements", columns, rows)


def minutes() -> dict[str, Any]:
    """Round every duration from half a minute to ten minutes."""
    asked = range(30, 601)
    errors = [abs(60 * published_minutes(one) - one) for one in asked]
    columns = ["durations, s", "mean error, s", "largest error, s"]
    return report.table(
        "Whole minutes",
        columns,
        [[f"{asked[0]} to {asked[-1]}", statistics.fmean(errors), max(errors)]],
    )


def traps() -> dict[str, Any]:
    """Read from the golden files how far off a port is that falls into a trap."""
    with np.load(GOLDENS / "backbone.npz") as one, np.load(GOLDENS / "superres.npz") as other:
        arrays = {name: file[name] for file in (one, other) for name in file.files}
    rows: list[list[report.Cell]] = []
    for trap, where, wrong_name, right_name in TRAPS:
        wrong, right = (arrays[name].astype(np.float64) for name in (wrong_name, right_name))
        right = right[-1] if wrong.ndim == 1 else right
        difference = wrong - right
        ratio = float(np.linalg.norm(difference) / np.linalg.norm(right))
        rows.append([trap, where, float(np.abs(difference).max()), 100 * ratio])
    columns = ["trap", "hidden states", "largest difference", "difference, % of the norm"]
    return report.table("Traps of a port (golden set A, 2 layers; allowed .0001)", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
