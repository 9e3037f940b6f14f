"""Can a model be moved to a style that it never heard, and what does it forget? New songs of the
demo generator are slowed like a tape, five semitones down, and most of them learned: by all weights
(nano-tune) and by an adapter (nano-lora). Measured on other songs, slowed and as they were.

    python benchmarks/bench_tuning.py --work runs/tuning
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.nn import functional as F

from khala import Khala
from khala.adapter import load_adapter, merge_adapters
from khala.audio import resample, write_audio
from khala.backbone import Backbone
from khala.checkpoint import digest, resolve_part
from khala.corpus import CodesExample, open_codes
from khala.corpus.tokenise import tokenise_corpus
from khala.evals import report
from khala.evals.distances import SAMPLE_RATE_HZ, Wave
from khala.evals.fine_levels import fine_logits
from khala.evals.language import token_nats
from khala.evals.listening import mel_frames, tempo
from khala.evals.prompts import request_of
from khala.superres import SuperResolution
from khala.synth import Studio, render_song
from khala.synth.form import plan_song
from khala.synth.voicestore import default_folder, ensure_banks
from khala.train.hooks import read_log
from khala.train.run import train_backbone, train_superres

SLOW_HZ = 33_075
"""Sound of 44,100 Hz taken for this: three quarters of the speed, five semitones down."""

TAG = "slowed"
LONGEST_S = 42.0
FORMS = ("slowed", "ordinary")
STRENGTHS = (0.0, 0.5, 1.0)
ITSELF, ALL = "the model itself", "all weights"
LEVELS = (2, 4, 8, 16, 32)
FIRST_HZ, LAST_HZ = 50.0, 16_000.0
PARTS = {"backbone": (Backbone, train_backbone), "superres": (SuperResolution, train_superres)}
RECIPES = ("nano-tune", "nano-lora")

Table = tuple[str, list[str], list[list[report.Cell]]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was asked for, and where things are."""

    work: Path
    model: Path
    songs: int
    held_out: int
    steps: int
    fine_steps: int
    sketches: int
    seed: int
    out: Path

    def codes(self, name: str) -> Path:
        """Return where the codes of a set of songs are."""
        return self.work / "codes" / name

    def run(self, part: str, recipe: str) -> Path:
        """Return the folder of a run."""
        return self.work / "runs" / f"{part}-{recipe}"


def main() -> int:
    """Make songs, train, measure, print, and keep the result beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="songs, codes and runs; kept")
    parser.add_argument("--model", type=Path, default=Path("nano"))
    parser.add_argument("--songs", type=int, default=32, help="to learn from")
    parser.add_argument("--held-out", type=int, default=16, help="to measure on, in both forms")
    parser.add_argument("--steps", type=int, default=150, help="of the backbone")
    parser.add_argument("--fine-steps", type=int, default=150, help="of super-resolution")
    parser.add_argument("--sketches", type=int, default=8, help="to write and listen to")
    parser.add_argument("--seed", type=int, default=78, help="of songs that no model learned from")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    bench = Bench(**vars(parser.parse_args()))
    console = Console()
    prepare(bench, console)
    for part, recipe in itertools.product(PARTS, RECIPES):
        learn(bench, part, recipe, console)
    result = measure(bench, console)
    report.print_result(console, result)
    report.write_result(bench.out / "tuning.json", result)
    return 0


def prepare(bench: Bench, console: Console) -> None:
    """Render the songs as a user's folders of sound, and encode them; what is there is kept."""
    folders = {name: bench.work / "songs" / name for name in ("learned", *FORMS)}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    ensure_banks(default_folder(), workers=1)
    studio = Studio(banks=default_folder())
    chosen = itertools.islice(short_songs(bench.seed), bench.songs + bench.held_out)
    for place, index in enumerate(chosen):
        names = ("learned",) if place < bench.songs else FORMS
        if all((folders[name] / f"{index:05d}.json").is_file() for name in names):
            continue
        song = render_song(index, bench.seed, studio=studio)
        for name in names:
            put(folders[name] / f"{index:05d}", song.mix.mix_CN, song.truth, name != "ordinary")
        console.print(f"song {place + 1} of {bench.songs + bench.held_out}")
    for name, folder in folders.items():
        tokenise_corpus(folder, resolve_part(bench.model, "codec"), bench.codes(name))


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
        wave_CN = resample(wave_CN, SLOW_HZ, SAMPLE_RATE_HZ)
        wave_CN = wave_CN * np.float32(0.99 / max(0.99, float(np.abs(wave_CN).max())))
        # Tempo and key are not what they were.
        tags = [TAG, *(tag for tag in tags if not tag.endswith((" bpm", " major", " minor")))]
    write_audio(path.with_suffix(".flac"), wave_CN, sample_rate_hz=SAMPLE_RATE_HZ)
    known = {name: truth[name] for name in ("lyrics", "instrumental")}
    path.with_suffix(".json").write_text(json.dumps({"tags": tags, **known}))


