"""The `vidattn` command: one subcommand for each tool, nothing but wiring."""

import argparse
import csv
import functools
import json
import os
import sys

from vidattn_jax import errors


def main(argv=None):
  """Runs the command line."""
  parser = argparse.ArgumentParser(
      prog='vidattn', description='Attention for video action recognition.')
  commands = parser.add_subparsers(required=True, metavar='COMMAND')
  for add in (_add_predict, _add_explain, _add_fuse, _add_compare,
              _add_complexity, _add_convert, _add_flow, _add_edit,
              _add_edits):
    add(commands)
  arguments = parser.parse_args(argv)
  try:
    return arguments.run(arguments)
  except ValueError as error:
    return errors.exit_with_sentence(error)


def _add_predict(commands):
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
    return predictor.scores(transforms.views_from_recipe(
        predictor.pixels, length, lambda indices: read(indices + start)))

  table = csv.writer(sys.stdout)
  if arguments.window:
    table.writerow(('video', 'start_frame', 'end_frame', 'start_seconds',
                    'end_seconds', 'class', 'score'))
  found, failed = [], 0
  for path in arguments.videos:
    try:
      entry, _, read = _open_video(path, predictor)
      if arguments.window:
        _predict_windows(table, predictor, functools.partial(score, read),
                         path, entry, arguments.window, stride)
        continue
      top = predict.top_classes(
          predictor, score(read, 0, entry.num_frames), arguments.top)
    except decode.VideoError as error:
      print(error, file=sys.stderr)
      found.append({'video': path, 'error': error.reason})
      failed += 1
      continue
    found.append({'video': path, 'frames': entry.num_frames,
                  'classes': [{'class': c, 'score': s} for c, s in top]})
    if not arguments.json:
      print(path)
      for name, share in top:
        print(f'  {share:7.2%}  {name}')
  if arguments.json and not arguments.window:
    print(json.dumps(found, indent=1))
  return 1 if failed else 0


def _open_video(path, network):
  """Returns what is known of a video, and what reads frames by number.

  The third result reads what the network sees: the frames, too, or fields of
  flow, where the network was trained on stored ones.
  """
  from input_pipeline import decode
  naming = network.frame_template, network.first_frame
  folder = os.path.isdir(path)
  entry = (decode.probe_folder(path, *naming) if folder
           else decode.probe(path))
  if entry.error:
    raise decode.VideoError(path, entry.error)

  def read(indices):
    if folder:
      return decode.decode_folder(path, indices, *naming)
    return decode.decode_frames(path, indices, entry, network.pixels['rotate'])

  flow = network.pixels.get('flow')
  if flow is None or not flow['stored']:
    return entry, read, read
  return entry, read, functools.partial(_fields, read, flow['bound'])


@functools.cache
def _flow_method():
  from input_pipeline import flow
  from vidattn_jax.tools import flow as methods
  return flow.Method(**methods.get_method('tvl1'))


def _fields(read, bound, indices):
  from input_pipeline import flow
  return flow.fields(read, indices, _flow_method(), bound)


def _predict_windows(table, predictor, score, path, entry, window, stride):
  """Writes one row for each place of a window; the last may be shorter."""
  from vidattn_jax.tools import predict
  rate = entry.rate or None
  start = 0
  while True:
    length = min(window, entry.num_frames - start)
    [(name, share)] = predict.top_classes(
        predictor, score(start, length), 1)
    seconds = [f'{f / rate:.3f}' if rate else ''
               for f in (start, start + length)]
    table.writerow((path, start, start + length, *seconds, name,
                    f'{share:.4f}'))
    if start + length >= entry.num_frames:
      return
    start += stride


def _add_explain(commands):
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
    entry, read_frames, read = _open_video(arguments.video, explainer)
    recipe = explainer.pixels
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
                          arguments.stage, blocks)
          for explainer in explainers]
  for row in rows:
    print(row.title)
    for panel in row.panels:
      print(f'  {panel.name}: {"; ".join((panel.range, *panel.notes))}')
  paths = explain.write(arguments.out, clip, rows, arguments.colormap)
  print('Drawn to', ', '.join(paths))


