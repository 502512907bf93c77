"""Heads of a network: which scores are whose, and what is predicted.

Classes are a tuple of names, or with several heads a dict of them. Scores of
several heads lie side by side on the last axis, in the order of the heads'
names, which is that of JAX's and JSON's dictionaries. A set in which a video
may have any number of classes has one head, whose scores are independent.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from vidattn_jax.training import metrics


def ordered(classes):
  """Returns class names as tuples, heads in the order of their names."""
  if isinstance(classes, Mapping):
    return {head: tuple(classes[head]) for head in sorted(classes)}
  return tuple(classes)


def counts(classes):
  """Returns the number of classes as `get_model` takes it.

  Args:
    classes: class names, or {head: class names}.

  Returns:
    int, or {head: int}.
  """
  if isinstance(classes, Mapping):
    return {head: len(classes[head]) for head in sorted(classes)}
  return len(classes)


def total(classes) -> int:
  """Returns the number of scores: of classes of all heads."""
  found = counts(classes)
  return sum(found.values()) if isinstance(found, dict) else found


def names(classes) -> tuple:
  """Returns the names of the heads; () for one."""
  return tuple(sorted(classes)) if isinstance(classes, Mapping) else ()


def join(logits):
  """Puts the scores of several heads side by side.

  Args:
    logits: [..., K], or {head: [..., K]}.

  Returns:
    [..., K of all heads].
  """
  if isinstance(logits, Mapping):
    return jnp.concatenate([logits[head] for head in sorted(logits)], -1)
  return logits


def split(scores, classes) -> dict:
  """Parts what `join` has joined.

  Args:
    scores: [..., K of all heads].
    classes: class names, or {head: class names}.

  Returns:
    {head: [..., K]}; the head '' if there is one.
  """
  found = counts(classes)
  if not isinstance(found, dict):
    return {'': scores}
  ends = np.cumsum(list(found.values()))
  return {head: scores[..., end - found[head]:end]
          for head, end in zip(found, ends, strict=True)}


def probabilities(scores, classes, multi=False):
  """Turns logits into probabilities, of each head.

  Args:
    scores: [..., K of all heads].
    classes: class names, or {head: class names}.
    multi: classes are independent: each has a sigmoid of its own.

  Returns:
    float64 of the same shape.
  """
  if multi:
    return metrics.sigmoid(scores)
  return np.concatenate([metrics.softmax(part) for part
                         in split(np.asarray(scores), classes).values()], -1)
