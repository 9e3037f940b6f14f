"""The transformer bricks both models share, and addressed sampling."""

from khala.nn.cache import KVCache
from khala.nn.config import TrunkConfig
from khala.nn.init import init_weights
from khala.nn.trunk import Trunk

__all__ = ["KVCache", "Trunk", "TrunkConfig", "init_weights"]
