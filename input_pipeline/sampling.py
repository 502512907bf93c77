"""Which frames of a video a clip takes: pure functions, indices from 0.

Optical flow is taken in stacks of consecutive fields: its frames are fields
then, and an index is that of a stack's first field, so that whole stacks lie
within the video if it has so many fields.

A video may be shorter than a clip needs (`places_needed`). What then stands for
the frames that it lacks is a policy, one of `SHORT`: what the published codes
do, each in its way; the video again from its start ('loop'); its last frame
('hold'); or an error ('fail').
"""

import numpy as np

# Starts of the published dense test.
DENSE_CLIPS = 10
# Policies for videos shorter than a clip needs.
SHORT = ('published', 'loop', 'hold', 'fail')


def places_needed(rule, clip_frames, span=64):
  """Returns how many frames a clip takes without repeating any.

  Args:
    rule: 'dense', whose clips span `span` frames; of others T is enough.
    clip_frames: frames of the clip, T.
    span: see `dense_eval`.
  """
  if rule != 'dense':
    return clip_frames
  return _stride(clip_frames, span) * (clip_frames - 1) + 1


def segment_train(rng, num_frames, clip_frames, stack=1, short='published'):
  """Draws one random frame from each of equal pieces.

  As in the TSN, TSM and AIA codes, the remainder of an uneven division is never
  seen. As published, a video shorter than the clip gives its first frame only;
  of a video that is too short only because of its stacks, sorted starts are
  drawn.

  Args:
    rng: `np.random.Generator`.
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T.
    stack: consecutive fields at each place, L.
    short: what a video with fewer places than the clip gives, see `SHORT`.

  Returns:
    int64 [T], rising unless looped.

  Raises:
    ValueError: the video is too short, and `short` is 'fail'.
  """
  _check(num_frames, clip_frames)
  if short != 'published' and num_frames - stack + 1 < clip_frames:
    return _fill(np.arange(clip_frames), num_frames, stack, short)
  starts = _starts(num_frames, stack)
  piece = starts // clip_frames
  if not piece and num_frames > clip_frames:
    return np.sort(rng.integers(starts, size=clip_frames))
  if not piece:
    return np.zeros(clip_frames, np.int64)
  return np.arange(clip_frames) * piece + rng.integers(piece, size=clip_frames)


def segment_eval(num_frames, clip_frames, clips=1, stack=1,
                 short='published'):
  """Takes frames at fixed places of equal pieces.

  As published, those of a short video are spread over it, too: some are taken
  several times in a row.

  This is the published test rule, for evaluation in training too. (The authors'
  loader repeats frame 0 of a short video in validation, and spreads its frames
  in the test; results are reported with the latter.)

  Args:
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T.
    clips: 1: the pieces' centres; 2 ('twice'): those, then the pieces' starts;
      more: clip k lies k / clips of a piece behind the starts.
    stack: consecutive fields at each place, L.
    short: see `segment_train`; all clips of a short video are the same then.

  Returns:
    int64 [clips, T].

  Raises:
    ValueError: the video is too short, and `short` is 'fail'.
  """
  _check(num_frames, clip_frames, clips)
  if short != 'published' and num_frames - stack + 1 < clip_frames:
    return np.tile(
        _fill(np.arange(clip_frames), num_frames, stack, short), (clips, 1))
  piece = _starts(num_frames, stack) / clip_frames
  starts = piece * np.arange(clip_frames)
  if clips <= 2:
    shifts = (piece / 2, 0.0)[:clips]
  else:
    shifts = piece * np.arange(clips) / clips
  return np.stack([(starts + shift).astype(np.int64) for shift in shifts])


def dense_train(rng, num_frames, clip_frames, span=64, stack=1,
                short='published'):
  """Draws a random start of a clip with constant stride.

  Args:
    rng: `np.random.Generator`.
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T; the stride is span // T, at least 1.
    span: frames that the clip spans.
    stack: consecutive fields at each place, L.
    short: what the places behind a video's end are, see `SHORT`; as published
      it is wrapped around, which is 'loop'.

  Returns:
    int64 [T].

  Raises:
    ValueError: the video is too short, and `short` is 'fail'.
  """
  _check(num_frames, clip_frames)
  # The published code never draws the last start.
  last = _last_start(num_frames, clip_frames, span, stack, short)
  start = int(rng.integers(last)) if last else 0
  return _dense(start, num_frames, clip_frames, span, stack, short)


