"""Wires the data to the trainer: what main.py calls.

With commands/ the only place that knows both.
"""

import dataclasses
import functools
import math
import os

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from input_pipeline import batches
from input_pipeline import labels
from input_pipeline import lengths
from input_pipeline import pieces
from input_pipeline import sources
from input_pipeline import transforms
from input_pipeline import untrimmed
from vidattn_jax.detection import windows
from vidattn_jax.editor import collected
from vidattn_jax.editor import store
from vidattn_jax.training import detections
from vidattn_jax.training import train


def resolve(config):
  """Returns a copy in which what the command line cannot say is completed."""
  config = config.copy_and_resolve_references()
  for section, key in ((config.model, 'crop_size'), (config.eval, 'crop_size')):
    if len(section[key]) == 1:  # --config.model.crop_size=112
      section[key] = section[key] * 2
    if len(section[key]) != 2:
      raise ValueError(f'{key} is {section[key]}; give one number or two, and '
                       'the flag only once.')
  # --config.freeze=backbone/conv1,backbone/bn1
  for section, key in ((config, 'freeze'),
                       (config.detection, 'more_annotations')):
    section[key] = tuple(
        p for item in section[key] for p in item.split(',') if p)
  # Of training as of compiling for absent chips.
  transforms.check_transfer(config)
  return config


def training_inputs(config, workdir) -> train.Inputs:
  """Reads what there is to train and to evaluate on.

  Args:
    config: as `resolve` returns it.
    workdir: directory of the run; takes the index of the videos.

  Returns:
    The trainer's inputs.

  Raises:
    ValueError: the configuration or the data do not fit; one sentence.
  """
  transforms.check_train(config)
  if config.detection.annotations:
    return _untrimmed_inputs(config, workdir, ('train', 'eval'))
  sets = _load(config, workdir, ('train', 'eval'))
  labels.flips(config.data.flip_pairs, sets['train'].classes)
  annotate = None
  if config.data.edits:
    sets['train'], annotate = _edited(config.data, sets['train'])
  return _inputs(config, sets, 'eval', annotate)


def evaluation_inputs(config, workdir) -> train.Inputs:
  """Reads what there is to evaluate on.

  Args:
    config: see `training_inputs`.
    workdir: see there.

  Returns:
    The trainer's inputs.

  Raises:
    ValueError: the configuration or the data do not fit; one sentence.
  """
  if config.detection.annotations:
    return _untrimmed_inputs(config, workdir, ('eval',))
  return _inputs(config, _load(config, workdir, ('eval',)), 'eval')


def _load(config, workdir, splits):
  """Returns {split: `sources.Dataset`}."""
  pixels = transforms.pixel_recipe(config)
  sets = _first_process_first(
      config, workdir, splits,
      lambda split, index: sources.load(config.data, split, index_file=index))
  for split, dataset in sets.items():
    transforms.check_sizes(dataset.records, config, pixels, split)
    short = lengths.check_lengths(dataset.records, config, pixels, split)
    sets[split] = dataclasses.replace(dataset, short=short)
  return sets


def _first_process_first(config, workdir, splits, load):
  """Returns {split: what `load` returns of it and of the file of the index}."""
  index_file = config.data.index_file or os.path.join(workdir, 'index.json')
  # One process looks through the files; the others read what it found.
  first = jax.process_index() == 0
  sets, failure = {}, None
  try:
    if first:
      sets = {split: load(split, index_file) for split in splits}
  except ValueError as error:
    failure = error
  if jax.process_count() > 1:
    failed = multihost_utils.broadcast_one_to_all(np.int32(bool(failure)))
    if failed and not first:
      raise ValueError('The data cannot be used; process 0 says why.')
  if failure:
    raise failure
  return sets or {split: load(split, index_file) for split in splits}


