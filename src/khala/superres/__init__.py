"""Super-resolution: levels 0,1 -> all levels, one level per pass."""

from khala.superres.complete import Sketch, complete_songs
from khala.superres.config import SuperResConfig
from khala.superres.loss import task_0_losses, task_1_losses
from khala.superres.model import SuperResolution
from khala.superres.packing import Packing
from khala.superres.tables import LevelTables

__all__ = [
    "LevelTables",
    "Packing",
    "Sketch",
    "SuperResConfig",
    "SuperResolution",
    "complete_songs",
    "task_0_losses",
    "task_1_losses",
]
