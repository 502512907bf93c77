"""Labels: one class, one class of each of several heads, or any number.

Three kinds of label, as they stand in a record and as an array of a batch:

* one class: an int; int32, -1 if unlabelled.
* several heads (verb and noun): a tuple of ints, -1 where a head's is not
  known; int32 [heads]. Heads are in the order of their names.
* any number of classes ("multi-label"): a tuple of different ints, rising,
  maybe empty; int32 [K], 1 for the classes of the video, 0 for the others, -1
  everywhere if unlabelled.

None is an unlabelled video.
"""

from collections.abc import Mapping

from absl import logging
import numpy as np

from input_pipeline import lists

KINDS = ('single', 'multi')


def check_keys(config_data):
  """Checks the keys that say what labels are.

  Args:
    config_data: the section `data` of the configuration.

  Raises:
    ValueError: a value that cannot be; names key and value.
  """
  if config_data.labels not in KINDS:
    raise ValueError("data.labels must be 'single' or 'multi', not "
                     f'{config_data.labels!r}')
  if config_data.missing_labels not in ('fail', 'skip'):
    raise ValueError("data.missing_labels must be 'fail' or 'skip', not "
                     f'{config_data.missing_labels!r}')
  separator = config_data.label_separator
  if not separator.strip() or separator != separator.strip():
    raise ValueError(f'data.label_separator={separator!r} must be a sign that '
                     'is no space, such as ; or |')
  heads = heads_of(config_data)
  bad = [head for head in heads if not head.isidentifier()]
  if bad:
    raise ValueError(f'data.csv_labels: {bad[0]!r} cannot name a head; take '
                     'letters, digits and _')
  if heads and config_data.labels == 'multi':
    raise ValueError("data.labels='multi' has one head; leave data.csv_labels "
                     'empty')
  unknown = sorted(set(config_data.head_classes) - set(heads))
  if unknown:
    raise ValueError(f'data.head_classes: {unknown[0]!r} is no head of '
                     'data.csv_labels')


def ordered(classes):
  """Returns class names as tuples, heads in the order of their names."""
  if isinstance(classes, Mapping):
    return {head: tuple(classes[head]) for head in sorted(classes)}
  return tuple(classes)


def heads_of(config_data):
  """Returns the names of several heads, in order; () for one."""
  return tuple(sorted(config_data.csv_labels))


def texts_of(item, head=None):
  """Returns the labels of an item as written.

  Args:
    item: `lists.Item`.
    head: number of the head, if there are several.

  Returns:
    tuple of texts; () if there is none.
  """
  label = item.label if head is None or item.label is None else (
      item.label[head])
  if label is None:
    return ()
  return (label,) if isinstance(label, str) else tuple(label)


def is_complete(item):
  """Tells whether an item has all the labels that training wants."""
  if isinstance(item.label, tuple):
    return None not in item.label
  return item.label is not None


def resolve(items, classes, multi=False):
  """Turns labels as written into numbers; a name goes before a number.

  Args:
    items: list of `lists.Item`; labels are texts, tuples of a text or None for
      each head, or tuples of any number of texts.
    classes: class names, or {head: class names}.
    multi: a video may have any number of classes.

  Returns:
    list of what the `label` of a record is.

  Raises:
    ValueError: labels outside the classes; the first is named, and all lines
      are counted.
  """
  bad, labels = [], []
  heads = classes if isinstance(classes, Mapping) else {'': classes}
  ids = {head: {name: i for i, name in enumerate(names)}
         for head, names in heads.items()}

  def number(item, text, head):
    if text in ids[head]:
      return ids[head][text]
    if lists.is_integer(text) and 0 <= int(text) < len(ids[head]):
      return int(text)
    bad.append((item, text, head))
    return -1

  for item in items:
    if item.label is None:
      labels.append(None)
    elif multi:
      labels.append(tuple(sorted({number(item, text, '')
                                  for text in texts_of(item)})))
    elif isinstance(item.label, str):
      labels.append(number(item, item.label, ''))
    elif len(item.label) != len(heads):
      raise ValueError(
          f'{item.where}: {item.name} has {len(item.label)} labels; a video '
          f'has one of each of {len(heads)} heads, unless '
          "data.labels='multi' allows any number")
    else:
      label = tuple(-1 if text is None else number(item, text, head)
                    for text, head in zip(item.label, heads, strict=True))
      known = any(text is not None for text in item.label)
      labels.append(label if known else None)
  if bad:
    raise ValueError(_outside(bad, heads))
  return labels


