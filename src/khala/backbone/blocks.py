"""Songs written on a device that runs ahead of the host: several frames before anybody asks.

A host that looks at every token makes a GPU wait for it hundreds of times a second. Here scores,
draws, and what is read next stay on the device: shapes are fixed, so that on CUDA a frame is
recorded once as a graph and replayed, and codes are fetched once a block. The draws are those of
`khala.nn.sampling`, so the songs are those of `khala.backbone.writing.Writer`.

Shape letters: N songs, R rows (of each song the prompt's stream and, if guided, the bare one's), F
frames of a block, D width, V candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from khala.backbone.model import Backbone
from khala.backbone.steps import LibrarySteps, steps_of
from khala.backbone.writing import Writer, Writing
from khala.errors import StageError
from khala.nn.sampling import draw_key, first_of_equals, gumbel_of, signed
from khala.tokens import COARSE_LEVELS

__all__ = ["BlockWriter", "writer_of"]

BLOCK_FRAMES = 8
"""Frames between two looks of the host: a third of a second of song."""

BUCKET = 1024
"""Positions that attention reads are a multiple of this, so that a graph lasts for many tokens."""

ENDED, BROKEN = -1, -2
"""Instead of codes: of a song that has ended, and of one whose scores were no numbers."""


def writer_of(backbone: Backbone, *, has_int8_steps: bool = False) -> Writer:
    """Return what writes songs with a backbone where it is: in blocks on CUDA."""
    if backbone.norm.weight.device.type == "cuda":
        return BlockWriter(backbone, has_int8_steps=has_int8_steps)
    return Writer(backbone, steps_of(backbone, has_int8_steps=has_int8_steps))


class BlockWriter(Writer):
    """Writes songs like `Writer`, a block of frames at a time."""

    def __init__(self, backbone: Backbone, *, has_int8_steps: bool = False) -> None:
        steps = LibrarySteps(backbone, has_int8_steps=has_int8_steps)
        super().__init__(backbone, steps)
        self._trunk, self._heads = steps.trunk, steps.heads
        self._frame: _Frame | None = None
        self._of: tuple[tuple[Writing, ...], tuple[int, ...]] | None = None

    @torch.inference_mode()
    def write_frame(self, songs: Sequence[Writing]) -> None:
        """Write up to ``BLOCK_FRAMES`` frames of every song, or end it."""
        songs = [song for song in songs if not song.is_done]
        if not songs:
            return
        num = min(song.settings.num_frames_max - song.num_frames for song in songs)
        num = min(BLOCK_FRAMES, num)
        frame = self._frame_of(tuple(songs), num)
        frame.state.place.zero_()
        for _ in range(num):
            frame.write()
        codes_F2N = frame.state.codes_F2N[:num].tolist()  # here the host waits
        for index, song in enumerate(songs):
            song.cache.lengths = [each + COARSE_LEVELS * num for each in song.cache.lengths]
            _keep(song, [[codes[index] for codes in codes_2N] for codes_2N in codes_F2N])
        if any(song.is_done for song in songs):
            self._frame = self._of = None  # what it holds is memory of songs that are gone

    def _frame_of(self, songs: tuple[Writing, ...], num: int) -> _Frame:
        """Return what writes a frame of these songs; a new one if there are others than before."""
        visible = tuple(_num_visible(song, COARSE_LEVELS * num) for song in songs)
        if self._frame is None or self._of != (songs, visible):
            state = _State.of(self._backbone, songs)
            work = self._work(state, songs, visible)
            self._frame, self._of = _Frame(state, work), (songs, visible)
            for song, own_RD in zip(
                songs, torch.split(state.hidden_RD, _sizes(songs)), strict=True
            ):
                song.hidden_RD = own_RD  # the state's own memory: always of the last frame
        return self._frame

    def _work(
        self, state: _State, songs: Sequence[Writing], visible: Sequence[int]
    ) -> Callable[[], None]:
        """Return what writes a frame on the device alone."""
        layout, caches = self._backbone.config.layout, [song.cache for song in songs]

        def write() -> None:
            """Draw a code of each level and read it."""
            for level in range(COARSE_LEVELS):
                code_N = self._draw_on_device(state, level)
                state.codes_F2N[:, level].index_copy_(0, state.place, code_N[None])
                token_N = code_N.clamp_min(0) + layout.first_id(level)
                embedded_RD = self._backbone.embed(token_N[state.song_R])
                hidden_RD = self._trunk.step_at(embedded_RD, caches, state.length_R, visible)
                state.hidden_RD.copy_(hidden_RD)
                state.length_R.add_(1)
            state.frame_N.add_(1)
            state.place.add_(1)

        return write

    def _draw_on_device(self, state: _State, level: int) -> Tensor:
        """Return code_N of the next codes, or why there are none; see `Writer`'s own drawing."""
        num_codes = self._backbone.config.layout.codebook_size
        logits_RV = F.linear(state.hidden_RD, self._heads[level]).float()
        is_broken_R = ~logits_RV.isfinite().all(dim=1)
        is_broken_N = is_broken_R[state.asked_N] | is_broken_R[state.bare_N]
        asked_NV, bare_NV = logits_RV[state.asked_N], logits_RV[state.bare_N].double()
        offered_NV = asked_NV.clone()
        if level == 0:
            offered_NV[:, num_codes].masked_fill_(state.frame_N < state.least_N, -torch.inf)
        k_N1 = state.top_k_N1.clamp_max(offered_NV.shape[1])
        largest = offered_NV.topk(min(state.most_k, offered_NV.shape[1]), dim=1).values
        is_kept_NV = first_of_equals(offered_NV, largest.gather(1, k_N1 - 1), k_N1)
        is_kept_NV &= offered_NV > -torch.inf
        scores_NV = bare_NV + state.scale_N1 * (asked_NV.double() - bare_NV)
        noise_NV = gumbel_of(state.words_L2N[level], state.frame_N, scores_NV.shape[1])
        is_drawn_N1 = state.temperature_N1 > 0
        scores_NV /= torch.where(is_drawn_N1, state.temperature_N1, 1.0)
        scores_NV += noise_NV * is_drawn_N1
        code_N = scores_NV.masked_fill(~is_kept_NV, -torch.inf).argmax(dim=1)
        code_N = torch.where(code_N == num_codes, ENDED, code_N)
        code_N = torch.where(is_broken_N, BROKEN, code_N)
        code_N = torch.where(state.stopped_N < 0, state.stopped_N, code_N)
        state.stopped_N.copy_(code_N.clamp_max(0))
        return code_N


