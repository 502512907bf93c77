"""Commands about networks: complexity and convert."""

import os


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


def add_complexity(commands):
  """Adds `vidattn complexity`."""
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
  sources = {path: networks.arguments_of_config(
      networks.load_config(path, arguments.overrides))
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


def add_convert(commands):
  """Adds `vidattn convert`."""
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
        networks.load_config(arguments.config, arguments.overrides),
        num_classes=None)
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