def _outside(bad, heads):
  item, text, head = bad[0]
  names = heads[head]
  first, last = names[0], names[-1]
  sentence = (
      f'{item.where}: label {text!r} is outside the {len(names)} classes '
      + (f'of {head} ' if head else '')
      + f'(0 {first!r} to {len(names) - 1} {last!r})')
  places = list(dict.fromkeys(item.where for item, *_ in bad))
  if len(places) == 1:
    return sentence
  shown = '; '.join(places[1:10]) + (' ...' if len(places) > 10 else '')
  return f'{sentence}; so are labels of {len(places) - 1} more: {shown}'


def encode(label, classes, multi=False):
  """Makes a record's label an array of a batch.

  Args:
    label: see the head of this file.
    classes: class names, or {head: class names}.
    multi: a video may have any number of classes.

  Returns:
    int32 [], [heads] or [K].
  """
  if isinstance(classes, Mapping):
    return np.asarray([-1] * len(classes) if label is None else label, np.int32)
  if not multi:
    return np.int32(-1 if label is None else label)
  if label is None:
    return np.full(len(classes), -1, np.int32)
  hot = np.zeros(len(classes), np.int32)
  hot[list(label)] = 1
  return hot


def flips(pairs, classes):
  """Resolves which class a horizontally flipped clip belongs to.

  Args:
    pairs: pairs of class names that a flip turns into each other.
    classes: class names in the order of the labels, or {head: class names}; a
      pair holds in every head that has both.

  Returns:
    int32 [K], the label after the flip for each label; of several heads a list
    of them.

  Raises:
    ValueError: a name that is no class, or stands in two pairs.
  """
  several = isinstance(classes, Mapping)
  heads = list(classes.values()) if several else [classes]
  seen = set()
  for pair in pairs:
    for name in pair:
      if not any(name in names for names in heads):
        raise ValueError(f'data.flip_pairs: {name!r} is no class of the data')
      if name in seen:
        raise ValueError(f'data.flip_pairs: {name!r} stands in two pairs')
      seen.add(name)
    if not any(set(pair) <= set(names) for names in heads):
      raise ValueError(f'data.flip_pairs: no head has both of {tuple(pair)}')
  found = []
  for names in heads:
    flipped = np.arange(len(names), dtype=np.int32)
    ids = {name: i for i, name in enumerate(names)}
    for pair in pairs:
      if set(pair) <= ids.keys():
        first, second = (ids[name] for name in pair)
        flipped[first], flipped[second] = second, first
    found.append(flipped)
  return found if several else found[0]


def flip(label, flipped):
  """Returns a label, as `encode` makes it, after a horizontal flip.

  Args:
    label: int or array; see `encode`.
    flipped: what `flips` returned.
  """
  label = np.asarray(label, np.int32)
  if isinstance(flipped, list):
    return np.asarray([new[old] if old >= 0 else old
                       for old, new in zip(label, flipped, strict=True)],
                      np.int32)
  if label.ndim:
    return label[flipped]  # Pairs swap, whichever way.
  return flipped[label] if label >= 0 else label


def counts(labels, classes, multi=False):
  """Counts the videos of each class.

  Args:
    labels: what the records have.
    classes: class names, or {head: class names}.
    multi: a video may have any number of classes.

  Returns:
    int64 [K], or {head: [K]}.
  """
  if isinstance(classes, Mapping):
    return {head: counts([None if x is None or x[i] < 0 else x[i]
                          for x in labels], names)
            for i, (head, names) in enumerate(classes.items())}
  total = np.zeros(len(classes), np.int64)
  for label in labels:
    if label is not None:
      total[list(label) if multi else label] += 1
  return total


def check_filled(records, classes, items, where):
  """Warns of classes without a training video.

  Args:
    records: the usable videos, with labels.
    classes: class names, or {head: class names}.
    items: all `lists.Item`s there were.
    where: the list or the root.

  Raises:
    ValueError: videos of a class were listed, and none is usable.
  """
  if isinstance(classes, Mapping):
    for number, names in enumerate(classes.values()):
      _check_filled([r.label[number] for r in records], names, items, number,
                    where)
  else:
    _check_filled([r.label for r in records], classes, items, None, where)


def _check_filled(labels, classes, items, head, where):
  filled = {number for label in labels for number in (
      label if isinstance(label, tuple) else (label,))}
  empty = [name for i, name in enumerate(classes) if i not in filled]
  if not empty:
    return
  listed = {text for item in items for text in texts_of(item, head)}
  broken = [name for name in empty
            if name in listed or str(classes.index(name)) in listed]
  if broken:
    raise ValueError(f'{where}: no video of class {broken[0]!r} is usable')
  logging.warning('%d classes have no training video: %s', len(empty),
                  ', '.join(empty[:5]))
