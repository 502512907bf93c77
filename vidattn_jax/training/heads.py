"""Heads of a network: which scores are whose, and what they become.

Classes are a tuple of names, or with several heads a dict of them. Scores of
several heads lie side by side on the last axis, in the order of the heads'
names, which is that of JAX's and JSON's dictionaries, too. A set in which a
video may have any number of classes has one head of independent scores.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from vidattn_jax.training import metrics


def plain(classes):
  """Returns class names as plain data: a list, or a dict of lists."""
  if isinstance(classes, Mapping):
    return {head: list(classes[head]) for head in sorted(classes)}
  return list(classes)


def from_plain(classes):
  """Returns class names as tuples, heads in the order of their names."""
  if isinstance(classes, Mapping):
    return {head: tuple(classes[head]) for head in sorted(classes)}
  return tuple(classes)


def by_head(classes) -> dict:
  """Returns {head: class names}; the head '' if there is one."""
  classes = from_plain(classes)
  return classes if isinstance(classes, Mapping) else {'': classes}


def counts(classes):
  """Returns the number of classes as `get_model` takes it.

  Args:
    classes: class names, or {head: class names}.

  Returns:
    int, or {head: int}.
  """
  found = {head: len(names) for head, names in by_head(classes).items()}
  return found if isinstance(classes, Mapping) else found['']


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


def split(scores, num_classes) -> dict:
  """Parts what `join` has joined.

  Args:
    scores: [..., K of all heads].
    num_classes: int, or {head: int}.

  Returns:
    {head: [..., K]}; the head '' if there is one.
  """
  if not isinstance(num_classes, Mapping):
    return {'': scores}
  parts, start = {}, 0
  for head in sorted(num_classes):
    parts[head] = scores[..., start:start + num_classes[head]]
    start += num_classes[head]
  return parts


def probabilities(scores, num_classes, multi: bool = False):
  """Turns logits into probabilities, of each head.

  Args:
    scores: [..., K of all heads].
    num_classes: int, or {head: int}.
    multi: classes are independent: each has a sigmoid of its own.

  Returns:
    float64 of the same shape.
  """
  if multi:
    return metrics.sigmoid(scores)
  return np.concatenate([metrics.softmax(part) for part in split(
      np.asarray(scores), num_classes).values()], -1)


def training_figure(num_classes, multi: bool = False) -> str:
  """Returns the name of the share of clips that are right in training.

  Args:
    num_classes: int, or {head: int}.
    multi: see `probabilities`.

  Returns:
    'top1'; with several heads 'action', all heads are right; 'exact' where
    classes are independent: all are on the right side of one half.
  """
  if multi:
    return 'exact'
  return 'action' if isinstance(num_classes, Mapping) else 'top1'


def are_right(logits, labels, multi: bool = False):
  """Tells which clips are right; see `training_figure`.

  Args:
    logits: [N, K], or {head: [N, K]}.
    labels: int32 [N], [N, heads] or, with `multi`, [N, K].
    multi: see `probabilities`.

  Returns:
    bool [N].
  """
  if multi:
    return jnp.all((logits > 0) == (labels > 0), -1)
  if isinstance(logits, Mapping):
    best = [jnp.argmax(logits[head], -1) for head in sorted(logits)]
    return jnp.all(jnp.stack(best, -1) == labels, -1)
  return jnp.argmax(logits, -1) == labels
