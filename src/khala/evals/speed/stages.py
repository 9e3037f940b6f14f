"""Timing one stage: the reference and ours in turns, so that a busy machine slows both.

Shape letters: S stream positions, T frames, Q levels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from khala.backbone import Backbone
from khala.backbone.steps import LibrarySteps, Steps, has_compiled_steps, steps_of
from khala.backbone.writing import NOISE_FRAMES, Writer, Writing, WritingSettings
from khala.codec.crossfade import decode_crossfaded
from khala.codec.stream import DecodeStream
from khala.evals.speed.ceilings import Ceilings
from khala.evals.speed.reference import (
    PADDED,
    DecodeHabits,
    PassHabits,
    ReferenceBackbone,
    ReferenceSuperResolution,
)
from khala.evals.speed.sizes import Timed
from khala.nn import TrunkConfig
from khala.nn.inference import InferenceTrunk
from khala.superres.complete import Completion, Sketch
from khala.tokens import COARSE_LEVELS

__all__ = [
    "Arm",
    "Timing",
    "body_numbers",
    "codec_arms",
    "codes_of",
    "decode_arms",
    "decode_bytes",
    "in_turns",
    "kept_numbers",
    "our_pass",
    "our_token",
    "pass_arms",
    "pass_flops",
    "pass_seconds",
    "prompt_of",
]

Arm = Callable[[], float]
"""Does one piece of work and returns its seconds."""

FRAMES = 16
"""Frames that a reference decode arm writes each time; ours write as many as draws are made for."""

NUM_LEVELS_TIMED = 4
"""Levels whose passes are timed, from first to last; a song takes their mean 62 times."""

CHUNK, OVERLAP = 1920, 480
"""Frames that the published program decodes at once, and fades between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds of one arm."""

    median_s: float
    least_s: float
    most_s: float


def in_turns(arms: Mapping[str, Arm], *, runs: int) -> dict[str, Timing]:
    """Run every arm once without counting, and then all of them in turns."""
    for arm in arms.values():
        arm()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(runs):
        for name, arm in arms.items():
            seconds[name].append(arm())
    return {
        name: Timing(median_s=statistics.median(each), least_s=min(each), most_s=max(each))
        for name, each in seconds.items()
    }


def decode_arms(timed: Timed, contexts: tuple[int, ...], *, guided: bool) -> dict[str, Arm]:
    """Return arms that give the seconds of one token, as a mean over contexts.

    Args:
        timed: the models.
        contexts: tokens that were read before.
        guided: whether ours writes two streams, as the bundled model does. The reference has no
            guidance and always writes one.
    """
    habits = {
        "reference": DecodeHabits(),
        "one cache of full length": DecodeHabits(glues_cache=False),
        "and only scores that can be sampled": DecodeHabits(glues_cache=False, whole_head=False),
    }
    arms = {
        name: _mean(partial(_reference_token, timed, one), contexts) for name, one in habits.items()
    }
    for scale in (1.0, 2.0) if guided else (1.0,):
        for numbers, steps in _our_steps(timed.backbone).items():
            name = f"ours, {numbers}{', guided' if scale != 1.0 else ''}"
            writer = Writer(timed.backbone, steps)
            arms[name] = _mean(partial(our_token, timed, writer, scale), contexts)
    return arms


def _our_steps(backbone: Backbone) -> dict[str, Steps]:
    """Return the ways a backbone can read single tokens here, plainest first."""
    ways: dict[str, Steps] = {
        "plain": LibrarySteps(backbone),
        "int8": LibrarySteps(backbone, has_int8_steps=True),
    }
    if has_compiled_steps(backbone):
        ways["int8 compiled"] = steps_of(backbone, has_int8_steps=True)
    return ways


def decode_bytes(timed: Timed, num_read: float, *, guided: bool) -> dict[str, float]:
    """Return the bytes that a token of each of `decode_arms` moves, by the same names.

    Weights and what is kept of ``num_read`` tokens, as often as they are read or written. What
    operations cost to begin is not in it.
    """
    config = timed.backbone.config
    trunk = config.trunk
    body, kept = body_numbers(trunk), kept_numbers(trunk) * num_read
    whole, window = (rows * trunk.width for rows in (config.vocab_size, _num_scores(timed)))
    group = trunk.num_heads // trunk.num_kv_heads
    found = {
        # old keys and values are read and written, and written and read again for every head
        "reference": 4 * (body + whole + (2 + 2 * group) * kept),
        "one cache of full length": 4 * (body + whole + kept),
        "and only scores that can be sampled": 4 * (body + window + kept),
    }
    for streams in (1, 2) if guided else (1,):
        name = ", guided" if streams == 2 else ""
        found[f"ours, plain{name}"] = 4 * (body + window + streams * kept)
        found[f"ours, int8{name}"] = body + 4 * (window + streams * kept)
        of_stream = body + window + kept * (2 + 4 / trunk.head_width)
        found[f"ours, int8 compiled{name}"] = streams * of_stream
    return found


def body_numbers(trunk: TrunkConfig) -> int:
    """Return the numbers of a trunk's matrices."""
    queries = (2 * trunk.num_heads + 2 * trunk.num_kv_heads) * trunk.head_width
    return trunk.num_layers * trunk.width * (queries + 3 * trunk.ffn_width)


