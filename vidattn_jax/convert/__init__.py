"""Weights in and out: published PyTorch layouts, files, other trees."""

from vidattn_jax.convert.files import load_file
from vidattn_jax.convert.files import save_file
from vidattn_jax.convert.layouts import LAYOUTS
from vidattn_jax.convert.weights import from_torch
from vidattn_jax.convert.weights import layouts_of
from vidattn_jax.convert.weights import load_into
from vidattn_jax.convert.weights import merge
from vidattn_jax.convert.weights import num_classes
from vidattn_jax.convert.weights import Report
from vidattn_jax.convert.weights import swap_colours
from vidattn_jax.convert.weights import to_rgb
from vidattn_jax.convert.weights import to_torch
from vidattn_jax.convert.weights import TURNED

__all__ = ['LAYOUTS', 'TURNED', 'Report', 'from_torch', 'layouts_of',
           'load_file', 'load_into', 'merge', 'num_classes', 'save_file',
           'swap_colours', 'to_rgb', 'to_torch']
