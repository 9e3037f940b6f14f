"""The real models behind the service: the only file of this room that loads torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from khala.errors import KhalaError
from khala.infer import Event, Khala, Notice, Preview, PreviewSettings, Progress
from khala.infer.limits import longest_s
from khala.serve.settings import Settings
from khala.song import Song, SongRequest

__all__ = ["KhalaMaker", "load"]

Wave = npt.NDArray[np.float32]
OnProgress = Callable[[int, int, float | None], None]


def load(settings: Settings) -> KhalaMaker:
    """Load the model that the settings name.

    Raises:
        KhalaError: there is none, or it does not fit this computer.
    """
    model = Khala.from_pretrained(settings.model, device=settings.device, dtype=settings.dtype)
    maker = KhalaMaker(model, settings.device)
    maker.warm_up()
    return maker


class KhalaMaker:
    """Makes songs with one loaded model; see `khala.serve.making.Maker`."""

    def __init__(self, model: Khala, device: str) -> None:
        self._model = model
        positions = (model.backbone.max_positions, model.superres.max_positions)
        self.about: dict[str, Any] = {
            "model": model.name,
            "digests": model.digests,
            "levels": model.superres.config.layout.num_levels,
            "longest_s": longest_s(
                frame_rate_hz=model.frame_rate_hz, num_prompt=512, positions=positions
            ),
            "sample_rate_hz": model.codec.config.sample_rate_hz,
            "frame_rate_hz": model.frame_rate_hz,
            "device": device,
            "dtype": model.models.plan.dtype,
        }

    def warm_up(self) -> None:
        """Make the shortest song, so that nobody waits for what is compiled or laid out once."""
        request = SongRequest(prompt="", instrumental=True, duration_s=1.0, levels=3)
        try:
            self._model.decode(self._model.generate(request))
        except KhalaError:
            return  # a model that cannot make this may well make others

    def sketch(
        self,
        request: SongRequest,
        *,
        on_progress: OnProgress,
        on_notice: Callable[[str, str], None],
        on_piece: Callable[[Wave, float], None],
        should_stop: Callable[[], bool],
    ) -> Song:
        """Write levels 0 and 1; pieces of their sound are decoded meanwhile."""

        def hear(event: Event) -> None:
            if isinstance(event, Progress):
                on_progress(event.done, event.total, event.eta_s)
            elif isinstance(event, Notice):
                on_notice(event.code, event.message)
            elif isinstance(event, Preview):
                on_piece(event.wave_CN, event.start_s)

        return self._model.generate(
            request,
            on_event=hear,
            should_stop=should_stop,
            previews=PreviewSettings(levels=()),
        )

    def refine(
        self,
        song: Song,
        levels: int,
        *,
        on_progress: OnProgress,
        should_stop: Callable[[], bool],
    ) -> Song:
        """Give a song more levels."""

        def hear(event: Event) -> None:
            if isinstance(event, Progress):
                on_progress(event.done, event.total, event.eta_s)

        return self._model.refine(song, levels=levels, on_event=hear, should_stop=should_stop)

    def sound(self, song: Song, *, should_stop: Callable[[], bool]) -> Wave:
        """Decode a song."""
        return self._model.decode(song, should_stop=should_stop)

    def picture(self, song: Song, wave_CN: Wave) -> bytes | None:
        """Draw a song, if matplotlib is installed."""
        from khala.infer.plot import check_plot, plot_song

        try:
            check_plot()
        except KhalaError:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plot.png"
            plot_song(path, song, wave_CN)
            return path.read_bytes()

    def encode(self, path: Path, levels: int) -> Song:
        """Return the codes of a recording."""
        return self._model.encode(path, levels=levels)
