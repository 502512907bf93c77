"""Commands for data sets: preparing, checking and measuring them."""

import argparse
import os
import sys

# Keys of `data` that are words, and their defaults.
_WORDS = {
    'csv_path': 'path', 'csv_label': 'label', 'csv_frames': '',
    'csv_split': '', 'csv_train': 'train', 'csv_eval': 'val', 'csv_start': '',
    'csv_stop': '', 'csv_unit': 'frames', 'labels': 'single',
    'label_separator': ';', 'missing_labels': 'fail'}


def add_prepare(commands):
  """Adds `vidattn prepare`."""
  parser = commands.add_parser(
      'prepare', help='turn the files of a data set into shards, once',
      usage='vidattn prepare SOURCE --out=DIR --name=NAME [option ...] '
      '[-- Beam option ...]',
      description='Writes shards of encoded videos to DIR/NAME/1.0.0, which a '
      'training takes as data.root, and TensorFlow Datasets as a data set. The '
      'same command goes on where a stopped or killed one was. Options behind '
      '-- are those of an Apache Beam pipeline (--runner=..., ...) and take '
      'the work to other machines; SOURCE and DIR must be places that these '
      'know.',
      formatter_class=argparse.ArgumentDefaultsHelpFormatter)
  parser.add_argument('source', metavar='SOURCE', help='root of the videos: '
                      'folders of classes, also in train/ and val/; of a named '
                      'data set the folder that holds all of it')
  parser.add_argument('--dataset', default='', metavar='NAME', help='a named '
                      'data set, as its owners hand it out: see vidattn '
                      'datasets')
  parser.add_argument('--partial', action='store_true', help='prepare what '
                      'there is of a named data set')
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--name', required=True, help='of the data set: small '
                      'letters, digits and _')
  parser.add_argument('--profile', default='copy', help='copy (files as they '
                      'are), fast (small H.264 that decodes and seeks fast) or '
                      'jpeg (frames as JPEG)')
  parser.add_argument('--shards', type=int, default=8, metavar='N',
                      help='files of each split')
  parser.add_argument('--workers', type=int, default=os.cpu_count(),
                      metavar='N', help='processes on this machine')
  parser.add_argument('--max-bad-fraction', type=float, default=0.05,
                      metavar='X', help='share of the videos that may be '
                      'unusable')
  parser.add_argument('--retry', action='store_true', help='make shards anew '
                      'that have dropped videos')
  _add_lists(parser)
  parser.add_argument('--short-side', type=int, default=256, metavar='PIXELS',
                      help='fast, jpeg: of the frames, never enlarged; 0 keeps '
                      'the size')
  parser.add_argument('--gop', type=int, default=12, metavar='N',
                      help='fast: frames from key frame to key frame')
  parser.add_argument('--crf', type=int, default=20, metavar='N',
                      help='fast: quality, 0 (lossless) to 51')
  parser.add_argument('--preset', default='medium', metavar='WORD',
                      help="fast: x264's word for how hard it tries")
  parser.add_argument('--quality', type=int, default=95, metavar='N',
                      help='jpeg: 1 to 95')
  parser.add_argument('--keep-rotation', action='store_true', help='fast, '
                      'jpeg: leave frames as they are stored, not upright')
  parser.add_argument('beam', nargs='*', metavar='-- ...', help='options of '
                      'the Beam pipeline')
  parser.set_defaults(run=_prepare)


def _add_lists(parser):
  """Adds what names the videos and their labels: keys of `data`."""
  group = parser.add_argument_group(
      'lists of the videos, as in `data` of the configuration of a training')
  for key in ('train_list', 'eval_list', 'classes'):
    group.add_argument(_flag(key), default='', metavar='FILE')
  for key, value in _WORDS.items():
    group.add_argument(_flag(key), default=value, metavar='WORD')
  for key, what in (('csv_labels', 'column'), ('head_classes', 'file')):
    group.add_argument(_flag(key), nargs='+', default=[],
                       metavar=f'HEAD={what.upper()}',
                       help=f'several heads: the {what} of each')
  group.add_argument('--frame-template', default='{:05d}.jpg', metavar='NAME',
                     help='file names in folders of frames')
  group.add_argument('--first-frame', type=int, default=1, metavar='N')


def _flag(key):
  return '--' + key.replace('_', '-')