def learn(bench: Bench, part: str, recipe: str, console: Console) -> None:
    """Train one part in one way; a finished run is not trained again."""
    steps = bench.steps if part == "backbone" else bench.fine_steps
    PARTS[part][1](
        bench.codes("learned"),
        bench.run(part, recipe),
        recipe,
        [f"train.num_steps={steps}", "train.validate_every=0"],
        init=bench.model,
        on_message=console.print,
    )


def arms(bench: Bench, part: str) -> dict[str, Callable[[], Any]]:
    """Return every model of a part that is compared, by name; each is read anew."""
    cls = PARTS[part][0]

    def changed(strength: float) -> Any:
        model = cls.from_pretrained(bench.model)
        adapter = load_adapter(f"{bench.run(part, 'nano-lora')}:{strength}")
        merge_adapters([adapter], {part: model}, {part: digest(resolve_part(bench.model, part))})
        return model

    return {
        ITSELF: lambda: cls.from_pretrained(bench.model),
        **{
            f"adapter, strength {strength:g}": (lambda s=strength: changed(s))
            for strength in STRENGTHS
        },
        ALL: lambda: cls.from_pretrained(bench.run(part, "nano-tune") / "model"),
    }


@torch.inference_mode()
def measure(bench: Bench, console: Console) -> dict[str, Any]:
    """Measure every arm on songs that it did not learn from, and listen to what it writes."""
    songs = {form: list(open_codes(bench.codes(form))) for form in FORMS}
    asked = songs["slowed"][: bench.sketches]
    whole = Khala.from_pretrained(bench.model)
    costs: dict[str, dict[str, dict[str, list[float]]]] = {}
    heard = {
        f"originals, {form}": [listen(whole, one) for one in songs[form][: bench.sketches]]
        for form in FORMS
    }
    for part in PARTS:
        costs[part] = {}
        for name, make in arms(bench, part).items():
            changed = replace(whole, **{part: make().eval()})
            costs[part][name] = {
                form: [nats(changed, part, one) for one in examples]
                for form, examples in songs.items()
            }
            means = {form: round(float(np.mean(costs[part][name][form])), 3) for form in FORMS}
            console.print(f"{part}, {name}: {means} nats")
            if part == "backbone" and name != f"adapter, strength {STRENGTHS[0]:g}":
                heard[name] = [listen(changed, written(changed, *one)) for one in enumerate(asked)]
    return {
        "eval": "tuning",
        **report.circumstances("tuning", {}),
        "command": f"python benchmarks/bench_tuning.py --work {bench.work.name} "
        f"--model {bench.model.name} --songs {bench.songs} --held-out {bench.held_out} "
        f"--steps {bench.steps} --fine-steps {bench.fine_steps} --sketches {bench.sketches} "
        f"--seed {bench.seed}",
        "nats": costs,
        "sketches": heard,
        "tables": [
            *(report.table(*cost_table(part, found)) for part, found in costs.items()),
            report.table(*sketch_table(heard)),
            report.table(*run_table(bench)),
        ],
    }


