"""Commands about edits of attention: edit and edits."""

import json
import os
import sys

from vidattn_jax.commands import videos


def add_edit(commands):
  """Adds `vidattn edit`."""
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
  decode, rerun = edit_sources(arguments, splits)
  token = serve.make_token(arguments.host, arguments.token)
  serve.serve(app.make_app(splits, edits, decode, rerun, token),
              arguments.host, arguments.port, token)


def edit_sources(arguments, splits):
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
    entry, *_, read = videos.open_video(path, predictor)
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


def add_edits(commands):
  """Adds `vidattn edits`."""
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


def load_edits(source):
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
  edits, _ = load_edits(arguments.source)
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
  figures = files.stats(*load_edits(arguments.source))
  print(json.dumps(figures, indent=1) if arguments.json
        else files.table(figures))