def _config_data(arguments):
  """Returns the part of a configuration's `data` that names videos."""
  import ml_collections
  data = ml_collections.ConfigDict({'root': arguments.source} | {
      key: getattr(arguments, key)
      for key in ('train_list', 'eval_list', 'classes', *_WORDS,
                  'frame_template', 'first_frame')})
  for key in ('csv_labels', 'head_classes'):
    pairs = [text.partition('=') for text in getattr(arguments, key)]
    if not all(head and value for head, _, value in pairs):
      raise ValueError(f'{_flag(key)} takes HEAD=VALUE, as in verb=verb_class.')
    data[key] = ml_collections.ConfigDict(
        {head: value for head, _, value in pairs})
  return data


def _prepare(arguments):
  import tqdm

  from input_pipeline import prepare
  recipe = prepare.make_recipe(
      arguments.profile, arguments.short_side, arguments.gop, arguments.crf,
      arguments.preset, arguments.quality, not arguments.keep_rotation)
  if arguments.dataset:
    data_set = prepare.from_listing(arguments.name, _published(arguments))
  else:
    data_set = prepare.find(arguments.name, _config_data(arguments))
  with tqdm.tqdm(unit='video', file=sys.stderr) as bar:

    def progress(done, total):
      bar.total = total
      bar.update(done - bar.n)

    report = prepare.run(
        data_set, arguments.out, recipe, num_shards=arguments.shards,
        workers=arguments.workers, retry=arguments.retry,
        max_bad_fraction=arguments.max_bad_fraction, options=arguments.beam,
        progress=progress)
  print(report)
  return 0


def _published(arguments):
  """Returns a named data set that is as it was published, or may differ."""
  from input_pipeline import datasets
  found, wrong = datasets.read_checked(
      arguments.dataset, arguments.source, arguments.partial)
  for difference in wrong:
    print(f'WARNING: {difference}', file=sys.stderr)
  return found


def add_check_data(commands):
  """Adds `vidattn check-data`."""
  parser = commands.add_parser(
      'check-data', help='look through a data set before training on it',
      description='Decodes every video to its end, in parallel, and reports '
      'true lengths, damage, wrong labels, duplicates and leakage. Writes '
      'report.txt, report.json and, for data.index_file of a training, '
      'index.json. The same command goes on where a stopped one was. Ends '
      'with 1 if there are problems.')
  parser.add_argument('source', nargs='?', default='', metavar='ROOT',
                      help='root of the videos, or a prepared folder')
  parser.add_argument('--config', metavar='FILE', help='configuration whose '
                      'data is meant; ROOT goes before its data.root')
  parser.add_argument('--out', default='check-data', metavar='DIR',
                      help='where the report and the index are written '
                      '(default: check-data)')
  parser.add_argument('--threads', type=int, default=os.cpu_count(),
                      metavar='N', help='videos decoded at the same time '
                      '(default: the number of cores)')
  parser.add_argument('--few', type=int, default=5, metavar='N',
                      help='name classes with fewer training videos (default: '
                      '5)')
  _add_lists(parser)
  parser.set_defaults(run=_check_data)


def _check_data(arguments):
  import json

  import tqdm

  from input_pipeline import check
  from input_pipeline import containers
  from input_pipeline import storage
  limits, index_file = containers.LIMITS, ''
  if arguments.config:
    from vidattn_jax.tools import networks
    data = networks.load_config(arguments.config, arguments.overrides).data
    data = data.copy_and_resolve_references()
    data.root = arguments.source or data.root
    limits, index_file = containers.limits_of(data), data.index_file
  else:
    data = _config_data(arguments)
  if not data.root:
    raise ValueError('give the ROOT of the videos, or --config=FILE with '
                     'data.root')
  found = check.find(data)
  index_file = index_file or storage.join(arguments.out, 'index.json')
  count = len({i.path for items in found.splits.values() for i in items})
  with tqdm.tqdm(total=count, unit='video', file=sys.stderr) as bar:

    def progress(path, entry):
      if entry.error:
        bar.write(f'{path}: {entry.error}', file=sys.stderr)
      bar.update()

    report = check.run(
        found, index_file, arguments.threads, data.frame_template,
        data.first_frame, limits, arguments.few, progress)
  text = check.to_text(report)
  for name, content in (('report.json', json.dumps(report, indent=1)),
                        ('report.txt', text)):
    storage.write_bytes(storage.join(arguments.out, name), content.encode())
  print(text)
  print(f'Written to {arguments.out}. Train with --config.data.index_file='
        f'{index_file}')
  return 0 if report['ok'] else 1


