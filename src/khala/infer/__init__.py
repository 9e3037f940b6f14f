"""Inference: from a request to a song, to more levels, to sound, and back again to compare."""

from khala.infer.events import Event, Notice, Preview, Progress
from khala.infer.pipeline import Khala
from khala.infer.preview import PreviewSettings
from khala.infer.replay import Replay, replay

__all__ = ["Event", "Khala", "Notice", "Preview", "PreviewSettings", "Progress", "Replay", "replay"]
