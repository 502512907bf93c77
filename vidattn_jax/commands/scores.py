"""Commands about scores of evaluations: fuse and compare."""

from vidattn_jax.commands import editing


def add_fuse(commands):
  """Adds `vidattn fuse`."""
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
  scale = parser.add_mutually_exclusive_group()
  scale.add_argument('--probabilities', action='store_true', default=None,
                     help='average probabilities instead of logits (default '
                     'for RGB and flow)')
  scale.add_argument('--logits', action='store_false', dest='probabilities',
                     default=None, help='average logits, of RGB and flow, '
                     'too, as the code of MARS')
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
    called = {**fuse.figure_names(splits[0]), 'mean_class': 'mean of classes'}
    print(f'\nMean of {len(splits)} splits, weighted by their videos '
          f'({mean.pop("videos")}): ' + ', '.join(
              f'{called[key]} {value:.2%}' for key, value in mean.items()))
  if arguments.out:
    splits[0].save(arguments.out)


def add_compare(commands):
  """Adds `vidattn compare`."""
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
  parser.add_argument('--lengths', metavar='FILE.png', help='compare them on '
                      'videos of different lengths, too, and draw that')
  parser.add_argument('--attention', nargs=2, metavar='DIR',
                      help='the two workdirs, of which attention was collected '
                      '(eval.collect_attention): draw what both made of the '
                      'same clips')
  parser.add_argument('--clips', type=int, default=4, metavar='N',
                      help='how many clips (default: 4)')
  parser.add_argument('--strips', default='strips.png', metavar='FILE.png',
                      help='where they are drawn (default: strips.png)')
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
  edited = None
  if arguments.edits:
    edits, _ = editing.load_edits(arguments.edits)
    edited = {e.label for e in edits.values()
              if e.status == 'submitted' and e.label >= 0}
    print(f'\n{len(edited)} classes of edited videos: '
          f'{", ".join(results[0].classes[k] for k in sorted(edited))}')
    for name, before, after, count in fuse.by_group(*results, edited, names):
      print(f'{name:<13}  {before:6.1%}  {after:6.1%}  {after - before:+7.1%}'
            f'  {count}')
  drawn = [arguments.out]
  if arguments.lengths:
    drawn.append(arguments.lengths)
    print('\nframes         first   second  gain    videos')
    for low, high, count, (before, after) in fuse.compare_lengths(
        results, names, arguments.lengths):
      print(f'{f"{low} to {high}":<13}  {before:6.1%}  {after:6.1%}  '
            f'{after - before:+7.1%}  {count}')
  print(f'\nDrawn to {" and ".join(drawn)}')
  if arguments.attention:
    _draw_strips(arguments, names, edited)


def _draw_strips(arguments, names, edited):
  """Draws the attention of two networks in the same clips."""
  import numpy as np

  from input_pipeline import display
  from vidattn_jax.editor import collected
  from vidattn_jax.tools import strips
  before, after = (collected.read(workdir, 'eval')
                   for workdir in arguments.attention)

  def frames_of(video, indices):
    frames = list(display.frames(
        before.paths[before.names.index(video)], before.pixels,
        before.frame_template, before.first_frame))
    return np.stack([frames[i] for i in indices])

  chosen = strips.choose(before, after, edited, arguments.clips)
  strips.draw(before, after, names, chosen, frames_of).save(arguments.strips)
  print(f'Attention in {", ".join(chosen)} drawn to {arguments.strips}')