def _add_fuse(commands):
  parser = commands.add_parser(
      'fuse', help='average the scores of several models',
      description='Prints the figures of each file of scores and of their '
      'weighted mean.')
  parser.add_argument('scores', nargs='+', metavar='SCORES.npz')
  parser.add_argument('--split', nargs='+', action='append', default=[],
                      metavar='SCORES.npz', help='the same models on another '
                      'split of the data; the mean over the splits is printed, '
                      'weighted by their videos')
  parser.add_argument('--weights', nargs='+', type=float, metavar='W',
                      help='one for each file (default: 1 for RGB and 3 for '
                      'flow where there are both; else equal)')
  parser.add_argument('--sweep', action='store_true',
                      help='try several weights of two models')
  parser.add_argument('--probabilities', action='store_true',
                      help='average probabilities instead of logits; always '
                      'done for RGB and flow')
  parser.add_argument('--out', metavar='FILE.npz', help='write the mean')
  parser.set_defaults(run=_fuse)


def _fuse(arguments):
  from vidattn_jax.tools import fuse
  from vidattn_jax.training import evaluate
  groups = [arguments.scores, *arguments.split]
  if len({len(group) for group in groups}) > 1:
    raise ValueError('Each --split takes as many files as the first split, '
                     f'{len(arguments.scores)}, in the same order.')
  if arguments.sweep and len(arguments.scores) != 2:
    raise ValueError('--sweep takes two files of scores, not '
                     f'{len(arguments.scores)}.')
  if arguments.out and arguments.split:
    raise ValueError('--out writes one mean; leave out --split.')
  splits = []
  for paths in groups:
    results = [evaluate.load_result(path) for path in paths]
    weights = arguments.weights or fuse.default_weights(results)
    fused = fuse.fuse(results, weights, arguments.probabilities, paths)
    label = 'fused ' + ':'.join(f'{w:g}' for w in weights)
    if splits:
      print()
    print(fuse.table([*zip(paths, results, strict=True), (label, fused)]))
    splits.append(fused)
    if arguments.sweep:
      print('\n' + fuse.table(fuse.sweep(
          *results, probabilities=arguments.probabilities)))
      print('The best of these is tuned on these videos.')
  if len(splits) > 1:
    mean = fuse.mean_of_splits(splits)
    print(f'\nMean of {len(splits)} splits, weighted by their videos '
          f'({mean["videos"]}): top-1 {mean["top1"]:.2%}, top-5 '
          f'{mean["top5"]:.2%}, mean of classes {mean["mean_class"]:.2%}')
  if arguments.out:
    splits[0].save(arguments.out)


def _add_compare(commands):
  parser = commands.add_parser(
      'compare', help='compare two models class by class',
      description='Prints and draws what the second model gains on the first.')
  parser.add_argument('before', metavar='FIRST.npz')
  parser.add_argument('after', metavar='SECOND.npz')
  parser.add_argument('--out', default='compare.png', metavar='FILE.png')
  parser.add_argument('--names', nargs=2, metavar='NAME',
                      help='what to call the two (default: the files)')
  parser.add_argument('--edits', metavar='FILE|DIR',
                      help='edits of attention, or a workdir that has some: '
                      'compare the classes of edited videos with the others')
  parser.set_defaults(run=_compare)


