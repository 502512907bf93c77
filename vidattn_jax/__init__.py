"""Attention for video action recognition and detection in JAX and Flax."""

__version__ = '0.1.0'
