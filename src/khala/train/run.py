"""Train one of the three models from the command line's words.

Each function starts a run, or goes on with the one in ``run_dir``, and returns the folder of the
exported model: ``backbone/`` (or ``superres/``, ``codec/``) and ``tokenizer.json``; or, where only
a change of a model was trained, of the adapter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from khala import recipes
from khala.backbone import Backbone, BackboneConfig
from khala.checkpoint import (
    digest,
    kind_of,
    load_config,
    resolve_model,
    resolve_part,
    sha256_file,
)
from khala.codec import Codec
from khala.corpus import CodesDataset, Corpus, open_codes, open_corpus
from khala.errors import ConfigError
from khala.superres import SuperResConfig, SuperResolution
from khala.tokens import TextTokenizer
from khala.train.execute import Order, Say, execute
from khala.train.standing import Show
from khala.train.tasks.backbone import BackboneRun, BackboneTask
from khala.train.tasks.codec import CodecRun, CodecTask
from khala.train.tasks.superres import SuperResRun, SuperResTask

__all__ = ["train_backbone", "train_codec", "train_superres"]

BACKBONE_RECIPES: dict[str, Callable[[], BackboneRun]] = {
    "debug": recipes.backbone_debug,
    "nano-short": recipes.backbone_nano_short,
    "nano": recipes.backbone_nano,
    "full": recipes.backbone_full,
}
BACKBONE_TUNING: dict[str, Callable[[BackboneConfig], BackboneRun]] = {
    "nano-tune": recipes.backbone_nano_tune,
    "nano-lora": recipes.backbone_nano_lora,
}
CODEC_RECIPES: dict[str, Callable[[], CodecRun]] = {
    "debug": recipes.codec_debug,
    "conv-debug": recipes.codec_conv_debug,
    "nano": recipes.codec_nano,
    "nano-decoder": recipes.codec_nano_decoder,
    "full": recipes.codec_full,
}
SUPERRES_RECIPES: dict[str, Callable[[], SuperResRun]] = {
    "debug": recipes.superres_debug,
    "nano": recipes.superres_nano,
    "full": recipes.superres_full,
}
SUPERRES_TUNING: dict[str, Callable[[SuperResConfig], SuperResRun]] = {
    "nano-tune": recipes.superres_nano_tune,
    "nano-lora": recipes.superres_nano_lora,
}
C = TypeVar("C")
R = TypeVar("R")


def train_codec(
    corpus_dir: Path,
    run_dir: Path,
    recipe: str = "nano",
    overrides: Sequence[str] = (),
    *,
    minutes: float | None = None,
    device: str = "cpu",
    init: Path | None = None,
    drawn: Path | None = None,
    on_message: Say = lambda _: None,
    on_step: Show | None = None,
) -> Path:
    """Train a codec on a corpus of songs, with vocal stems if it is guided.

    Args:
        corpus_dir: written by ``khala synth``.
        run_dir: config, log, checkpoints and the model go here; a run begun here goes on.
        recipe: "nano", or "nano-decoder", which goes on from ``init``; "full" has the published
            sizes; "debug" and, of the published shape, "conv-debug" take seconds.
        overrides: ``key=value``, such as ``train.lr=1e-3``.
        minutes: choose the number of steps by the speed measured here.
        device: "cpu" or "cuda".
        init: a codec of the same shape to go on from.
        drawn: written by ``khala redraw`` from codes of ``init``.
        on_message: takes lines for the reader.
        on_step: takes where the run is after every step, instead of lines of losses.

    Raises:
        The errors of `train_backbone`; CorpusError too when stems are missing.
    """
    corpus = open_corpus(corpus_dir)
    inputs = {"corpus": _corpus_digest(Path(corpus_dir), corpus)}
    if init is not None:
        inputs["init"] = digest(resolve_part(init, "codec"))

    redrawn = None
    if drawn is not None:
        redrawn = open_codes(drawn)
        inputs["drawn"] = redrawn.digest

    def build(run: CodecRun) -> CodecTask:
        start = None if init is None else Codec.from_pretrained(init)
        return CodecTask(
            run.task,
            corpus,
            seed=run.train.seed,
            num_parts=run.train.num_parts,
            init=start,
            drawn=redrawn,
            train=run.train,
        )

    order = Order(
        run_dir=Path(run_dir), recipe=recipe, overrides=overrides, minutes=minutes, device=device
    )
    return execute(
        "codec", order, CODEC_RECIPES, build, inputs=inputs, say=on_message, show=on_step
    )


def train_backbone(
    codes_dir: Path,
    run_dir: Path,
    recipe: str = "nano",
    overrides: Sequence[str] = (),
    *,
    minutes: float | None = None,
    device: str = "cpu",
    init: Path | None = None,
    codec: Path | None = None,
    tokenizer: Path | None = None,
    on_message: Say = lambda _: None,
    on_step: Show | None = None,
) -> Path:
    """Train a backbone on prepared codes.

    Args:
        codes_dir: written by ``khala prepare``.
        run_dir: config, log, checkpoints and the model go here; a run begun here goes on.
        recipe: "debug", "nano-short" or "nano"; "nano-tune" and "nano-lora" take the shape of
            ``init`` and go on from it.
        overrides: ``key=value``, such as ``train.lr=1e-3``.
        minutes: choose the number of steps by the speed measured here.
        device: "cpu" or "cuda".
        init: a backbone of the same shape to start from, as after a stage of short songs: "nano"
            or a folder.
        codec: start the tables of the coarse levels from this codec's vectors; not with ``init``.
        tokenizer: a tokenizer.json for a model that starts from nothing; None: bytes.
        on_message: takes lines for the reader.
        on_step: takes where the run is after every step, instead of lines of losses.

    Raises:
        ConfigError: unknown recipe or setting, no such device, the folder is another run's, or
            the codec is not the codes'.
        CorpusError: the codes are unfinished or damaged.
        CheckpointError: every checkpoint of the run is damaged, or ``init`` is.
        Cancelled: SIGINT or SIGTERM; the run can be gone on with.
    """
    codes = open_codes(codes_dir)
    inputs = {"codes": codes.digest}
    part = None if init is None else resolve_part(init, "backbone")
    shape = None if part is None else load_config(part, "backbone", BackboneConfig)
    known = BACKBONE_RECIPES | _tuning(BACKBONE_TUNING, shape, recipe)
    if init is not None and part is not None:
        _check_codec(init, codes)
        inputs["init"] = digest(part)
    sounds = _codec(codec, codes, inputs)
    words = _tokenizer(part, tokenizer, inputs)

    def build(run: BackboneRun) -> BackboneTask:
        start = None if part is None else Backbone.from_pretrained(part)
        base = inputs.get("init")
        return BackboneTask(run, codes, words, init=start, base=base, codec=sounds, say=on_message)

    order = Order(
        run_dir=Path(run_dir), recipe=recipe, overrides=overrides, minutes=minutes, device=device
    )
    return execute("backbone", order, known, build, inputs=inputs, say=on_message, show=on_step)


def train_superres(
    codes_dir: Path,
    run_dir: Path,
    recipe: str = "nano",
    overrides: Sequence[str] = (),
    *,
    minutes: float | None = None,
    device: str = "cpu",
    init: Path | None = None,
    codec: Path | None = None,
    tokenizer: Path | None = None,
    on_message: Say = lambda _: None,
    on_step: Show | None = None,
) -> Path:
    """Train super-resolution on prepared codes.

    Args:
        codes_dir: written by ``khala prepare``.
        run_dir: config, log, checkpoints and the model go here; a run begun here goes on.
        recipe: "debug" or "nano"; "nano-tune" and "nano-lora" take the shape of ``init`` and go on
            from it.
        overrides: ``key=value``.
        minutes: choose the number of steps by the speed measured here.
        device: "cpu" or "cuda".
        init: the trained backbone to start from, or a model folder with ``superres/`` ("nano" is
            one) to go on from; None starts from nothing, which is worse.
        codec: start the tables of the fine levels from this codec's codebooks.
        tokenizer: a tokenizer.json for a model that starts from nothing; None: bytes.
        on_message: takes lines for the reader.
        on_step: takes where the run is after every step, instead of lines of losses.

    Raises:
        The errors of `train_backbone`; ConfigError too when the codec is not the codes'.
    """
    codes = open_codes(codes_dir)
    inputs = {"codes": codes.digest}
    part = None if init is None else _superres_or_backbone(init)
    goes_on = part is not None and kind_of(part) == "superres"
    shape = load_config(part, "superres", SuperResConfig) if part and goes_on else None
    known = SUPERRES_RECIPES | _tuning(SUPERRES_TUNING, shape, recipe)
    if init is not None and part is not None:
        _check_codec(init, codes)
        inputs["init"] = digest(part)
    if goes_on and codec is not None:
        raise ConfigError(f"{init} has trained tables: starting them from a codec would lose them")
    sounds = _codec(codec, codes, inputs)
    words = _tokenizer(part, tokenizer, inputs)

    def build(run: SuperResRun) -> SuperResTask:
        start: Backbone | SuperResolution | None = None
        if part is not None:
            start = (SuperResolution if goes_on else Backbone).from_pretrained(part)
        base = inputs["init"] if goes_on else None
        return SuperResTask(run, codes, words, start=start, base=base, codec=sounds, say=on_message)

    order = Order(
        run_dir=Path(run_dir), recipe=recipe, overrides=overrides, minutes=minutes, device=device
    )
    return execute("superres", order, known, build, inputs=inputs, say=on_message, show=on_step)


def _tuning(
    makers: dict[str, Callable[[C], R]], shape: C | None, recipe: str
) -> dict[str, Callable[[], R]]:
    """Return the recipes that go on from a model, with that model's shape.

    Raises:
        ConfigError: ``recipe`` is one of them and there is no model of this kind to go on from.
    """
    if shape is None:
        if recipe in makers:
            raise ConfigError(f"{recipe} goes on from a trained model of its kind: give --init")
        return {}
    return {name: partial(maker, shape) for name, maker in makers.items()}


def _superres_or_backbone(init: Path) -> Path:
    """Return the super-resolution of a model to go on from, or the backbone to start from."""
    folder = resolve_model(init)
    if (folder / "superres" / "config.json").is_file():
        return folder / "superres"
    return resolve_part(folder, "backbone")


def _check_codec(init: Path, codes: CodesDataset) -> None:
    """Refuse codes of another codec than the whole model's that is gone on from: they are noise."""
    folder = resolve_model(init) / "codec"
    if folder.is_dir() and Codec.from_pretrained(folder).codes_digest() != codes.codec_digest:
        raise ConfigError(
            f"the codes were prepared with another codec than that of {init}: prepare them again "
            f"with khala prepare ... --codec {init}"
        )


