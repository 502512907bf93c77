"""The command that computes optical flow."""

import contextlib
import os
import sys


def add_flow(commands):
  """Adds `vidattn flow`."""
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
  parser.add_argument('--size', type=_size, default=0, metavar='PIXELS',
                      help='size to which frames are brought before: short '
                      'side, or HEIGHT,WIDTH (default: their own)')
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


def _size(text):
  sides = [int(side) for side in text.split(',')]
  return sides[0] if len(sides) == 1 else sides


def _flow(arguments):
  import tqdm

  from input_pipeline import flow
  from input_pipeline import sources
  from vidattn_jax.tools import flow as methods
  naming = arguments.frame_template, arguments.first_frame
  videos = sources.gather_videos(arguments.videos, arguments.list, *naming)
  method = flow.Method(**methods.get_method(arguments.method))
  with contextlib.ExitStack() as stack:
    bar = None

    def begin(kept):
      nonlocal bar
      # What was there took no time: the rate is that of the others.
      bar = stack.enter_context(tqdm.tqdm(
          total=len(videos), initial=kept, unit='video'))

    def report(name, reason):
      if reason:
        bar.write(f'{name}: {reason}', file=sys.stderr)
      bar.update()

    summary = flow.extract(
        videos, arguments.out, method, bound=arguments.bound,
        size=arguments.size, encoding=arguments.format,
        workers=arguments.workers,
        frame_template=naming[0], first_frame=naming[1], begin=begin,
        report=report)
  print(summary)
  return 1 if summary.dropped else 0