@dataclass(frozen=True, slots=True)
class _State:
    """What a frame reads and changes, all of it on the device and always in the same memory."""

    hidden_RD: Tensor
    length_R: Tensor
    frame_N: Tensor
    stopped_N: Tensor
    """ENDED, BROKEN, or 0."""

    place: Tensor
    """Frame of the block that is written, [1]."""

    codes_F2N: Tensor
    song_R: Tensor
    asked_N: Tensor
    """Each song's row of the prompt."""

    bare_N: Tensor
    """Each song's row of the bare prompt, or ``asked_N``'s."""

    least_N: Tensor
    top_k_N1: Tensor
    scale_N1: Tensor
    temperature_N1: Tensor
    words_L2N: Tensor
    """Of the songs' draws, for each level."""

    most_k: int

    @classmethod
    def of(cls, backbone: Backbone, songs: Sequence[Writing]) -> _State:
        """Collect the state of songs that are being written."""
        device = backbone.lm_head.weight.device
        settings = [song.settings for song in songs]
        sizes = _sizes(songs)
        asked = [sum(sizes[:index]) for index in range(len(songs))]
        keys = [
            [draw_key(one.seed, "backbone", level) for one in settings]
            for level in range(COARSE_LEVELS)
        ]
        words = [[[signed(key[word]) for key in of_level] for word in (0, 1)] for of_level in keys]

        def put(values: Sequence[object], dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return cls(
            hidden_RD=torch.cat([song.hidden_RD for song in songs if song.hidden_RD is not None]),
            length_R=put([length for song in songs for length in song.cache.lengths]),
            frame_N=put([song.num_frames for song in songs]),
            stopped_N=put([0] * len(songs)),
            place=put([0]),
            codes_F2N=put([[[0] * len(songs)] * COARSE_LEVELS] * BLOCK_FRAMES),
            song_R=put([index for index, size in enumerate(sizes) for _ in range(size)]),
            asked_N=put(asked),
            bare_N=put([row + size - 1 for row, size in zip(asked, sizes, strict=True)]),
            least_N=put([one.num_frames_min for one in settings]),
            top_k_N1=put([[one.top_k] for one in settings]),
            scale_N1=put([[one.guidance_scale] for one in settings], torch.float64),
            temperature_N1=put([[one.temperature] for one in settings], torch.float64),
            words_L2N=put(words, torch.int32),
            most_k=max(one.top_k for one in settings),
        )

    def tensors(self) -> list[Tensor]:
        """Return all that a frame might change."""
        values = [getattr(self, one.name) for one in fields(self)]
        return [value for value in values if isinstance(value, Tensor)]


class _Frame:
    """Writes a frame; on CUDA recorded as a graph when it is first written."""

    def __init__(self, state: _State, work: Callable[[], None]) -> None:
        self.state, self._work = state, work
        self._graph: torch.cuda.CUDAGraph | None = None

    def write(self) -> None:
        """Have the device write the next frame; the host does not wait for it."""
        if self.state.place.device.type != "cuda":
            self._work()
            return
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        """Run a frame as a trial, take back what it changed, and record one."""
        before = [tensor.clone() for tensor in self.state.tensors()]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._work()
        torch.cuda.current_stream().wait_stream(aside)
        for tensor, old in zip(self.state.tensors(), before, strict=True):
            tensor.copy_(old)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._work()
        return graph


def _sizes(songs: Sequence[Writing]) -> list[int]:
    return [len(song.streams) for song in songs]


def _num_visible(song: Writing, num_new: int) -> int:
    """Return how many positions of a song's cache attention reads for the next tokens."""
    end = max(song.cache.lengths) + num_new
    return min(-(-end // BUCKET) * BUCKET, song.cache.capacity)


def _keep(song: Writing, codes_F2: list[list[int]]) -> None:
    """Give a song the codes of a block, up to where it ended or broke."""
    for codes_2 in codes_F2:
        for level, code in enumerate(codes_2):
            if code == BROKEN:
                message = f"backbone gave logits that are not finite at level {level}"
                song.fail(StageError(message, stage="backbone"))
                return
            if code == ENDED:
                song.finish("end_token")
                return
            song.keep(level, code)