def nats(whole: Khala, part: str, example: CodesExample) -> float:
    """Return the mean cost of a song's coarse codes, or of some of its fine levels."""
    if part == "backbone":
        return float(token_nats(whole.backbone, whole.tokenizer, example).mean())
    prompt = whole.prompt(request_of(example))
    codes_QT = example.codes_QT.astype(np.int64)
    each = [
        F.cross_entropy(
            fine_logits(whole.superres, prompt, codes_QT, level), torch.from_numpy(codes_QT[level])
        )
        for level in LEVELS
    ]
    return float(torch.stack(each).mean())


def written(whole: Khala, number: int, example: CodesExample) -> CodesExample:
    """Write the sketch that a song's tags and words ask for."""
    song = whole.generate(replace(request_of(example, seed=number), levels=2))
    return replace(example, codes_QT=song.codes_QT, duration_s=song.duration_s)


def listen(whole: Khala, example: CodesExample) -> dict[str, float]:
    """Decode two levels of a song; return its tempo and the middle of its spectrum."""
    codes_1QT = torch.from_numpy(example.codes_QT[None, :2].astype(np.int64))
    wave_CN = whole.codec.decode(codes_1QT)[0].numpy()
    power_F = np.abs(np.fft.rfft(wave_CN.mean(axis=0))) ** 2
    hz_F = np.fft.rfftfreq(wave_CN.shape[1], 1 / SAMPLE_RATE_HZ)
    power_F = np.where((hz_F >= FIRST_HZ) & (hz_F <= LAST_HZ), power_F, 0.0)
    octaves_F = np.log2(np.maximum(hz_F, FIRST_HZ))
    middle_hz = 2 ** float((power_F * octaves_F).sum() / power_F.sum())
    return {"bpm": tempo(mel_frames(wave_CN))[0], "middle_hz": middle_hz}


def cost_table(part: str, costs: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Return costs, and their paired differences from the model itself with standard errors."""
    rows: list[list[report.Cell]] = []
    for name, found in costs.items():
        row: list[report.Cell] = [name]
        for form, values in found.items():
            change = np.array(values) - np.array(costs[ITSELF][form])
            error = float(change.std(ddof=1) / len(change) ** 0.5)
            row += [float(np.mean(values)), float(change.mean()), error]
        rows.append(row)
    what = "levels 0 and 1" if part == "backbone" else f"levels {', '.join(map(str, LEVELS))}"
    title = f"{part}, nats per code of {what}: {len(costs[ITSELF][FORMS[0]])} songs not learned"
    columns = ["", *itertools.chain(*([form, "change", "s.e."] for form in FORMS))]
    return title, columns, rows


def sketch_table(heard: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    """Return the means of what was heard, and their errors on the scale they are heard on."""
    rows: list[list[report.Cell]] = []
    for name, songs in heard.items():
        row: list[report.Cell] = [name, len(songs)]
        for key in ("bpm", "middle_hz"):
            octaves_N = np.log2([song[key] for song in songs])
            error = float(octaves_N.std(ddof=1) / len(octaves_N) ** 0.5)
            row += [float(2 ** octaves_N.mean()), 12 * error]
        rows.append(row)
    error = "s.e., semitones"
    columns = ["two levels", "songs", "tempo, bpm", error, "spectral centre, Hz", error]
    return "Sketches for the prompts of slowed songs", columns, rows


def run_table(bench: Bench) -> Table:
    """Return what each training took and left."""
    rows: list[list[report.Cell]] = []
    for part, recipe in itertools.product(PARTS, RECIPES):
        folder = bench.run(part, recipe)
        last = [line for line in read_log(folder) if "loss" in line][-1]
        made = [path for name in ("model", "adapter") for path in (folder / name).rglob("*.saf*")]
        size = sum(path.stat().st_size for path in made)
        row = [f"{part}, {recipe}", last["step"], last["seconds"] / 60, size / 1e6]
        rows.append([*row, last["num_items"] / last["seconds"]])
    columns = ["run", "steps", "minutes", "MB of weights", "positions a second"]
    return "Training", columns, rows


if __name__ == "__main__":
    sys.exit(main())
