"""Commands about single videos: predict and explain."""

import csv
import functools
import json
import os
import sys


def add_predict(commands):
  """Adds `vidattn predict`."""
  parser = commands.add_parser(
      'predict', help='say what is in videos',
      description='Prints the likeliest classes of each video.')
  parser.add_argument('videos', nargs='+', metavar='VIDEO')
  parser.add_argument('--checkpoint', required=True, metavar='DIR',
                      help='a workdir, or one checkpoint in it')
  parser.add_argument('--which', default='best', metavar='WHICH',
                      help='best, latest or a step (default: best)')
  parser.add_argument('--top', type=int, default=5, metavar='K',
                      help='classes to print (default: 5)')
  parser.add_argument('--json', action='store_true', help='print JSON')
  parser.add_argument('--window', type=int, metavar='FRAMES',
                      help='slide a window of so many frames over each video '
                      'and write CSV')
  parser.add_argument('--stride', type=int, metavar='FRAMES',
                      help='frames between windows (default: half a window)')
  parser.set_defaults(run=_predict)


def _predict(arguments):
  from input_pipeline import decode
  from input_pipeline import lengths
  from input_pipeline import transforms
  from vidattn_jax.tools import predict

  for name in ('window', 'stride', 'top'):
    value = getattr(arguments, name)
    if value is not None and value < 1:
      raise ValueError(f'--{name}={value} must be at least 1.')
  if arguments.json and arguments.window:
    raise ValueError('--window writes CSV; leave out --json.')
  stride = arguments.stride or max((arguments.window or 2) // 2, 1)

  predictor = predict.load_predictor(
      arguments.checkpoint, arguments.which,
      lambda text: print(text, file=sys.stderr))

  def score(read, start, length):
    recipe = predictor.pixels
    parts = [None]  # All clips; where a video has many, some at a time.
    if transforms.is_consecutive(recipe):
      parts = transforms.recipe_parts(recipe, length)
    return predictor.scores(
        view for places in parts for view in transforms.views_from_recipe(
            recipe, length, lambda indices: read(indices + start), places))

  needed = lengths.fewest_frames(predictor.pixels)
  table = csv.writer(sys.stdout)
  if arguments.window:
    columns = ['class', 'score']
    if not isinstance(predictor.classes, tuple):
      columns = [f'{head}_{column}' for head in predictor.classes
                 for column in columns]
    table.writerow(('video', 'start_frame', 'end_frame', 'start_seconds',
                    'end_seconds', *columns))
  found, failed = [], 0
  for path in arguments.videos:
    try:
      entry, _, read = open_video(path, predictor)
      _check_length(path, entry, predictor.pixels, arguments.window)
      if arguments.window:
        _predict_windows(table, predictor, functools.partial(score, read),
                         path, entry, arguments.window, stride, needed)
        continue
      top = predict.top_classes(
          predictor, score(read, 0, entry.num_frames), arguments.top)
    except decode.VideoError as error:
      print(error, file=sys.stderr)
      found.append({'video': path, 'error': error.reason})
      failed += 1
      continue
    found.append({'video': path, 'frames': entry.num_frames,
                  **_plain_classes(top, predictor.multi)})
    if not arguments.json:
      print(path)
      _print_classes(top, predictor.multi)
  if arguments.json and not arguments.window:
    print(json.dumps(found, indent=1))
  return 1 if failed else 0


def _check_length(path, entry, recipe, window=None):
  """Raises `VideoError` if a video, or a window of it, is too short."""
  from input_pipeline import decode
  from input_pipeline import lengths
  needed = lengths.fewest_frames(recipe)
  if min(entry.num_frames, window or entry.num_frames) >= needed:
    return
  why = ("data.short_clips='fail'" if lengths.policy_of(recipe) == 'fail' else
         'it sees flow, which lies between frames')
  found = (f'the video has {entry.num_frames}; give a longer video'
           if entry.num_frames < needed else
           f'a window has {window}; raise --window')
  raise decode.VideoError(
      path, f'the network takes {needed} frames or more ({why}), {found}')


def _plain_classes(top, multi):
  """Returns the likeliest classes as plain values."""
  plain = {head: [{'class': name, 'score': share} for name, share in classes]
           for head, classes in top.items()}
  if '' not in plain:
    return {'heads': plain}
  return {'classes': plain[''], **({'independent': True} if multi else {})}


def _print_classes(top, multi):
  """Prints the likeliest classes of each head."""
  if multi:
    print('  independent probabilities')
  for head, classes in top.items():
    if head:
      print(f'  {head}')
    for name, share in classes:
      print(f'{"    " if head or multi else "  "}{share:7.2%}  {name}')


def open_video(path, network):
  """Returns what is known of a video, and what reads frames by number.

  Numbers and their rate are those of the network's recipe. The third result
  reads what the network sees: the frames, too, or fields of flow, where the
  network was trained on stored ones.
  """
  from input_pipeline import decode
  from input_pipeline import timing
  naming = network.frame_template, network.first_frame
  folder = os.path.isdir(path)
  entry = (decode.probe_folder(path, *naming) if folder
           else decode.probe(path))
  if entry.error:
    raise decode.VideoError(path, entry.error)

  numbered, numbers = timing.renumber(entry, network.pixels)

  def read(indices):
    if folder:
      return decode.decode_folder(path, indices, *naming)
    return decode.decode_frames(
        path, numbers[indices], entry, network.pixels['rotate'])

  flow = network.pixels.get('flow')
  if flow is None or not flow['stored']:
    return numbered, read, read
  return numbered, read, functools.partial(
      _fields, read, flow['bound'], flow.get('size', 0))


@functools.cache
def _flow_method():
  from input_pipeline import flow
  from vidattn_jax.tools import flow as methods
  return flow.Method(**methods.get_method('tvl1'))


def _fields(read, bound, size, indices):
  from input_pipeline import flow
  return flow.fields(read, indices, _flow_method(), bound, size)


def _predict_windows(table, predictor, score, path, entry, window, stride,
                     needed):
  """Writes one row for each place of a window.

  The last may be shorter, but has the frames that the network needs.
  """
  from vidattn_jax.tools import predict
  rate = entry.rate or None
  start = 0
  while True:
    length = min(window, entry.num_frames - start)
    if length < needed:
      print(f'{path}: the last {length} of {entry.num_frames} frames are too '
            'few for a clip.', file=sys.stderr)
      return
    top = predict.top_classes(predictor, score(start, length), 1)
    seconds = [f'{f / rate:.3f}' if rate else ''
               for f in (start, start + length)]
    best = [cell for [(name, share)] in top.values()
            for cell in (name, f'{share:.4f}')]
    table.writerow((path, start, start + length, *seconds, *best))
    if start + length >= entry.num_frames:
      return
    start += stride


def add_explain(commands):
  """Adds `vidattn explain`."""
  parser = commands.add_parser(
      'explain', help='see where and when networks look',
      description='Draws what networks show of a clip over its frames: the '
      'maps and weights that they compute, the gates of their attention '
      'units, and Grad-CAM. Writes strip.png, movie.mp4 and index.html. The '
      'clip is the middle one of an evaluation, its crop the centre.')
  parser.add_argument('video', metavar='VIDEO')
  parser.add_argument('--checkpoint', required=True, action='append',
                      metavar='DIR', help='a workdir, or one checkpoint in '
                      'it; several are compared on the same clip')
  parser.add_argument('--out', required=True, metavar='DIR',
                      help='folder for the pictures')
  parser.add_argument('--which', default='best', metavar='WHICH',
                      help='best, latest or a step (default: best)')
  parser.add_argument('--stage', type=int, metavar='STAGE',
                      help='stage of Grad-CAM, from 1 (default: the last)')
  parser.add_argument('--class', dest='class_name', metavar='NAME',
                      help='class to explain (default: the predicted one)')
  parser.add_argument('--head', metavar='NAME',
                      help='head whose class is explained, of a network with '
                      'several (default: the first that has the class)')
  parser.add_argument('--blocks', action='append', metavar='BLOCK',
                      help='block whose gates are drawn, such as '
                      'layer4/block1, or all, or none; may be given again '
                      '(default: the last block of each stage; none with '
                      'several checkpoints)')
  parser.add_argument('--colormap', default='viridis', metavar='NAME',
                      help='a colour map of Matplotlib, such as cividis or '
                      'jet (default: viridis, safe for the colour-blind)')
  parser.set_defaults(run=_explain)


def _explain(arguments):
  from input_pipeline import transforms
  from vidattn_jax.tools import explain

  explain.check(arguments.out, arguments.colormap)
  explainers = explain.load_explainers(
      arguments.checkpoint, arguments.which,
      lambda text: print(text, file=sys.stderr))

  def look(explainer):
    entry, read_frames, read = open_video(arguments.video, explainer)
    recipe = explainer.pixels
    _check_length(arguments.video, entry, recipe)
    [indices] = transforms.recipe_indices(recipe, entry.num_frames).tolist()
    [seen] = transforms.views_from_recipe(recipe, entry.num_frames, read)
    frames, flow = seen, None
    if 'flow' in recipe:
      flow = explain.flow_of(seen, recipe['flow'])
      frames = transforms.first_view(recipe, indices, read_frames)
    return explain.Clip(
        os.path.basename(os.path.normpath(arguments.video)), frames,
        tuple(indices),
        tuple(i / entry.rate for i in indices) if entry.rate else (), flow)

  clip = explain.same_clip(explainers, look)
  if len(set(clip.indices)) < len(clip.indices):
    print(f'{arguments.video}: too short for {len(clip.indices)} different '
          'frames; some are shown again.', file=sys.stderr)
  blocks = arguments.blocks or (None if len(explainers) == 1 else ['none'])
  rows = [explain.explain(explainer, clip, arguments.class_name,
                          arguments.stage, blocks, arguments.head)
          for explainer in explainers]
  for row in rows:
    print(row.title)
    for panel in row.panels:
      print(f'  {panel.name}: {"; ".join((panel.range, *panel.notes))}')
  paths = explain.write(arguments.out, clip, rows, arguments.colormap)
  print('Drawn to', ', '.join(paths))