def dense_eval(num_frames, clip_frames, clips=DENSE_CLIPS, span=64, stack=1,
               short='published'):
  """Takes clips with constant stride at evenly spaced starts.

  Args:
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T; the stride is span // T, at least 1.
    clips: number of clips; the published test has 10. One lies in the middle.
    span: frames that a clip spans.
    stack: consecutive fields at each place, L.
    short: see `dense_train`.

  Returns:
    int64 [clips, T].

  Raises:
    ValueError: the video is too short, and `short` is 'fail'.
  """
  _check(num_frames, clip_frames, clips)
  last = _last_start(num_frames, clip_frames, span, stack, short)
  starts = ([last // 2] if clips == 1 else
            np.linspace(0, last, num=clips, dtype=np.int64))
  return np.stack([_dense(s, num_frames, clip_frames, span, stack, short)
                   for s in starts])


def consecutive(num_frames, clip_frames, whole=False, stack=1,
                short='published'):
  """Takes all clips of consecutive frames that do not overlap.

  Args:
    num_frames: frames of the video, n.
    clip_frames: frames of the clip, T.
    whole: only clips that lie in the video as a whole, and of a video that is
      shorter than T the video over and over: the test of MARS (Crasto et al.,
      CVPR 2019). Else the last clip, too, which begins before the last frame
      and is repeated until it is long enough: the test of 3D-ResNets (Hara et
      al., CVPR 2018).
    stack: consecutive fields at each place, L.
    short: what the places behind a video's end are, see `SHORT`; as published
      a clip is looped.

  Returns:
    int64 [clips, T].

  Raises:
    ValueError: the video is shorter than a clip, and `short` is 'fail'.
  """
  _check(num_frames, clip_frames)
  if short == 'fail':
    _fill(np.arange(clip_frames), num_frames, stack, short)
  num_frames = _starts(num_frames, stack)
  if whole:
    count = max(num_frames // clip_frames, 1)
  else:
    count = max(-(-(num_frames - 1) // clip_frames), 1)
  starts = clip_frames * np.arange(count)[:, None]
  left = np.minimum(num_frames - starts, clip_frames)
  within = np.arange(clip_frames)
  return starts + (np.minimum(within, left - 1) if short == 'hold' else
                   within % left)


def _starts(num_frames, stack):
  """Returns the number of places at which a stack can start."""
  return max(num_frames - stack + 1, 1)


def _stride(clip_frames, span):
  return max(span // clip_frames, 1)


def _last_start(num_frames, clip_frames, span, stack, short):
  """Returns the last start of a clip with constant stride."""
  if short in ('hold', 'fail'):
    # A clip of more frames than the span would run over the end of any video.
    span = max(span, clip_frames)
  return max(_starts(num_frames, stack) - span, 0)


def _dense(start, num_frames, clip_frames, span, stack, short):
  places = start + _stride(clip_frames, span) * np.arange(clip_frames)
  return _fill(places, num_frames, stack, short)


def _fill(places, num_frames, stack, short):
  """Brings places behind a video's end into it, as the policy says."""
  starts = _starts(num_frames, stack)
  if short == 'fail' and places[-1] > num_frames - stack:
    raise ValueError(
        f'a clip needs {places[-1] + stack} frames of a video that has '
        f"{num_frames} (data.short_clips='fail')")
  if short == 'hold':
    return np.minimum(places, starts - 1)
  return places % starts


def _check(num_frames, clip_frames, clips=1):
  if min(num_frames, clip_frames, clips) < 1:
    raise ValueError(
        f'cannot take {clips} clips of {clip_frames} frames from a video of '
        f'{num_frames}: each number must be at least 1')
