"""The engine: one song or many, each as if it were alone.

Songs come and go while others are worked on; a step is one frame of all sketches or one level of
some songs, and everything that is asked, like stopping, is answered between two steps.

Shape letters: Q levels, T frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from khala.backbone.blocks import writer_of
from khala.backbone.writing import Writer, Writing, WritingSettings
from khala.errors import Cancelled, KhalaError, StageError
from khala.infer.events import OnEvent, ShouldStop, StageClock
from khala.infer.plan import song_needs
from khala.infer.preview import Previewer, PreviewSettings
from khala.infer.schedule import Scheduler, Work
from khala.machine import look_at
from khala.nn.inference import InferenceTrunk
from khala.song import Song, SongRequest
from khala.superres.complete import Completion, Sketch, add_level

if TYPE_CHECKING:
    from khala.infer.pipeline import Khala

__all__ = ["Engine", "Sequence"]

USABLE_SHARE = 0.9
"""Of the memory that is free when an engine is made; the rest is for what nobody counts."""

PASS_POSITIONS = 4096
"""Of short songs that a device reads in one pass: with fewer it waits for the next thing to do,
with more the songs in front only become later."""


@dataclass(kw_only=True, eq=False)
class Sequence:
    """One song in the engine."""

    number: int
    request: SongRequest
    prompt: list[int]
    on_event: OnEvent | None = None
    should_stop: ShouldStop | None = None
    song: Song | None = None
    """The finished song."""

    error: KhalaError | None = None
    """Why there is none: `Cancelled` or `StageError`, both with what was finished, or
    `CapacityError`."""

    writing: Writing | None = None
    sketch: Sketch | None = None
    completion: Completion | None = None
    previewer: Previewer | None = None
    clock: StageClock | None = None
    began_with: int = 0
    """Levels that it had when its completion began."""

    cancelled: bool = False

    @property
    def is_done(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.song is not None or self.error is not None

    @property
    def outcome(self) -> Song | KhalaError:
        """The song, or why there is none."""
        made = self.song or self.error
        assert made is not None
        return made

    @property
    def wants_to_stop(self) -> bool:
        """Whether somebody has lost interest."""
        if not self.cancelled and self.should_stop is not None and self.should_stop():
            self.cancelled = True
        return self.cancelled


@dataclass(kw_only=True, eq=False)
class Engine:
    """Makes songs of one model, several at a time."""

    model: Khala
    most_songs: int = 8
    """Songs worked on at once; more wait."""

    most_bytes: int | None = None
    """Memory for songs beside the weights; None: most of what is free now, where that is known."""

    most_positions: int | None = None
    """Of several songs in one pass of super-resolution; a longer song has passes of its own.

    None: `PASS_POSITIONS`, and 0 on a CPU, which one song fills and where the songs beside it would
    change its rounding.
    """

    _scheduler: Scheduler = field(init=False)
    _sequences: dict[int, Sequence] = field(default_factory=dict, init=False)
    _num_submitted: int = field(default=0, init=False)
    _writer: Writer | None = field(default=None, init=False)
    _trunk: InferenceTrunk | None = field(default=None, init=False)
    _in_turn: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        models = self.model.models
        free = look_at(models.device).free_bytes
        if self.most_bytes is None and free is not None:
            coming = models.size.weights(models.plan.dtype) if models.plan.turns else {"": 0}
            self.most_bytes = max(int(USABLE_SHARE * free) - max(coming.values()), 0)
        if self.most_positions is None:
            self.most_positions = 0 if models.device == "cpu" else PASS_POSITIONS
        self._scheduler = Scheduler(
            most_songs=self.most_songs,
            most_bytes=self.most_bytes,
            most_positions=self.most_positions,
            one_stage_at_a_time=models.plan.turns,
        )

    def submit(
        self,
        request: SongRequest,
        *,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        previews: PreviewSettings | None = None,
    ) -> Sequence:
        """Take a request; `step` works on it.

        Args:
            request: what is wanted.
            on_event: hears progress, and `Preview` if ``previews`` says so.
            should_stop: asked at every step.
            previews: what is heard before the song is finished. Models that take turns in memory
                give none: the codec is not there.

        Raises:
            RequestError: the model cannot make this.
            CapacityError: it does not fit in memory, however long it waits.
        """
        model = self.model
        prompt = model.prompt(request)
        bounds = model.bounds(request, prompt)
        scale = request.guidance_scale
        scale = model.backbone.config.guidance_scale if scale is None else scale
        settings = WritingSettings(
            num_frames_min=bounds.least,
            num_frames_max=bounds.most,
            temperature=request.temperature,
            top_k=request.top_k,
            seed=request.seed,
            guidance_scale=scale,
        )
        bare = model.prompt(request, bare=True)
        sequence = Sequence(
            number=self._num_submitted,
            request=request,
            prompt=prompt,
            on_event=on_event,
            should_stop=should_stop,
        )
        sequence.writing = Writing(model.backbone, prompt, settings, bare_S=bare)
        if previews is not None and on_event is not None and not model.models.plan.turns:
            sequence.previewer = Previewer(model.codec, previews, on_event)
        needed = song_needs(
            model.models.size,
            num_prompt=len(prompt),
            num_frames=bounds.most,
            dtype=model.models.plan.dtype,
            kind=model.models.device.partition(":")[0],
            guided=scale != 1.0,
        )
        self._scheduler.add(sequence.number, needed)
        self._num_submitted += 1
        self._sequences[sequence.number] = sequence
        return sequence

    def run(self) -> None:
        """Work until every song is finished, failed or cancelled."""
        for _ in self.finished():
            pass

    def finished(self) -> Iterator[Sequence]:
        """Work until there is nothing to do, and give every song when nothing more will happen."""
        try:
            while True:
                before = list(self._sequences.values())
                went_on = self.step()
                yield from (one for one in before if one.is_done)
                if not went_on:
                    return
        finally:
            self._use(None)

    def step(self) -> bool:
        """Do one piece of work; False if there was nothing to do."""
        self._drop_cancelled()
        self._admit()
        work = self._scheduler.next()
        if work is None:
            return False
        started_s = time.perf_counter()
        if work.kind == "frame":
            self._write_frame(work)
        else:
            self._add_level(work)
        self._scheduler.took(work.kind, time.perf_counter() - started_s)
        return True

    def _drop_cancelled(self) -> None:
        for sequence in list(self._sequences.values()):
            if sequence.wants_to_stop:
                self._cancel(sequence)

    def _cancel(self, sequence: Sequence) -> None:
        """End a song where it is, with what can be played of it."""
        completion, writing = sequence.completion, sequence.writing
        if completion is not None:
            message, codes_QT, ended = "stopped between two levels", completion.codes_QT, None
        else:
            assert writing is not None
            writing.finish("cancelled")
            message, codes_QT, ended = (
                "stopped while the sketch was written", writing.codes_2T, "cancelled",
            )  # fmt: skip
        self._end(sequence, Cancelled(message, finished=self._part(sequence, codes_QT, ended)))

    def _admit(self) -> None:
        """Begin songs that have room; variants of a song copy what it has read."""
        while (number := self._scheduler.admit()) is not None:
            sequence = self._sequences[number]
            writing = sequence.writing
            assert writing is not None
            most = writing.settings.num_frames_max
            sequence.clock = StageClock(stage="backbone", total=most, on_event=sequence.on_event)
            others = [one.writing for one in self._sequences.values() if one is not sequence]
            donor = next(
                (
                    other
                    for other in others
                    if other is not None and other.cache is not None
                    and writing.has_prompts_of(other)
                ),
                None,
            )  # fmt: skip
            self._guarded([sequence], "backbone", lambda: self._begin(writing, donor))  # noqa: B023

    def _begin(self, writing: Writing, donor: Writing | None) -> None:
        self._use("backbone")
        if self._writer is None:
            plan = self.model.models.plan
            self._writer = writer_of(self.model.backbone, has_int8_steps=plan.has_int8_steps)
        self._writer.begin(writing, donor=donor)

    def _use(self, part: str | None) -> None:
        """Have the weights of one part in memory, where the parts take turns."""
        models = self.model.models
        if not models.plan.turns or part == self._in_turn:
            return
        self._writer, self._trunk = None, None
        if self._in_turn is not None:
            models.release(self._in_turn)
        if part is not None:
            models.loaders[part]()
        self._in_turn = part

    def _write_frame(self, work: Work) -> None:
        """Write a frame of every sketch, and hand over those that are finished."""
        sequences = [self._sequences[number] for number in work.songs]
        writings = [one.writing for one in sequences if one.writing is not None]
        before = [one.num_frames for one in writings]
        writer = self._writer
        assert writer is not None
        if not self._guarded(sequences, "backbone", lambda: writer.write_frame(writings)):
            return
        for sequence, writing, old in zip(sequences, writings, before, strict=True):
            assert sequence.clock is not None
            if writing.num_frames > old:
                sequence.clock.report(writing.num_frames)
            if sequence.previewer is not None and writing.failed is None:
                sequence.previewer.sketched(writing.codes_2T, end=writing.ended is not None)
            if writing.failed is not None:
                self._fail(sequence, writing.failed)
            elif writing.ended is not None:
                sequence.clock.finish()
                self._sketched(sequence, writing)

    def _sketched(self, sequence: Sequence, writing: Writing) -> None:
        """Go on to a song's levels, or end it if a sketch was asked for."""
        self._scheduler.sketched(sequence.number)
        if writing.num_frames == 0:
            self._fail(sequence, StageError("the song ended before it began", stage="backbone"))
            return
        sketch = Sketch(
            prompt_S=torch.tensor(sequence.prompt),
            codes_QT=writing.codes_2T,
            seed=sequence.request.seed,
        )
        sequence.began_with = len(sketch.codes_QT)
        num_new = sequence.request.levels - sequence.began_with
        if num_new == 0:
            self._finish(sequence, writing.codes_2T)
            return
        sequence.clock = StageClock(stage="superres", total=num_new, on_event=sequence.on_event)
        sequence.sketch = sketch

    def _add_level(self, work: Work) -> None:
        """Give some songs one more level, and hand over those that have all."""
        sequences = [self._sequences[number] for number in work.songs]
        completions: list[Completion] = []

        def complete() -> None:
            completions.extend(self._completion(sequence) for sequence in sequences)
            add_level(completions)

        if not self._guarded(sequences, "superres", complete):
            return
        for sequence, completion in zip(sequences, completions, strict=True):
            if completion.failed is not None:
                self._fail(sequence, completion.failed)
                continue
            assert sequence.clock is not None
            sequence.clock.report(completion.num_levels - sequence.began_with)
            if completion.num_levels == sequence.request.levels:
                self._finish(sequence, completion.codes_QT)
            elif sequence.previewer is not None:
                sequence.previewer.refined(completion.codes_QT)

    def _completion(self, sequence: Sequence) -> Completion:
        """Return what gives a song its levels; it begins with the first."""
        self._use("superres")
        model = self.model.superres
        if self._trunk is None:
            self._trunk = InferenceTrunk(model, self.model.models.plan.products)
        if sequence.completion is None:
            assert sequence.sketch is not None
            top_k = sequence.request.superres_top_k
            sequence.completion = Completion(
                model,
                sequence.sketch,
                trunk=self._trunk,
                top_k=model.config.sampling_top_k if top_k is None else top_k,
                temperature=model.config.sampling_temperature,
            )
        return sequence.completion

    def _guarded(self, sequences: list[Sequence], stage: str, work: Callable[[], None]) -> bool:
        """Work, and let what goes wrong end the songs it was for; others go on."""
        try:
            work()
        except StageError as error:
            for sequence in sequences:
                self._fail(sequence, error)
            return False
        except (RuntimeError, MemoryError) as error:
            # torch says it with these when memory is short or a device is lost
            line = str(error).strip().split("\n")[0] or type(error).__name__
            for sequence in sequences:
                failure = StageError(f"{stage} failed: {line}", stage=stage)
                failure.__cause__ = error
                self._fail(sequence, failure)
            return False
        return True

    def _fail(self, sequence: Sequence, error: StageError) -> None:
        """End a song that is broken, with the levels and frames that are not."""
        if sequence.completion is not None:
            codes_QT, ended = sequence.completion.codes_QT, None
        else:
            assert sequence.writing is not None
            codes_QT, ended = sequence.writing.codes_2T, "cancelled"
        own = StageError(
            str(error), stage=error.stage, finished=self._part(sequence, codes_QT, ended)
        )
        own.__cause__ = error.__cause__
        self._end(sequence, own)

    def _finish(self, sequence: Sequence, codes_QT: torch.Tensor) -> None:
        assert sequence.writing is not None
        assert sequence.writing.ended is not None
        sequence.song = self._song(sequence, codes_QT, sequence.writing.ended)
        self._leave(sequence)

    def _end(self, sequence: Sequence, error: KhalaError) -> None:
        sequence.error = error
        self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Give a song's memory back; models that take turns follow when the last one is gone."""
        if sequence.writing is not None:
            sequence.writing.release()
        sequence.completion = None
        del self._sequences[sequence.number]
        self._scheduler.leave(sequence.number)

    def _part(self, sequence: Sequence, codes_QT: torch.Tensor, ended: str | None) -> Song | None:
        """Return what there is of a song, if it is at least a second long."""
        if codes_QT.shape[1] < self.model.frame_rate_hz:
            return None
        assert sequence.writing is not None
        return self._song(sequence, codes_QT, ended or sequence.writing.ended or "cancelled")

    def _song(self, sequence: Sequence, codes_QT: torch.Tensor, ended: str) -> Song:
        codes: npt.NDArray[np.int16] = codes_QT.cpu().numpy().astype(np.int16)
        return self.model.song_of(sequence.request, codes, ended)