def _compare(arguments):
  from vidattn_jax.tools import fuse
  from vidattn_jax.training import evaluate
  paths = (arguments.before, arguments.after)
  results = [evaluate.load_result(path) for path in paths]
  names = tuple(arguments.names or paths)
  rows = fuse.compare(*results, names, arguments.out)
  print(fuse.table(list(zip(names, results, strict=True))))
  width = max(len(name) for name, *_ in rows)
  print(f'\n{"class":<{width}}  first   second  gain    videos')
  for name, before, after, count in rows:
    print(f'{name:<{width}}  {before:6.1%}  {after:6.1%}  '
          f'{after - before:+7.1%}  {count}')
  if arguments.edits:
    edits, _ = _load_edits(arguments.edits)
    edited = {e.label for e in edits.values()
              if e.status == 'submitted' and e.label >= 0}
    print(f'\n{len(edited)} classes of edited videos: '
          f'{", ".join(results[0].classes[k] for k in sorted(edited))}')
    for name, before, after, count in fuse.by_group(*results, edited, names):
      print(f'{name:<13}  {before:6.1%}  {after:6.1%}  {after - before:+7.1%}'
            f'  {count}')
  print(f'\nDrawn to {arguments.out}')


def _add_network_flags(parser):
  """Adds what changes a network by a word."""
  parser.add_argument('--num-frames', type=int, metavar='T',
                      help='frames of a clip')
  parser.add_argument('--crop-size', type=int, nargs='+', metavar='PIXELS',
                      help='height and width of a clip; one number for both')
  parser.add_argument('--num-classes', type=int, metavar='K')
  parser.add_argument('--width', type=float, metavar='X',
                      help="multiplier of every layer's width")
  parser.add_argument('--modality', metavar='NAME', help='rgb or flow')
  parser.add_argument('--shortcut', metavar='NAME',
                      help='A or B, of 3D residual networks')


def _network_changes(arguments):
  crop = arguments.crop_size
  if crop and len(crop) > 2:
    raise ValueError('--crop-size takes one number or two.')
  return {'num_frames': arguments.num_frames,
          'crop_size': crop and tuple(crop * 2)[:2],
          'num_classes': arguments.num_classes, 'width': arguments.width,
          'modality': arguments.modality, 'shortcut': arguments.shortcut}


def _add_complexity(commands):
  parser = commands.add_parser(
      'complexity', help='count parameters and operations',
      description='Counts parameters and operations of networks, for one '
      'clip, without running them. Give configurations, or models and units.')
  parser.add_argument('--config', nargs='+', default=[], metavar='FILE',
                      help='configurations, as main.py takes them')
  parser.add_argument('--model', nargs='+', default=[], metavar='NAME',
                      help='networks of get_model')
  parser.add_argument('--attention', nargs='+', metavar='UNIT',
                      help='each network with each of these; none for none')
  _add_network_flags(parser)
  parser.add_argument('--stages', action='store_true',
                      help='a row for each part of each network')
  parser.add_argument('--flops', nargs='+', default=['aia'], metavar='NAME',
                      help='conventions: aia (table I there), sta (table III '
                      'there)')
  parser.add_argument('--style', default='text', metavar='STYLE',
                      help='text, markdown or csv')
  parser.set_defaults(run=_complexity)


def _complexity(arguments):
  from vidattn_jax.tools import complexity
  from vidattn_jax.tools import networks
  if not arguments.config and not arguments.model:
    raise ValueError('Give --config=FILE or --model=NAME.')
  changes = _network_changes(arguments)
  sources = {path: networks.arguments_of_config(networks.load_config(path))
             for path in arguments.config}
  sources |= {name: {'name': name} for name in arguments.model}
  rows = {}
  for source, model_arguments in sources.items():
    for unit in arguments.attention or [None]:
      label = f'{source} {unit}' if unit else source
      model, _ = networks.build(
          model_arguments, **changes,
          attention='' if unit in ('none', 'None') else unit)
      parts = complexity.by_stage(model)
      if arguments.stages:
        rows |= {f'{label}: {part}': c for part, c in parts.items()}
        label = f'{label}: total'
      rows[label] = sum(parts.values(), complexity.Complexity())
  print(complexity.table(rows, arguments.style, arguments.flops), end='')


