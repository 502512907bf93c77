"""Which frames of a video a clip takes: pure functions, indices from 0.

Optical flow is taken in stacks of consecutive fields: its frames are fields
then, and an index is that of a stack's first field, so that whole stacks lie
within the video if it has so many fields.
"""

import numpy as np

# Starts of the published dense test.
DENSE_CLIPS = 10


def segment_train(rng, num_frames, clip_frames, stack=1):
  """Draws one random frame from each of equal pieces.

  As in the TSN, TSM and AIA codes, a video shorter than the clip gives its
  first frame only, and the remainder of an uneven division is never seen. Of a
  video that is too short only because of its stacks, sorted starts are drawn.

  Args:
    rng: `np.random.Generator`.
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T.
    stack: consecutive fields at each place, L.

  Returns:
    int64 [T], rising.
  """
  _check(num_frames, clip_frames)
  starts = _starts(num_frames, stack)
  piece = starts // clip_frames
  if not piece and num_frames > clip_frames:
    return np.sort(rng.integers(starts, size=clip_frames))
  if not piece:
    return np.zeros(clip_frames, np.int64)
  return np.arange(clip_frames) * piece + rng.integers(piece, size=clip_frames)


def segment_eval(num_frames, clip_frames, clips=1, stack=1):
  """Takes frames at fixed places of equal pieces.

  This is the published test rule, for evaluation in training too. (The authors'
  loader repeats frame 0 of a short video in validation, and spreads its frames
  in the test; results are reported with the latter.)

  Args:
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T.
    clips: 1: the pieces' centres; 2 ('twice'): those, then the pieces' starts;
      more: clip k lies k / clips of a piece behind the starts.
    stack: consecutive fields at each place, L.

  Returns:
    int64 [clips, T].
  """
  _check(num_frames, clip_frames, clips)
  piece = _starts(num_frames, stack) / clip_frames
  starts = piece * np.arange(clip_frames)
  if clips <= 2:
    shifts = (piece / 2, 0.0)[:clips]
  else:
    shifts = piece * np.arange(clips) / clips
  return np.stack([(starts + shift).astype(np.int64) for shift in shifts])


def dense_train(rng, num_frames, clip_frames, span=64, stack=1):
  """Draws a random start of a clip with constant stride.

  Args:
    rng: `np.random.Generator`.
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T; the stride is span // T, at least 1.
    span: frames that the clip spans; a shorter video is wrapped around.
    stack: consecutive fields at each place, L.

  Returns:
    int64 [T].
  """
  _check(num_frames, clip_frames)
  num_frames = _starts(num_frames, stack)
  # The published code never draws the last start.
  last = max(num_frames - span, 0)
  start = int(rng.integers(last)) if last else 0
  return _dense(start, num_frames, clip_frames, span)


def dense_eval(num_frames, clip_frames, clips=DENSE_CLIPS, span=64, stack=1):
  """Takes clips with constant stride at evenly spaced starts.

  Args:
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T; the stride is span // T, at least 1.
    clips: number of clips; the published test has 10. One lies in the middle.
    span: frames that a clip spans; a shorter video is wrapped around.
    stack: consecutive fields at each place, L.

  Returns:
    int64 [clips, T].
  """
  _check(num_frames, clip_frames, clips)
  num_frames = _starts(num_frames, stack)
  last = max(num_frames - span, 0)
  starts = ([last // 2] if clips == 1 else
            np.linspace(0, last, num=clips, dtype=np.int64))
  return np.stack([_dense(s, num_frames, clip_frames, span) for s in starts])


def _starts(num_frames, stack):
  """Returns the number of places at which a stack can start."""
  return max(num_frames - stack + 1, 1)


def _dense(start, num_frames, clip_frames, span):
  stride = max(span // clip_frames, 1)
  return (start + stride * np.arange(clip_frames)) % num_frames


def _check(num_frames, clip_frames, clips=1):
  if min(num_frames, clip_frames, clips) < 1:
    raise ValueError(
        f'cannot take {clips} clips of {clip_frames} frames from a video of '
        f'{num_frames}: each number must be at least 1')
