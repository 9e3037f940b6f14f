"""The backbone: prompt -> levels 0 and 1."""

from khala.backbone.config import BackboneConfig
from khala.backbone.generate import generate_coarse
from khala.backbone.loss import next_token_losses
from khala.backbone.model import Backbone
from khala.backbone.start import start_tables

__all__ = ["Backbone", "BackboneConfig", "generate_coarse", "next_token_losses", "start_tables"]
