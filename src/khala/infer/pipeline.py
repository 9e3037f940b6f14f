"""From a request to a song: prompt, backbone, super-resolution, codec.

Shape letters: S stream positions, Q levels, T frames, C channels, N samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from khala import checkpoint
from khala.adapter import load_adapter
from khala.backbone import Backbone
from khala.backbone.generate import generate_coarse
from khala.codec import Codec
from khala.errors import CheckpointError, KhalaError, RequestError
from khala.infer import fine, sound
from khala.infer.events import OnEvent, ShouldStop, StageClock
from khala.infer.limits import FrameBounds, frame_bounds, longest_s
from khala.infer.loading import Models, load_models
from khala.infer.many import Made, generate_each
from khala.infer.preview import PreviewSettings
from khala.infer.published import Plan, Published, plan_song, published_mode, write_sketch
from khala.infer.weights import find_model, find_tokenizer
from khala.song import Song, SongRequest
from khala.superres import SuperResolution
from khala.tokens import TextTokenizer, build_prompt, normalise_lyrics
from khala.tokens.published import clean_published

__all__ = ["Khala"]


@dataclass(frozen=True, kw_only=True)
class Khala:
    """The three models and the tokenizer of one model folder, ready to make songs.

    >>> model = Khala.from_pretrained("nano")  # doctest: +SKIP
    >>> song = model.generate(SongRequest(prompt="pop, piano", lyrics="[Verse] hello", seed=7))
    >>> model.write(song, "song.wav")  # doctest: +SKIP
    """

    models: Models
    """Codec, backbone and super-resolution."""

    tokenizer: TextTokenizer
    name: str
    """What was asked for: "nano", a folder or a hub id."""

    digests: dict[str, str]
    """sha256 of each part, by its name; "backbone.lora" and "superres.lora" name the adapters that
    are in it, as ``khala.adapter.merge_adapters`` says."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "nano",
        *,
        revision: str | None = None,
        tokenizer: str | Path | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        turns: bool | None = None,
        lora: Sequence[str | Path] = (),
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Self:
        """Load a model folder: ``codec/``, ``backbone/``, ``superres/`` and ``tokenizer.json``.

        Args:
            name_or_path: "nano", a folder, or the hub id of published weights, which are fetched
                and converted the first time (see `khala.infer.weights`).
            revision: branch, tag or commit of a hub id.
            tokenizer: a folder with tokenizer.json, that file, or a hub id: for weights that come
                without one.
            device: "cpu", "cuda", "cuda:N" or "mps".
            dtype: "float32", "bfloat16" or "float16", what the two language models compute in, or
                "mixed" or "int8", see ``khala.song.DTYPES``. None: weights stored in 16 bits stay
                so where the device computes well in them, others are "mixed" where bfloat16 is
                fast and float32 elsewhere.
            turns: True, each model has its weights in memory only while it works; None: if they
                do not fit all at once.
            lora: adapters trained from this model, each FOLDER or FOLDER:STRENGTH; the folder says
                which part it changes. Strength 1 is as trained, 0 makes the songs of the model
                alone, 2 is the most.
            on_event: hears how far a download is, and the weights' licence.
            should_stop: asked while weights are fetched.

        Raises:
            CheckpointError: there is no such model or adapter, a file of it is missing or damaged,
                or an adapter was trained from another model.
            RequestError: a strength that is no number from 0 to 2, or no such dtype.
            CapacityError: a download or its conversion has no room on the disk.
            ConfigError: a hub id, and huggingface_hub is not installed.
            Cancelled: ``should_stop`` said so.
        """
        chosen = [lora] if isinstance(lora, str | Path) else lora
        adapters = [load_adapter(wanted) for wanted in chosen]
        folder = find_model(
            name_or_path,
            revision=revision,
            tokenizer=tokenizer,
            on_event=on_event,
            should_stop=should_stop,
        )
        models = load_models(folder, device=device, dtype=dtype, turns=turns, adapters=adapters)
        tokens = find_tokenizer(folder, tokenizer)
        return cls(
            models=models,
            tokenizer=TextTokenizer.load(tokens),
            name=str(name_or_path),
            digests={**models.digests, "tokenizer": checkpoint.sha256_file(tokens)},
        )

    @property
    def codec(self) -> Codec:
        """Waveform <-> codes."""
        return self.models.codec

    @property
    def backbone(self) -> Backbone:
        """Prompt -> levels 0 and 1."""
        return self.models.backbone

    @property
    def superres(self) -> SuperResolution:
        """Levels 0 and 1 -> all levels."""
        return self.models.superres

    def check(self, request: SongRequest, *, compat: str = "none") -> None:
        """Raise RequestError now if this model cannot make what ``request`` asks for."""
        self._check_levels(request)
        published = published_mode(compat)
        if published is None:
            self.bounds(request, self.prompt(request))
        else:
            self._plan(request, published)

    def generate(
        self,
        request: SongRequest,
        *,
        compat: str = "none",
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        previews: PreviewSettings | None = None,
    ) -> Song:
        """Make a song. The same request and models give the same codes, bit for bit.

        Args:
            request: what is wanted.
            compat: "published" makes the song as the published program does, defects included,
                with ``request.prompt`` as tags, and "published-natural" with it as a description;
                see docs/published.md. The song keeps the name and follows it from then on.
            on_event: hears progress and notices.
            should_stop: asked at every frame and level; True stops with what is finished.
            previews: lets ``on_event`` hear the sketch while it is written and the whole song at
                some numbers of levels, as `Preview`; not as published.

        Raises:
            RequestError: the model cannot make this; said before any work.
            CapacityError: it needs more memory than there is; said before any work.
            StageError: a model gave no numbers or the device failed, with the song so far as
                ``finished``; or, as published, what the backbone sampled is no song.
            Cancelled: with the song so far as ``finished``, if it is at least a second long.
        """
        ((_, made),) = generate_each(
            self,
            [request],
            compat=compat,
            on_event=on_event,
            should_stop=should_stop,
            previews=previews,
        )
        if isinstance(made, KhalaError):
            raise made
        return made

    def generate_many(
        self,
        requests: Sequence[SongRequest],
        *,
        compat: str = "none",
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        previews: PreviewSettings | None = None,
    ) -> list[Made]:
        """Make several songs beside each other, each the same as alone.

        Args:
            requests: what is wanted; the prompt of variants is read once.
            compat: as in `generate`.
            on_event: hears progress and notices of all of them; ``event.song`` is the place in
                ``requests``.
            should_stop: asked at every frame and level; True stops them all.
            previews: as in `generate`.

        Returns:
            In the order of the requests, the song, or why there is none: `Cancelled` or
            `StageError`, with what was finished of it as ``finished``.

        Raises:
            RequestError: the model cannot make one of them; said before any work.
            CapacityError: one of them does not fit in memory.
        """
        made = dict(
            generate_each(
                self,
                requests,
                compat=compat,
                on_event=on_event,
                should_stop=should_stop,
                previews=previews,
            )
        )
        return [made[place] for place in range(len(requests))]

    def refine(
        self,
        song: Song,
        *,
        levels: int = 64,
        seed: int | None = None,
        keep_levels: int | None = None,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Song:
        """Give a song more levels, or other fine levels.

        Levels are drawn by their address, so finishing a sketch later equals finishing it at once.
        A song made as published is refined as published.

        Args:
            song: what to continue; it is not changed.
            levels: how many it shall have.
            seed: draw the new levels with this one; default: the song's own.
            keep_levels: how many of its levels to keep; default: all of them.

        Raises:
            RequestError: nothing to add, or the model has fewer levels.
            CheckpointError: the song's codes are of another codec.
            Cancelled: with the levels finished so far as ``finished``.
        """
        most = self.superres.config.layout.num_levels
        plan = fine.plan_levels(song, levels=levels, seed=seed, keep_levels=keep_levels, most=most)
        published = published_mode(song.compat)
        if published is None:
            prompt = self.prompt(song.request)
        else:
            prompt = self._plan(song.request, published).superres_prompt
        with self.models.at_work("superres"):
            return fine.refine(
                song,
                superres=self.superres,
                prompt=prompt,
                published=published,
                digests=self.digests,
                load=self.models.plan,
                plan=plan,
                on_event=on_event,
                should_stop=should_stop,
            )

    def encode(
        self, path: str | os.PathLike[str], *, levels: int | None = None, compat: str = "none"
    ) -> Song:
        """The codes of a recording, as a song whose ``ended`` is "recording"."""
        with self.models.at_work("codec"):
            return sound.encode_file(
                self.codec,
                path,
                model=self.name,
                digest=self.digests["codec"],
                levels=levels,
                compat=compat,
            )

    def decode(
        self,
        song: Song,
        *,
        levels: int | None = None,
        compat: str | None = None,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
    ) -> npt.NDArray[np.float32]:
        """The sound of a song, float32 [C, N], within full scale; see `sound.decode_song`."""
        if song.digests.get("codec") != self.digests["codec"]:
            raise CheckpointError(f"this song was made with another codec than that of {self.name}")
        with self.models.at_work("codec"):
            return sound.decode_song(
                self.codec,
                song,
                levels=levels,
                compat=compat,
                on_event=on_event,
                should_stop=should_stop,
            )

    def write(
        self,
        song: Song,
        path: str | os.PathLike[str],
        *,
        levels: int | None = None,
        compat: str | None = None,
    ) -> None:
        """Decode a song into a WAV, FLAC, MP3 or Opus file, by the ending of ``path``."""
        sound.write_song(path, song, self.decode(song, levels=levels, compat=compat))

    @property
    def frame_rate_hz(self) -> float:
        """Frames of codes per second."""
        return float(self.codec.config.frame_rate_hz)

    def sketch(
        self,
        request: SongRequest,
        compat: str,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
    ) -> tuple[npt.NDArray[np.int16], str]:
        """Levels 0 and 1 of a request in a mode of ``compat``, and why they end."""
        published = published_mode(compat)
        if published is None:
            prompt = self.prompt(request)
            bounds = self.bounds(request, prompt)
            return self.coarse(request, prompt, bounds, on_event, should_stop)
        with self.models.at_work("backbone"):
            return write_sketch(
                self._plan(request, published),
                published=published,
                backbone=self.backbone,
                on_event=on_event,
                should_stop=should_stop,
            )

    def coarse(
        self,
        request: SongRequest,
        prompt: list[int],
        bounds: FrameBounds,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
    ) -> tuple[npt.NDArray[np.int16], str]:
        """Levels 0 and 1 of a request, and why they end."""
        clock = StageClock(stage="backbone", total=bounds.most, on_event=on_event)
        scale = request.guidance_scale
        if scale is None:
            scale = self.backbone.config.guidance_scale
        with self.models.at_work("backbone"):
            codes_2T, ended = generate_coarse(
                self.backbone,
                prompt,
                num_frames_min=bounds.least,
                num_frames_max=bounds.most,
                temperature=request.temperature,
                top_k=request.top_k,
                seed=request.seed,
                guidance_scale=scale,
                bare_S=self.prompt(request, bare=True),
                has_int8_steps=self.models.plan.has_int8_steps,
                on_frame=clock.report,
                should_stop=should_stop,
            )
        if ended != "cancelled":
            clock.finish()
        return codes_2T.cpu().numpy().astype(np.int16), ended

    def prompt(self, request: SongRequest, *, bare: bool = False) -> list[int]:
        """The token ids that tell both models what is wanted, or a bare prompt of its length."""
        layout, most = self.backbone.config.layout, min(self._positions)
        return build_prompt(request, layout, self.tokenizer, max_tokens=most, bare=bare)

    def bounds(self, request: SongRequest, prompt: list[int]) -> FrameBounds:
        """Between how many frames the song may end; RequestError if the models cannot."""
        self._check_levels(request)
        return frame_bounds(
            request.duration_s,
            frame_rate_hz=self.frame_rate_hz,
            num_prompt=len(prompt),
            positions=self._positions,
        )

    @property
    def longest_s(self) -> float:
        """Longest song in seconds, with next to no prompt; words take some of it."""
        positions = longest_s(
            frame_rate_hz=self.frame_rate_hz, num_prompt=16, positions=self._positions
        )
        return min(positions, self.backbone.config.layout.control.max_duration_s)

    @property
    def _positions(self) -> tuple[int, int]:
        return self.backbone.config.max_positions, self.superres.config.max_positions

    def _check_levels(self, request: SongRequest) -> None:
        most = self.superres.config.layout.num_levels
        if request.levels > most:
            raise RequestError(f"levels is {request.levels}: this model has 2 to {most}")

    def _plan(self, request: SongRequest, published: Published) -> Plan:
        return plan_song(
            request,
            published=published,
            layout=self.backbone.config.layout,
            tokenizer=self.tokenizer,
            positions=self._positions,
        )

    def song_of(
        self,
        request: SongRequest,
        codes_QT: npt.NDArray[np.int16],
        ended: str,
        compat: str = "none",
    ) -> Song:
        """The song that these codes are, made for a request by this model."""
        lyrics = normalise_lyrics(request.lyrics)
        return Song(
            request=request,
            codes_QT=codes_QT,
            seed=request.seed,
            model=self.name,
            digests=dict(self.digests),
            dtype=self.models.plan.dtype,
            sample_rate_hz=self.codec.config.sample_rate_hz,
            hop=self.codec.config.hop,
            lyrics=lyrics if compat == "none" else clean_published(request.lyrics),
            created="",  # a date would make every file of the same song another one
            ended=ended,
            compat=compat,
        )