def kept_numbers(trunk: TrunkConfig) -> int:
    """Return the numbers of keys and values of a token."""
    return 2 * trunk.num_layers * trunk.num_kv_heads * trunk.head_width


def _num_scores(timed: Timed) -> int:
    return timed.backbone.config.layout.codebook_size + 1


def pass_arms(timed: Timed, *, num_prompt: int, num_frames: int) -> dict[str, Arm]:
    """Return arms that give the seconds of one pass, as a mean over levels."""
    codes_QT, prompt_S = codes_of(timed, num_frames), prompt_of(num_prompt)
    habits = {
        "reference, padded": PassHabits(),
        "reference": PassHabits(pads=False),
        "and a running sum": PassHabits(pads=False, embeds_again=False),
    }
    num_levels = timed.superres.config.layout.num_levels
    levels = tuple(
        round(COARSE_LEVELS + (num_levels - 1 - COARSE_LEVELS) * part / (NUM_LEVELS_TIMED - 1))
        for part in range(NUM_LEVELS_TIMED)
    )
    arms = {}
    for name, one in habits.items():
        reference = ReferenceSuperResolution(timed.superres, one)
        work = partial(_reference_pass, reference, prompt_S, codes_QT)
        arms[name] = _mean(work, levels[::3] if one.pads else levels)
    for name, dtype in (("ours, float32", None), ("ours, mixed", torch.bfloat16)):
        trunk = InferenceTrunk(timed.superres, dtype)
        arms[name] = _mean(partial(our_pass, timed, trunk, prompt_S, codes_QT), levels)
    return arms


def pass_seconds(
    timed: Timed, roof: Ceilings, *, num_prompt: int, num_frames: int
) -> dict[str, float]:
    """Return what a pass of each of `pass_arms` takes at the rate of large matrix products."""
    num = num_prompt + num_frames
    wide, narrow = (rate * 1e12 for rate in (roof.float32_tflop_s, roof.bfloat16_tflop_s))
    exact = pass_flops(timed, num, num_frames)
    plain = ("reference", "and a running sum", "ours, float32")
    return {
        "reference, padded": pass_flops(timed, PADDED, num_frames) / wide,
        **dict.fromkeys(plain, exact / wide),
        "ours, mixed": exact / max(wide, narrow),
    }


def pass_flops(timed: Timed, num_rows: int, num_frames: int) -> float:
    """Return the operations of a pass over so many positions, frames among them."""
    config = timed.superres.config
    trunk = config.trunk
    attention = 4 * num_rows**2 * trunk.num_heads * trunk.head_width * trunk.num_layers
    scores = 2 * num_frames * config.layout.codebook_size * trunk.width
    return 2.0 * body_numbers(trunk) * num_rows + attention + scores


