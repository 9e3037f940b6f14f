"""Can a model be moved to a style that it never heard, and what does it forget? New songs of the
demo generator are slowed like a tape, five semitones down, and half of them learned: by all weights
(nano-tune) and by an adapter (nano-lora). Measured on other songs, slowed and as they were.

    python benchmarks/bench_tuning.py --work runs/tuning
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from rich.console import Console

from khala import Khala
from khala.adapter import load_adapter, merge_adapters
from khala.audio import write_audio
from khala.backbone import Backbone
from khala.checkpoint import digest, resolve_part
from khala.corpus import CodesExample, open_codes
from khala.corpus.tokenise import tokenise_corpus
from khala.evals import report
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.language import load_tokenizer, token_nats
from khala.evals.listening import mel_frames, tempo
from khala.evals.prompts import request_of
from khala.synth import Studio, render_song
from khala.synth.form import plan_song
from khala.synth.voicestore import default_folder, ensure_banks
from khala.train.hooks import read_log
from khala.train.run import train_backbone

SPEED = 0.75
"""2 ** (-5/12): five semitones down."""

TAG = "slowed"
LONGEST_S = 42.0
STRENGTHS = (0.0, 0.5, 1.0)
FIRST_HZ, LAST_HZ = 50.0, 16_000.0


def main() -> int:
    """Make songs, train, measure, print, and keep the result beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="songs, codes and runs; kept")
    parser.add_argument("--model", type=Path, default=Path("nano"))
    parser.add_argument("--songs", type=int, default=32, help="to learn from")
    parser.add_argument("--held-out", type=int, default=16, help="to measure on, in both forms")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each training")
    parser.add_argument("--sketches", type=int, default=8, help="to write and listen to")
    parser.add_argument("--seed", type=int, default=78, help="of songs that no model learned from")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    console = Console()
    codes = prepare(arguments, console)
    runs = learn(arguments, codes["learned"], console)
    result = measure(arguments, codes, runs, console)
    report.print_result(console, result)
    report.write_result(arguments.out / "tuning.json", result)
    return 0