def _add_convert(commands):
  parser = commands.add_parser(
      'convert', help='turn published weights into a checkpoint, and back',
      description='Turns a weight file in a published PyTorch layout into a '
      'checkpoint, or a checkpoint into such a file.')
  parser.add_argument('source', metavar='FILE|DIR',
                      help='.pth, .pt or .safetensors; or a workdir')
  parser.add_argument('--out', required=True, metavar='DIR|FILE')
  parser.add_argument('--model', metavar='NAME', help='network of the weights')
  parser.add_argument('--attention', metavar='UNIT', help='its unit')
  parser.add_argument('--config', metavar='FILE',
                      help='a configuration that says both')
  _add_network_flags(parser)
  parser.add_argument('--classes', metavar='FILE',
                      help='class names, one a line')
  parser.add_argument('--partial', action='store_true',
                      help='take what fits, and leave the rest fresh')
  parser.add_argument('--inflation', default='mean', metavar='NAME',
                      help='how 2D kernels become 3D: mean or centre')
  parser.add_argument('--check', action='store_true',
                      help='run the network in PyTorch, too, on the weights as '
                      'they stand in the file, and compare (takes torch; '
                      'full width; units only in tsn_, tsm_, r3d_, '
                      'resnext3d_)')
  parser.add_argument('--layout', metavar='NAME',
                      help='layout of the file that is written')
  parser.add_argument('--which', default='best', metavar='WHICH',
                      help='checkpoint to write: best, latest or a step')
  parser.set_defaults(run=_convert)


def _convert(arguments):
  from vidattn_jax.tools import convert
  from vidattn_jax.tools import networks
  if os.path.isdir(arguments.source):
    convert.to_file(arguments.source, arguments.out, arguments.layout,
                    arguments.which)
    return
  from input_pipeline import transforms
  if bool(arguments.model) == bool(arguments.config):
    raise ValueError('Say which network the weights are of: either '
                     '--model=NAME or --config=FILE.')
  model_arguments = {'name': arguments.model}
  if arguments.config:
    model_arguments = networks.arguments_of_config(
        networks.load_config(arguments.config), num_classes=None)
  _, model_arguments = networks.build(
      model_arguments, attention=arguments.attention,
      **_network_changes(arguments))
  classes = None
  if arguments.classes:
    try:
      with open(arguments.classes, encoding='utf-8') as file:
        classes = file.read().split('\n')
    except OSError as error:
      raise ValueError(f'--classes: {error}.') from error
    classes = [line for line in map(str.strip, classes) if line]
  convert.to_checkpoint(
      arguments.source, model_arguments, arguments.out,
      transforms.pixel_recipe, classes=classes, partial=arguments.partial,
      inflation=arguments.inflation, check=arguments.check)
  print(f'Written to {arguments.out}.')


def _add_flow(commands):
  parser = commands.add_parser(
      'flow', help='compute the optical flow of a data set',
      description='Computes and stores the TV-L1 flow of videos. The same '
      'command goes on where a stopped or killed one was.')
  parser.add_argument('videos', nargs='+', metavar='ROOT|VIDEO',
                      help='the root of a data set, or videos')
  parser.add_argument('--out', required=True, metavar='DIR',
                      help='where it is stored: data.flow_root of a training')
  parser.add_argument('--list', nargs='+', default=[], metavar='FILE',
                      help='lists of the videos wanted, relative to ROOT '
                      '(default: all)')
  parser.add_argument('--method', default='tvl1', metavar='NAME',
                      help='tvl1 (on the accelerator if there is one) or '
                      'opencv (default: tvl1)')
  parser.add_argument('--bound', type=float, default=20.0, metavar='PIXELS',
                      help='displacement that becomes 255 (default: 20)')
  parser.add_argument('--workers', type=int, default=os.cpu_count(),
                      metavar='N', help='videos at the same time (default: '
                      'the number of cores)')
  parser.add_argument('--format', default='array_record', metavar='NAME',
                      help='array_record (lossless) or jpeg (default: '
                      'array_record)')
  parser.add_argument('--frame-template', default='{:05d}.jpg', metavar='NAME',
                      help='file names in folders of frames')
  parser.add_argument('--first-frame', type=int, default=1, metavar='N')
  parser.set_defaults(run=_flow)