def codec_arms(timed: Timed, *, num_frames: int) -> dict[str, Arm]:
    """Return arms that give the seconds of a whole song's sound."""
    codes_1QT = codes_of(timed, num_frames)[None]
    codec = timed.codec

    def streamed() -> None:
        stream = DecodeStream(codec)
        for codes in torch.split(codes_1QT[0], 86, dim=1):
            stream.add(codes)
            stream.read()
        stream.read(end=True)

    return {
        "reference": lambda: _seconds(
            lambda: decode_crossfaded(codec, codes_1QT, chunk_frames=CHUNK, overlap_frames=OVERLAP)
        ),
        "ours, all at once": lambda: _seconds(lambda: codec.decode(codes_1QT, chunk_frames=None)),
        "ours": lambda: _seconds(lambda: codec.decode(codes_1QT)),
        "ours, heard every 4 s": lambda: _seconds(streamed),
    }


def _mean(work: Callable[[int], float], places: tuple[int, ...]) -> Arm:
    return lambda: statistics.fmean(work(place) for place in places)


def _seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    with torch.inference_mode():
        work()
    return time.perf_counter() - started_s


def _reference_token(timed: Timed, habits: DecodeHabits, num_read: int) -> float:
    reference = ReferenceBackbone(timed.backbone, habits)
    num_new = FRAMES * COARSE_LEVELS
    logits_V = reference.begin(prompt_of(num_read), num_new=num_new)
    started_s = time.perf_counter()
    for _ in range(num_new):
        token = reference.choose(logits_V, top_k=50, temperature=1.0)
        logits_V = reference.read(torch.tensor([token]))
    return (time.perf_counter() - started_s) / num_new


def our_token(timed: Timed, writer: Writer, scale: float, num_read: int) -> float:
    """Return the seconds of a token after so many others, with this strength of guidance."""
    settings = WritingSettings(
        num_frames_min=NOISE_FRAMES + 1,
        num_frames_max=NOISE_FRAMES + 1,  # after the last frame nothing would be read
        temperature=1.0,
        top_k=80,
        seed=1,
        guidance_scale=scale,
    )
    prompt_S = prompt_of(num_read)
    song = Writing(timed.backbone, prompt_S, settings, bare_S=prompt_S)
    writer.begin(song)
    started_s = time.perf_counter()
    for _ in range(NOISE_FRAMES):
        writer.write_frame([song])
    return (time.perf_counter() - started_s) / (NOISE_FRAMES * COARSE_LEVELS)


def _reference_pass(
    reference: ReferenceSuperResolution, prompt_S: Tensor, codes_QT: Tensor, level: int
) -> float:
    return _seconds(lambda: reference.add_level(prompt_S, codes_QT[:level], top_k=10))


def our_pass(
    timed: Timed, trunk: InferenceTrunk, prompt_S: Tensor, codes_QT: Tensor, level: int
) -> float:
    """Return the seconds of the pass that writes a level."""
    config = timed.superres.config
    song = Completion(
        timed.superres,
        Sketch(prompt_S=prompt_S, codes_QT=codes_QT[:level], seed=1),
        trunk=trunk,
        top_k=config.sampling_top_k,
        temperature=config.sampling_temperature,
    )
    return _seconds(song.add_level)


def prompt_of(num: int) -> Tensor:
    """Return ids that every size reads as text."""
    return torch.randint(0, 250, (num,), generator=torch.Generator().manual_seed(0))


def codes_of(timed: Timed, num_frames: int) -> Tensor:
    """Return codes_QT of all levels, at random."""
    config = timed.codec.config.quantizer
    shape = (config.num_levels, num_frames)
    return torch.randint(0, config.codebook_size, shape, generator=torch.Generator().manual_seed(0))
