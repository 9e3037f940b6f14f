"""Training: one loop of eighty lines, three tasks, checkpoints that resume bit for bit."""

from khala.train.loop import train
from khala.train.state import TrainConfig, TrainState
from khala.train.task import Batch, Task

__all__ = ["Batch", "Task", "TrainConfig", "TrainState", "train"]