def _flow(arguments):
  import tqdm

  from input_pipeline import flow
  from input_pipeline import sources
  from vidattn_jax.tools import flow as methods
  naming = arguments.frame_template, arguments.first_frame
  videos = sources.gather_videos(arguments.videos, arguments.list, *naming)
  method = flow.Method(**methods.get_method(arguments.method))
  with tqdm.tqdm(total=len(videos), unit='video') as bar:

    def report(name, reason):
      if reason:
        bar.write(f'{name}: {reason}', file=sys.stderr)
      bar.update()

    summary = flow.extract(
        videos, arguments.out, method, bound=arguments.bound,
        encoding=arguments.format, workers=arguments.workers,
        frame_template=naming[0], first_frame=naming[1], report=report)
  print(summary)
  return 1 if summary.dropped else 0


def _add_edit(commands):
  parser = commands.add_parser(
      'edit', help='correct what a network attends to, in the browser',
      description='Serves a page on which people draw the temporal attention '
      'of videos. See docs/editing.md.')
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='of a run whose attention was collected')
  parser.add_argument('--edits', metavar='FILE', help='where edits are kept '
                      '(default: attention/edits.jsonl in the workdir)')
  parser.add_argument('--root', metavar='DIR', help='where the videos are, if '
                      'not where they were when collected')
  parser.add_argument('--host', default='127.0.0.1', metavar='ADDRESS',
                      help='address to serve; any but that of this machine '
                      'asks for a token (default: 127.0.0.1)')
  parser.add_argument('--port', type=int, default=8765, metavar='N',
                      help='0 takes a free one (default: 8765)')
  parser.add_argument('--token', metavar='TEXT', help='token to ask for '
                      '(default: a random one where one is needed)')
  parser.set_defaults(run=_edit)


def _edit(arguments):
  from vidattn_jax.editor import collected
  from vidattn_jax.editor import files
  from vidattn_jax.editor import store
  try:
    from vidattn_jax.editor import app
    from vidattn_jax.editor import serve
  except ImportError as error:
    raise ValueError(f'vidattn edit needs {error.name}; install the extra: '
                     "pip install '.[edit]'.") from None
  names = collected.splits(arguments.workdir) or ('train',)
  splits = [collected.read(arguments.workdir, name) for name in names]
  edits = store.Store(
      arguments.edits or files.default_path(arguments.workdir),
      lambda text: print(text, file=sys.stderr))
  for problem in _not_of(splits, edits.edits()):
    print(f'{problem} It is kept, but not shown.', file=sys.stderr)
  decode, rerun = _edit_sources(arguments, splits)
  token = serve.make_token(arguments.host, arguments.token)
  serve.serve(app.make_app(splits, edits, decode, rerun, token),
              arguments.host, arguments.port, token)


def _edit_sources(arguments, splits):
  """Returns what decodes a video by id, and what predicts it again."""
  from input_pipeline import display
  from input_pipeline import transforms
  from vidattn_jax.tools import predict
  found = {name: (split, os.path.join(arguments.root, name)
                  if arguments.root else path)
           for split in splits for name, path in zip(split.names, split.paths)}

  def decode(video):
    split, path = found[video]
    return display.frames(path, split.pixels, split.frame_template,
                          split.first_frame)

  try:
    predictor = predict.load_predictor(
        arguments.workdir, str(splits[0].step),
        lambda text: print(text, file=sys.stderr))
  except ValueError as error:
    print(f'Predictions cannot be re-run: {error}', file=sys.stderr)
    return decode, None
  if not predictor.takes_attention:
    print('Predictions cannot be re-run: the network takes no temporal '
          'attention.', file=sys.stderr)
    return decode, None

  def rerun(video, weights):
    _, path = found[video]
    entry, *_, read = _open_video(path, predictor)
    if entry.num_frames != len(weights):
      raise ValueError(f'{path} has {entry.num_frames} frames now, and had '
                       f'{len(weights)}; collect the attention again.')
    recipe = predictor.pixels
    views = transforms.views_from_recipe(recipe, entry.num_frames, read)
    indices = transforms.recipe_indices(recipe, entry.num_frames)
    # Crops are outermost.
    attention = weights[indices]
    return predictor.scores(views, attention[
        [view % len(indices) for view in range(len(views))]])

  return decode, rerun