def _untrimmed_inputs(config, workdir, splits) -> train.Inputs:
  """Returns the trainer's inputs of a network that finds segments."""
  pixels = transforms.pixel_recipe(config)
  sets = _first_process_first(
      config, workdir, splits,
      lambda split, index: untrimmed.load(config, split, index))
  pixels['detection'] = _detection_recipe(config, sets['eval'].records[0].rate)
  # Those that cannot be read, too: papers count so and so many videos.
  truth = untrimmed.read_annotations(config, 'eval').videos
  detections.protocol_of(config, truth)
  for split, dataset in sets.items():
    transforms.check_sizes(dataset.records, config, pixels, split)
  lay = functools.partial(windows.lay, detection=pixels['detection'],
                          length=pixels['num_frames'])
  shard = {'shard_index': jax.process_index(),
           'shard_count': jax.process_count()}
  trained, judged = sets.get('train'), sets['eval']
  drawn = ()
  if trained:
    if trained.classes != judged.classes:
      raise ValueError(
          f'{config.detection.annotations}: the classes of training and '
          'evaluation differ; annotate them in one file, or list the classes')
    labels.flips(config.data.flip_pairs, trained.classes)
    kind = (pieces.Windows if pixels['detection']['kind'] == 'windows'
            else pieces.Buffers)
    drawn = kind(trained, config, functools.partial(lay, train=True))
  return train.Inputs(
      classes=judged.classes,
      steps_per_epoch=max(len(drawn) // config.batch_size, 1) if drawn else 0,
      train_batches=lambda start, num: pieces.train_batches(
          trained, config, drawn, start_step=start, num_steps=num, **shard),
      eval_batches=lambda: pieces.eval_batches(judged, config, pixels, lay,
                                               **shard),
      train_names=tuple(v.name for v in trained.records) if trained else (),
      eval_names=tuple(v.name for v in judged.records),
      eval_lengths=tuple(v.num_frames for v in judged.records),
      pixels=pixels, truth=truth | {v.name: v.truth for v in judged.records},
      card={'name': config.data.name,
            **{key: s.summary() for key, s in sets.items()},
            **({'pieces': len(drawn), 'notes': list(drawn.notes)}
               if drawn else {})})


def _detection_recipe(config, rate) -> dict:
  """Returns how untrimmed videos become pieces, and what is kept, as data.

  Args:
    config: the configuration.
    rate: frames in a second of the videos, as they are numbered.
  """
  keys = config.detection
  if config.model.name != 'scnn':
    return {'kind': 'buffers', 'buffer_step': keys.buffer_step}
  prior = None
  if config.eval.length_prior:
    # Trimmed videos do not tell how long actions are.
    truth = untrimmed.read_annotations(config, 'train', more=False)
    rows = [row for video in truth.videos.values() for row in video['segments']
            if math.isfinite(row[1])]
    prior = windows.length_prior(
        [end - start for start, end, _ in rows], [row[2] for row in rows],
        len(truth.classes), keys.windows, rate).tolist()
  return {'kind': 'windows', 'windows': list(keys.windows),
          'window_overlap': keys.window_overlap,
          'least_action': config.eval.least_action, 'prior': prior,
          'weigh_action': keys.weigh_action}


def _inputs(config, sets, split, annotate=None):
  """Makes the trainer's inputs, `split` being what is evaluated."""
  shard = {'shard_index': jax.process_index(),
           'shard_count': jax.process_count()}
  names = {key: tuple(r.name for r in s.records) for key, s in sets.items()}
  trained = sets.get('train')
  return train.Inputs(
      classes=sets[split].classes,
      steps_per_epoch=(batches.steps_per_epoch(trained, config)
                       if trained else 0),
      train_batches=lambda start, num: batches.train_batches(
          trained, config, start_step=start, num_steps=num, annotate=annotate,
          **shard),
      eval_batches=lambda: batches.eval_batches(sets[split], config, **shard),
      train_names=names.get('train', ()), eval_names=names[split],
      eval_lengths=tuple(r.num_frames for r in sets[split].records),
      pixels=transforms.pixel_recipe(config),
      card={'name': config.data.name,
            **{key: s.summary() for key, s in sets.items()}})


def _edited(data, dataset):
  """Returns the data set with what people edited, and what reads the edits."""
  edits = store.load(data.edits, logging.warning)
  edits, others = store.split_known(
      edits, {r.name: r.num_frames for r in dataset.records})
  if others:
    logging.warning('%d edits of %s are of no training video; the first: %s',
                    len(others), data.edits, others[0])
  edits = store.by_video(edits)
  if not edits:
    raise ValueError(f'{data.edits} (data.edits) holds no submitted edit of a '
                     'training video.')
  lines = [e.to_line() for group in edits.values() for e in group]
  return (sources.with_edits(dataset, edits, lines, data.edited_only),
          functools.partial(store.annotate, edits))


def collect_attention(config, workdir):
  """Evaluates a checkpoint, and writes its attention for `vidattn edit`.

  Args:
    config: see `training_inputs`.
    workdir: the run's directory.

  Returns:
    `evaluate.Result` of the evaluation videos. Process 0 writes what all have
    collected.

  Raises:
    ValueError: the network has no temporal attention, or as
      `train.evaluate_checkpoint`.
  """
  results = {}
  for split in ('train', 'eval'):
    sets = _load(config, workdir, (split,))
    if any(r.name != r.video for r in sets[split].records):
      raise ValueError('vidattn edit shows whole videos, but data.csv_start '
                       'names segments; cut them into files of their own.')
    results[split], attention, step = train.evaluate_with_attention(
        config, workdir, _inputs(config, sets, split), split)
    if jax.process_index() == 0:
      _write_attention(config, workdir, sets[split], results[split], attention,
                       step)
  return results['eval']


def _write_attention(config, workdir, dataset, result, attention, step):
  """Writes what was collected of one split."""
  pixels = transforms.pixel_recipe(config)
  records = {record.name: record for record in dataset.records}
  found = [records[name] for name in result.names]
  folder = collected.write(workdir, collected.Collected(
      split=dataset.split, names=result.names,
      paths=tuple(os.path.abspath(r.path) for r in found),
      labels=result.labels,
      num_frames=np.asarray([r.num_frames for r in found], np.int32),
      frame_indices=np.stack([transforms.recipe_indices(pixels, r.num_frames)
                              for r in found]),
      temporal_attention=attention['temporal_attention'],
      spatial_attention=attention['spatial_attention'], scores=result.scores,
      classes=result.classes, average=result.average, step=step, pixels=pixels,
      frame_template=config.data.frame_template,
      first_frame=config.data.first_frame))
  print(f'attention of {len(found)} videos {folder}')
