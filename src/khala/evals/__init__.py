"""What the models are worth, measured on held-out songs with peers in the same run.

`EVALS` names every evaluation: its arguments as a dataclass whose fields are the parameters of
its function. Each function returns a plain dict with tables and, asked to, writes it as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from khala.evals.compare import CompareEval, run_compare_eval
from khala.evals.completion import SuperResEval, run_superres_eval
from khala.evals.language import BackboneEval, run_backbone_eval
from khala.evals.model import ModelEval, run_model_eval
from khala.evals.recogniser import RecogniserEval, run_recogniser_eval
from khala.evals.reconstruction import CodecEval, run_codec_eval
from khala.evals.report import print_result
from khala.evals.songs import SongsEval, run_songs_eval
from khala.evals.tagger import TaggerEval, run_tagger_eval

__all__ = [
    "EVALS",
    "BackboneEval",
    "CodecEval",
    "CompareEval",
    "Evaluation",
    "ModelEval",
    "RecogniserEval",
    "SongsEval",
    "SuperResEval",
    "TaggerEval",
    "print_result",
    "run_backbone_eval",
    "run_codec_eval",
    "run_compare_eval",
    "run_model_eval",
    "run_recogniser_eval",
    "run_songs_eval",
    "run_superres_eval",
    "run_tagger_eval",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One evaluation: ``run(**asdict(arguments), on_message=...)``."""

    arguments: type
    """Frozen dataclass; its fields are the parameters of ``run``."""

    run: Callable[..., dict[str, Any]]
    """Does it; returns the result that `print_result` shows."""


EVALS: Mapping[str, Evaluation] = MappingProxyType(
    {
        "codec": Evaluation(arguments=CodecEval, run=run_codec_eval),
        "backbone": Evaluation(arguments=BackboneEval, run=run_backbone_eval),
        "superres": Evaluation(arguments=SuperResEval, run=run_superres_eval),
        "model": Evaluation(arguments=ModelEval, run=run_model_eval),
        "songs": Evaluation(arguments=SongsEval, run=run_songs_eval),
        "compare": Evaluation(arguments=CompareEval, run=run_compare_eval),
        "recogniser": Evaluation(arguments=RecogniserEval, run=run_recogniser_eval),
        "tagger": Evaluation(arguments=TaggerEval, run=run_tagger_eval),
    }
)
