"""Every hyper-parameter of a system, and settings by name."""

from ttvr.recipes._recipe import Options, Recipe, from_settings, parse, settings_of
from ttvr.recipes._tiny import RECIPES

__all__ = ["RECIPES", "Options", "Recipe", "from_settings", "parse", "settings_of"]