def prepare(arguments: argparse.Namespace, console: Console) -> dict[str, Path]:
    """Render the songs as a user's folders of sound, and encode them; what is there is kept."""
    folders = {name: arguments.work / "songs" / name for name in ("learned", "slowed", "ordinary")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    ensure_banks(default_folder(), workers=1)
    studio = Studio(banks=default_folder())
    chosen = itertools.islice(short_songs(arguments.seed), arguments.songs + arguments.held_out)
    for place, index in enumerate(chosen):
        is_learned = place < arguments.songs
        names = ("learned",) if is_learned else ("slowed", "ordinary")
        if all((folders[name] / f"{index:05d}.json").is_file() for name in names):
            continue
        song = render_song(index, arguments.seed, studio=studio)
        for name in names:
            put(folders[name] / f"{index:05d}", song.mix.mix_CN, song.truth, name != "ordinary")
        console.print(f"song {place + 1} of {arguments.songs + arguments.held_out}")
    codes = {name: arguments.work / "codes" / name for name in folders}
    for name, folder in folders.items():
        tokenise_corpus(folder, resolve_part(arguments.model, "codec"), codes[name])
    return codes


def short_songs(seed: int) -> Iterator[int]:
    """Give the indexes of songs by known voices that stay short when they are slowed."""
    for index in itertools.count():
        plan = plan_song(index, seed)
        if plan.split in ("train", "test") and plan.duration_s <= LONGEST_S:
            yield index


def put(path: Path, wave_CN: Wave, truth: Mapping[str, Any], is_slowed: bool) -> None:
    """Write a song with its words and tags, as the user of another generator would have them."""
    tags = list(truth["tags"])
    if is_slowed:
        slow_NC = soxr.resample(wave_CN.T, SPEED * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
        wave_CN = slow_NC.T * np.float32(0.99 / max(0.99, float(np.abs(slow_NC).max())))
        # Tempo and key are not what they were.
        tags = [TAG, *(tag for tag in tags if not tag.endswith((" bpm", " major", " minor")))]
    write_audio(path.with_suffix(".flac"), wave_CN, sample_rate_hz=SAMPLE_RATE_HZ)
    known = {
        "tags": tags,
        "lyrics": truth["lyrics"],
        "instrumental": truth["instrumental"],
        "language": truth.get("language", "en"),
    }
    path.with_suffix(".json").write_text(json.dumps(known))


def learn(arguments: argparse.Namespace, codes: Path, console: Console) -> dict[str, Path]:
    """Train both ways for the same time; a finished run is not trained again."""
    return {
        recipe: train_backbone(
            codes,
            arguments.work / "runs" / recipe,
            recipe,
            ["train.validate_every=0"],
            minutes=arguments.minutes,
            init=arguments.model,
            on_message=console.print,
        )
        for recipe in ("nano-tune", "nano-lora")
    }


def arms(model: Path, runs: Mapping[str, Path]) -> dict[str, Callable[[], Backbone]]:
    """Return every backbone that is compared, by name; each is made anew, on its own."""

    def with_adapter(strength: float) -> Backbone:
        backbone, part = Backbone.from_pretrained(model), resolve_part(model, "backbone")
        adapter = load_adapter(f"{runs['nano-lora']}:{strength}")
        merge_adapters([adapter], {"backbone": backbone}, {"backbone": digest(part)})
        return backbone

    return {
        "the model itself": lambda: Backbone.from_pretrained(model),
        **{
            f"adapter, strength {strength:g}": (lambda s=strength: with_adapter(s))
            for strength in STRENGTHS
        },
        "all weights": lambda: Backbone.from_pretrained(runs["nano-tune"]),
    }


def measure(
    arguments: argparse.Namespace, codes: Mapping[str, Path], runs: Mapping[str, Path],
    console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Measure every arm on songs that it did not learn from, and listen to what it writes."""
    tokenizer = load_tokenizer(arguments.model)
    songs = {name: list(open_codes(codes[name])) for name in ("slowed", "ordinary")}
    pipeline = Khala.from_pretrained(arguments.model)
    costs: dict[str, dict[str, list[float]]] = {}
    heard: dict[str, list[dict[str, float]]] = {}
    for name in songs:
        heard[f"originals, {name}"] = [
            listen(pipeline, example) for example in songs[name][: arguments.sketches]
        ]
    for name, make in arms(arguments.model, runs).items():
        backbone = make().eval()
        costs[name] = {
            form: [float(token_nats(backbone, tokenizer, one).mean()) for one in examples]
            for form, examples in songs.items()
        }
        console.print(f"{name}: {np.mean(costs[name]['slowed']):.3f} nats a token of slowed songs")
        changed = replace(pipeline, backbone=backbone)
        heard[name] = [
            listen(changed, write(changed, example, number))
            for number, example in enumerate(songs["slowed"][: arguments.sketches])
        ]
    return {
        "eval": "tuning",
        **report.circumstances("tuning", {}),
        "command": f"python benchmarks/bench_tuning.py --work {arguments.work.name} "
        f"--model {arguments.model.name} --songs {arguments.songs} "
        f"--held-out {arguments.held_out} --minutes {arguments.minutes:g} "
        f"--sketches {arguments.sketches} --seed {arguments.seed}",
        "nats": costs,
        "sketches": heard,
        "tables": [
            report.table(*cost_table(costs)),
            report.table(*sketch_table(heard)),
            report.table(*run_table(runs)),
        ],
    }


def write(pipeline: Khala, example: CodesExample, number: int) -> CodesExample:
    """Write the sketch that a song's tags and words ask for."""
    request = replace(request_of(example, seed=number), levels=2)
    song = pipeline.generate(request)
    return replace(example, codes_QT=song.codes_QT, duration_s=song.duration_s)


def listen(pipeline: Khala, example: CodesExample) -> dict[str, float]:
    """Decode two levels of a song; return its tempo and the middle of its spectrum."""
    import torch

    codes_1QT = torch.from_numpy(example.codes_QT[None, :2].astype(np.int64))
    wave_CN = pipeline.codec.decode(codes_1QT)[0].numpy()
    power_F = np.abs(np.fft.rfft(wave_CN.mean(axis=0))) ** 2
    hz_F = np.fft.rfftfreq(wave_CN.shape[1], 1 / SAMPLE_RATE_HZ)
    octaves_F = np.log2(np.maximum(hz_F, FIRST_HZ))
    power_F = np.where((hz_F >= FIRST_HZ) & (hz_F <= LAST_HZ), power_F, 0.0)
    middle = 2 ** float((power_F * octaves_F).sum() / power_F.sum())
    return {"bpm": tempo(mel_frames(wave_CN))[0], "middle_hz": middle}


def cost_table(
    costs: Mapping[str, Mapping[str, Sequence[float]]],
) -> tuple[str, list[str], list[list[report.Cell]]]:
    """Return costs, and their paired differences from the model itself with standard errors."""
    base = costs["the model itself"]
    rows: list[list[report.Cell]] = []
    for name, found in costs.items():
        row: list[report.Cell] = [name]
        for form, values in found.items():
            change = np.array(values) - np.array(base[form])
            row += [
                float(np.mean(values)),
                float(change.mean()),
                float(change.std(ddof=1) / len(change) ** 0.5),
            ]
        rows.append(row)
    number = len(base["slowed"])
    columns = ["nats per token", "slowed", "change", "s.e.", "ordinary", "change", "s.e."]
    return f"{number} songs never learned from, slowed and as they were", columns, rows


def sketch_table(
    heard: Mapping[str, Sequence[Mapping[str, float]]],
) -> tuple[str, list[str], list[list[report.Cell]]]:
    """Return the mean of what was heard, in octaves for what is heard so."""
    rows: list[list[report.Cell]] = []
    for name, songs in heard.items():
        row: list[report.Cell] = [name, len(songs)]
        for key in ("bpm", "middle_hz"):
            octaves_N = np.log2([song[key] for song in songs])
            error = float(octaves_N.std(ddof=1) / len(octaves_N) ** 0.5)
            row += [float(2 ** octaves_N.mean()), 12 * error]
        rows.append(row)
    columns = ["two levels", "songs", "tempo, bpm", "s.e., semitones", "spectral centre, Hz",
               "s.e., semitones"]  # fmt: skip
    return "Sketches for the slowed songs' prompts", columns, rows


def run_table(runs: Mapping[str, Path]) -> tuple[str, list[str], list[list[report.Cell]]]:
    """Return what each way of training took and left."""
    rows: list[list[report.Cell]] = []
    for recipe, folder in runs.items():
        last = [line for line in read_log(folder.parent) if "loss" in line][-1]
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        rows.append([recipe, last["step"], last["seconds"] / 60, last["loss"], size / 1e6])
    columns = ["recipe", "steps", "minutes", "last loss", "MB on disk"]
    return "Training", columns, rows


if __name__ == "__main__":
    sys.exit(main())