def _add_edits(commands):
  parser = commands.add_parser(
      'edits', help='export, merge or count edits of attention',
      description='Works on files of edits. No file is overwritten.')
  actions = parser.add_subparsers(required=True, metavar='ACTION')
  export = actions.add_parser(
      'export', help='write the edits that count, one line each',
      description='Writes the last edit of each video and annotator.')
  export.add_argument('source', metavar='WORKDIR|FILE')
  export.add_argument('--status', nargs='+', metavar='STATUS',
                      help='draft, submitted, skipped (default: submitted)')
  export.add_argument('--out', required=True, metavar='FILE')
  export.set_defaults(run=_edits_export)
  merge = actions.add_parser(
      'merge', help='bring several files together',
      description='Writes all saves of all files, by time.')
  merge.add_argument('sources', nargs='+', metavar='WORKDIR|FILE')
  merge.add_argument('--out', required=True, metavar='FILE')
  merge.set_defaults(run=_edits_merge)
  stats = actions.add_parser('stats', help='count edits',
                             description='Counts edits.')
  stats.add_argument('source', metavar='WORKDIR|FILE')
  stats.add_argument('--json', action='store_true', help='print JSON')
  stats.set_defaults(run=_edits_stats)


def _load_edits(source):
  """Returns the edits of a workdir or a file; says what does not belong."""
  from vidattn_jax.editor import collected
  from vidattn_jax.editor import files
  from vidattn_jax.editor import store

  def say(text):
    print(text, file=sys.stderr)

  if not os.path.isdir(source):
    return store.load(source, say), ()
  edits = store.load(files.default_path(source), say)
  splits = [collected.read(source, name) for name in collected.splits(source)]
  if not splits:
    return edits, ()
  for problem in _not_of(splits, edits):
    say(problem)
  return edits, splits[0].classes


def _not_of(splits, edits):
  """Returns a sentence for each edit that is not of the collected videos."""
  from vidattn_jax.editor import store
  _, problems = store.split_known(edits, {
      name: int(n) for split in splits
      for name, n in zip(split.names, split.num_frames)})
  return problems


def _edits_export(arguments):
  from vidattn_jax import names
  from vidattn_jax.editor import files
  from vidattn_jax.editor import store
  statuses = arguments.status or ['submitted']
  for status in statuses:
    names.check_name('status', status, store.STATUSES)
  edits, _ = _load_edits(arguments.source)
  chosen = [edit for edit in edits.values() if edit.status in statuses]
  files.write(arguments.out, chosen)
  print(f'{len(chosen)} of {len(edits)} edits written to {arguments.out}.')


def _edits_merge(arguments):
  from vidattn_jax.editor import files
  saves, problems = files.merge([
      files.default_path(source) if os.path.isdir(source) else source
      for source in arguments.sources])
  files.write(arguments.out, saves)
  for problem in problems:
    print(problem, file=sys.stderr)
  print(f'{len(saves)} saves of {len(arguments.sources)} files written to '
        f'{arguments.out}.')


def _edits_stats(arguments):
  from vidattn_jax.editor import files
  figures = files.stats(*_load_edits(arguments.source))
  print(json.dumps(figures, indent=1) if arguments.json
        else files.table(figures))


if __name__ == '__main__':
  sys.exit(main())
