"""Stacks of optical flow: what is read for a clip, and how it leaves.

Stored flow is read field by field, resized, cut and flipped, and its fields
become channels at last. Flow that the device computes is frames until then.
"""

import numpy as np


def flow_recipe(data):
  """Describes the flow that a network sees.

  Args:
    data: the section `data` of the configuration.

  Returns:
    None for RGB; else dict of `stack` (fields at each place of a clip), `bound`
    (pixels) and `stored` (False: the clips have the frames between which the
    fields lie, and the flow is computed on the device); and `size`, see
    `data.flow_size`, where it is not that of the videos.

  Raises:
    ValueError: a key has a value that cannot be.
  """
  if data.modality not in ('rgb', 'flow'):
    raise ValueError(
        f"data.modality must be 'rgb' or 'flow', not {data.modality!r}")
  if data.flow_stack < 1 or not data.flow_bound > 0:
    raise ValueError(f'data.flow_stack={data.flow_stack} and data.flow_bound='
                     f'{data.flow_bound:g} must be above 0')
  is_flow = data.modality == 'flow'
  channels = 2 * data.flow_stack if is_flow else 3
  for key in ('mean', 'std'):
    if len(data[key]) not in (1, channels):
      raise ValueError(
          f'data.{key} has {len(data[key])} numbers, but {data.modality} has '
          f'{channels} channels: give as many, or one for all' + (
              '; for flow (128 / 255,) and (1 / 255,) are usual'
              if is_flow else ''))
  if not is_flow:
    return None
  size = flow_size(data.flow_size)
  if size and not data.flow_root:
    raise ValueError(f'data.flow_size={data.flow_size} is of stored flow, but '
                     'data.flow_root is empty; set it, or data.flow_size=0')
  return {'stack': data.flow_stack, 'bound': float(data.flow_bound),
          'stored': bool(data.flow_root), **({'size': size} if size else {})}


def flow_size(value):
  """Returns a size of frames before their flow, as it is written down.

  Args:
    value: pixels of the short side, 0 for the frames' own size, or (height,
      width).

  Returns:
    int or [height, width].

  Raises:
    ValueError: it is neither.
  """
  sides = [value] if isinstance(value, int) else value
  if not (isinstance(sides, list | tuple) and len(sides) in (1, 2) and all(
      isinstance(side, int) and side >= (len(sides) > 1) for side in sides)):
    raise ValueError(f'the size of flow is {value!r}; give the short side in '
                     'pixels, or height and width, or 0')
  return list(sides) if len(sides) == 2 else sides[0]


def clip_shape(flow, num_frames, crop_size):
  """Returns the shape of a clip as it leaves the pipeline.

  Args:
    flow: what `flow_recipe` returned.
    num_frames: places of a clip, T.
    crop_size: (height, width).

  Returns:
    (T, height, width, 3) for RGB, (T, height, width, 2 * stack) for stored
    flow, (T * (stack + 1), height, width, 3) for flow that the device computes.
  """
  if flow and flow['stored']:
    return (num_frames, *crop_size, 2 * flow['stack'])
  each = flow['stack'] + 1 if flow else 1
  return (num_frames * each, *crop_size, 3)


def frames_of(flow, places, num_frames, short='published'):
  """Lists what is read for clips whose places are known.

  Args:
    flow: what `flow_recipe` returned.
    places: int [..., T], frames of the clip; of flow, first fields of stacks.
    num_frames: frames of the video.
    short: what stands for the fields that a video shorter than one stack
      lacks, see `sampling.SHORT`: its fields from the first on for 'loop', else
      the last, as published.

  Returns:
    int [..., n]: `places` for RGB; for stored flow T * stack numbers of
    fields; for flow that the device computes T * (stack + 1) numbers of frames.
  """
  if not flow:
    return places
  each = flow['stack'] + (not flow['stored'])
  last = num_frames - 1 - flow['stored']
  indices = places[..., None] + np.arange(each)
  # Looping frames would show the device motion from the last to the first.
  if short == 'loop' and flow['stored']:
    indices %= last + 1
  else:
    indices = np.minimum(indices, last)
  return indices.reshape(*places.shape[:-1], -1)


def stack_fields(flow, clip):
  """Makes the fields of each place of a clip its channels.

  Args:
    flow: what `flow_recipe` returned.
    clip: uint8 [..., n, h, w, C], n as `frames_of` lists them.

  Returns:
    uint8 [..., T, h, w, 2 * stack] for stored flow, x and y of the first field
    and so on; else `clip`.
  """
  if not flow or not flow['stored']:
    return clip
  *outer, count, height, width, _ = clip.shape
  clip = clip.reshape(*outer, count // flow['stack'], flow['stack'], height,
                      width, 2)
  return np.moveaxis(clip, -4, -2).reshape(
      *outer, -1, height, width, 2 * flow['stack'])


def sampled_length(flow, num_frames):
  """Returns (frames or fields that places are drawn from, those at a place)."""
  return (num_frames - 1, flow['stack']) if flow else (num_frames, 1)