def _codec(path: Path | None, codes: CodesDataset, inputs: dict[str, str]) -> Codec | None:
    """Load the codec that the codes were made with, and note it among the run's inputs."""
    if path is None:
        return None
    codec = Codec.from_pretrained(path)
    inputs["codec"] = codec.codes_digest()
    if inputs["codec"] != codes.codec_digest:
        raise ConfigError(f"the codes were not prepared with the codec {path}")
    return codec


def _corpus_digest(folder: Path, corpus: Corpus) -> str:
    """Identify a corpus by how it was made, or a user's own folder by its songs' names and ends."""
    head = folder / "corpus.json"
    if head.is_file():
        return sha256_file(head)
    songs = "\n".join(f"{song.id} {song.duration_s}" for song in corpus.songs)
    return hashlib.sha256(songs.encode()).hexdigest()


def _tokenizer(model: Path | None, wanted: Path | None, inputs: dict[str, str]) -> TextTokenizer:
    """Return the tokenizer asked for, the one beside a model, or the one of bytes."""
    if model is None:
        if wanted is None:
            return TextTokenizer.bytes()
        loaded = TextTokenizer.load(wanted)
        inputs["tokenizer"] = sha256_file(wanted)
        return loaded
    if wanted is not None:
        raise ConfigError("--tokenizer is for a model that starts from nothing: --init has its own")
    for path in (Path(model) / "tokenizer.json", Path(model).parent / "tokenizer.json"):
        if path.is_file():
            return TextTokenizer.load(path)
    raise ConfigError(f"{model} has no tokenizer.json beside it")