def add_datasets(commands):
  """Adds `vidattn datasets`."""
  parser = commands.add_parser(
      'datasets', help="make a named data set's lists from its owners' files",
      description='Reads a data set as its owners hand it out, compares it '
      'with what was published, and writes the lists that configurations read. '
      'What to unpack where: docs/data.md.')
  parser.add_argument('name', metavar='NAME', help='diving48, egtea, epic55, '
                      'hmdb51, kinetics400, something_v1, something_v2, '
                      'thumos14 or ucf101')
  parser.add_argument('folder', metavar='FOLDER', help='holds annotations and '
                      'videos, in folders of any name')
  parser.add_argument('--out', default='', metavar='DIR', help='where the '
                      'lists are written (default: the folder of the videos)')
  parser.add_argument('--unpack', action='store_true', help='first unpack the '
                      'archives below FOLDER, each beside itself, once')
  parser.add_argument('--partial', action='store_true', help='say what differs '
                      'from what was published, and list what is there')
  parser.set_defaults(run=_datasets)


def _datasets(arguments):
  from input_pipeline import datasets
  from input_pipeline.layouts import archives
  if arguments.unpack:
    for archive, outcome in archives.unpack(arguments.folder):
      print(f'{archive}: {outcome}', flush=True)
  found, wrong = datasets.read_checked(
      arguments.name, arguments.folder, arguments.partial)
  for difference in wrong:
    print(f'WARNING: {difference}')
  places = datasets.write(found, arguments.out)
  print(f'{found.name}. Split: {found.rule}.')
  numbers = datasets.counts(found)
  width = max(map(len, places))
  for key, place in places.items():
    print(f'  {key:{width}} {numbers[key]:9,} {place}')
  print('Read them with\n  ' + ' \\\n  '.join(datasets.flags(found, places)))
  return 0



def add_benchmark_input(commands):
  """Adds `vidattn benchmark-input`."""
  parser = commands.add_parser(
      'benchmark-input', help='how many cores keep an accelerator busy',
      description='Measures what the clips of a training cost the processor, '
      'and the whole input as the training runs it; says how many cores keep a '
      'chip busy, and what preparing the data anew would gain. Keys of the '
      'configuration change as for main.py: --config.data.root=DIR.')
  parser.add_argument('--config', required=True, metavar='FILE')
  parser.add_argument('--chip', metavar='NAME', help='v4, v5e, v5p, v6e, a100, '
                      'h100 or h200')
  parser.add_argument('--utilization', type=float, default=0.4, metavar='X',
                      help="share of the chip's bfloat16 operations that "
                      'training is thought to reach (default: 0.4)')
  parser.add_argument('--clips-per-second', type=float, default=0.0,
                      metavar='N', help='what a chip takes, where it is known; '
                      'goes before --chip')
  parser.add_argument('--clips', type=int, default=64, metavar='N',
                      help='clips whose processor time is measured (default: '
                      '64)')
  parser.add_argument('--seconds', type=float, default=10.0, metavar='S',
                      help='how long the whole input runs (default: 10)')
  parser.add_argument('--no-reencoding', action='store_true', help='do not try '
                      'a few videos made anew')
  parser.add_argument('--json', action='store_true', help='print figures for '
                      'machines')
  parser.set_defaults(run=_benchmark_input)


def _benchmark_input(arguments):
  import json

  from input_pipeline import advisor
  from input_pipeline import prepare
  from vidattn_jax import wiring
  from vidattn_jax.tools import chips
  from vidattn_jax.tools import complexity
  from vidattn_jax.tools import networks
  for name in ('clips', 'seconds', 'utilization'):
    if not getattr(arguments, name) > 0:
      raise ValueError(f'--{name} must be above 0.')
  config = wiring.resolve(
      networks.load_config(arguments.config, arguments.overrides))
  wanted, source = arguments.clips_per_second, 'as given'
  if arguments.chip and not wanted:
    chip = chips.get_chip(arguments.chip)
    model, _ = networks.build(networks.arguments_of_config(config))
    macs = complexity.complexity(model).macs
    wanted = chips.clips_per_second(chip, macs, arguments.utilization)
    source = (f'{arguments.chip}: {chip.flops / 1e12:.0f} Tflop/s, of which '
              f'training reaches {arguments.utilization:.0%}, at '
              f'{6 * macs / 1e9:.1f} Gflop a clip')
  recipe = None if arguments.no_reencoding else prepare.make_recipe('fast')
  advice = advisor.advise(
      config, clips=arguments.clips, seconds=arguments.seconds, recipe=recipe,
      wanted=wanted, wanted_by=source)
  print(json.dumps(advice.to_json(), indent=1) if arguments.json else advice)
  return 0
