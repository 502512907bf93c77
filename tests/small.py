"""A network, data and a configuration that train within seconds."""

import json
import struct

import numpy as np

from configs import common
from vidattn_jax.training import train

CLASSES = ('still', 'left', 'right')


def config(**overrides):
  """Returns a small configuration; dotted keys override."""
  c = common.get_config()
  with c.unlocked():
    c.update_from_flattened_dict({
        'model.name': 'tsn_r18', 'model.width': 1 / 16, 'model.num_frames': 2,
        'model.crop_size': (36, 36), 'model.attention': 'C',
        'model.stages': (4,),
        'batch_size': 8, 'num_epochs': 3.0, 'schedule.learning_rate': 0.05,
        'schedule.milestones': (2.0,), 'eval.batch_size': 8,
        'log_every_steps': 1, 'mesh.data': 1, 'compile_cache': '',
        **{k.replace('__', '.'): v for k, v in overrides.items()}})
  return c


def videos(count, size=36, frames=2, seed=0, channels=3):
  """Returns uint8 videos [count, T, H, W, C] and their labels [count]."""
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % len(CLASSES)
  clips = rng.integers(0, 60, (count, frames, size, size, channels))
  # More classes than channels: the others are half as bright.
  for clip, label in zip(clips, labels):
    clip[..., label % channels] += 120 >> label // channels
  return clips.astype(np.uint8), labels.astype(np.int32)


def inputs(c, count=24, eval_count=10, bad=(), poison=None, shard=(0, 1)):
  """Returns `train.Inputs` over arrays, a function of the step alone.

  Args:
    c: the configuration.
    count: training videos.
    eval_count: evaluation videos.
    bad: indices of training videos that cannot be read.
    poison: step from which on the gradient is not a number.
    shard: this process's index, and their number.
  """
  shape = {'size': c.model.crop_size[0], 'frames': c.model.num_frames,
           'channels': 3 if c.data.modality == 'rgb' else (
               2 * c.data.flow_stack)}
  clips, labels = videos(count, **shape)
  eval_clips, eval_labels = videos(eval_count, **shape, seed=1)
  index, shards = shard
  views = c.eval.clips * c.eval.crops

  def train_batches(start, num_steps):
    for step in range(start, start + num_steps):
      rng = np.random.default_rng((7, step))
      rows = rng.permutation(count)[:c.batch_size]
      mask = np.asarray([i not in bad for i in rows], np.float32)
      if poison is not None and step >= poison:
        mask = mask * np.nan
      mine = slice(index, None, shards)
      yield {'video': clips[rows][mine], 'label': labels[rows][mine],
             'mask': mask[mine], 'index': rows.astype(np.int32)[mine]}

  def eval_batches():
    size = c.eval.batch_size
    for start in range(0, eval_count, size):
      rows = np.arange(start, start + size)
      mask = (rows < eval_count).astype(np.float32)
      rows = rows % eval_count
      # Views differ, so that a wrong average shows.
      video = np.stack([np.roll(eval_clips[rows], 3 * v, axis=2)
                        for v in range(views)], axis=1)
      mine = slice(index * size // shards, (index + 1) * size // shards)
      yield {'video': video[mine], 'label': eval_labels[rows][mine],
             'mask': mask[mine], 'index': rows.astype(np.int32)[mine]}

  return train.Inputs(
      classes=CLASSES, steps_per_epoch=count // c.batch_size,
      train_batches=train_batches, eval_batches=eval_batches,
      train_names=tuple(f'train{i}' for i in range(count)),
      eval_names=tuple(f'eval{i}' for i in range(eval_count)),
      pixels={'mean': list(c.data.mean), 'std': list(c.data.std)},
      card={'train': {'sha256': 'abc'}, 'eval': {}})


def shrink(c):
  """Makes any shipped configuration small: two clips, one step."""
  c = c.copy_and_resolve_references()
  with c.unlocked():
    if not c.model.name.startswith(('st_abn', 'slow')):  # of these depths only
      for name in ('r50', 'r101'):
        c.model.name = c.model.name.replace(name, 'r18')
      for name in ('resnext3d_101', 'r3d_152'):
        c.model.name = c.model.name.replace(name, 'r3d_18')
    del c.model.num_classes  # of several heads, it is no number
    c.model.update(width=1 / 16, crop_size=(36, 36), num_classes=0,
                   stages=(4,), num_frames=2)
    c.update(batch_size=2, num_epochs=1.0, log_every_steps=1, compile_cache='',
             init_from='')
    c.schedule.warmup_epochs = 0.0
    c.eval.update(batch_size=2, clips=1, crops=1, every_epochs=1.0)
    if 'inception' in c.model.name + c.model.options.get('backbone', ''):
      c.model.crop_size = (32, 32)
    c.mesh.data = 1
  return c


def write_safetensors(path, arrays):
  """Writes {name: array} as a `.safetensors` file."""
  kinds = {'float32': 'F32', 'int64': 'I64'}
  header, blobs, offset = {}, [], 0
  for name, array in arrays.items():
    blob = np.ascontiguousarray(array).tobytes()
    header[name] = {'dtype': kinds[array.dtype.name],
                    'shape': list(array.shape),
                    'data_offsets': [offset, offset + len(blob)]}
    offset += len(blob)
    blobs.append(blob)
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + b''.join(blobs))
