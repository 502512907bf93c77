"""Commands about actions in untrimmed videos."""

import json
import os


def add_evaluate_detections(commands):
  """Adds `vidattn evaluate-detections`."""
  parser = commands.add_parser(
      'evaluate-detections', help='judge detected segments',
      description='Prints the mean average precision of detections, with how '
      'it was found beside each figure.')
  parser.add_argument('truth', metavar='TRUTH', help='true segments: JSON in '
                      "ActivityNet's layout, a CSV table, or a folder of "
                      "THUMOS'14")
  parser.add_argument('detections', nargs='+', metavar='FILE',
                      help="JSON in ActivityNet's layout, a CSV table, a text "
                      "file of THUMOS'14 or an .npz file")
  parser.add_argument('--subset', metavar='NAME', help='of the true segments')
  parser.add_argument('--rule', nargs='+', default=['thumos14'],
                      metavar='NAME', help='thumos14 or activitynet, or both '
                      '(default: thumos14)')
  parser.add_argument('--thresholds', nargs='+', type=float, metavar='T',
                      help='overlaps that make a detection right (default: '
                      '0.1 to 0.7)')
  parser.add_argument('--videos', metavar='213|212|210|FILE',
                      help="the test videos of THUMOS'14 that count, or a "
                      'list of names (default: all of the subset)')
  parser.add_argument('--count-ambiguous', action='store_true',
                      help='detections that touch ambiguous segments are '
                      'judged as others are')
  parser.add_argument('--nms-margin', type=float, metavar='M',
                      help='first suppress what overlaps a surer detection by '
                      "more than T - M; THUMOS'14 codes have 0.1 (default: "
                      'no suppression)')
  parser.add_argument('--per-class', action='store_true',
                      help='print the figure of every class')
  parser.add_argument('--out', metavar='FILE.json', help='write all figures')
  parser.set_defaults(run=_evaluate_detections)


def _evaluate_detections(arguments):
  from input_pipeline import annotations
  from input_pipeline import lists
  from vidattn_jax.detection import evaluation
  if arguments.out and not os.path.isdir(
      os.path.dirname(os.path.abspath(arguments.out))):
    raise ValueError(f'--out: {os.path.dirname(arguments.out)} is no folder.')
  truth = annotations.read(arguments.truth, arguments.subset)
  videos = arguments.videos
  if videos and videos.isdecimal():
    videos = evaluation.thumos14_videos(truth.videos, int(videos))
  elif videos:
    lines = lists.read_lines(videos, '--videos')
    videos = [line.strip() for line in lines if line.strip()]
  found = {}
  for path in arguments.detections:
    detections = annotations.read_detections(path, truth)
    found[path] = [evaluation.evaluate(
        truth.videos, detections, truth.classes, rule=rule, videos=videos,
        thresholds=arguments.thresholds or evaluation.THRESHOLDS,
        ambiguous=not arguments.count_ambiguous,
        nms_margin=arguments.nms_margin) for rule in arguments.rule]
  for path, results in found.items():
    print(path)
    for result in results:
      print(evaluation.table(result, arguments.per_class))
    # What is odd does not depend on the rule.
    for note in results[0].notes:
      print(f'  noted: {note}')
  if arguments.out:
    with open(arguments.out, 'w', encoding='utf-8') as file:
      json.dump({path: [result.to_json() for result in results]
                 for path, results in found.items()}, file, indent=1)
    print(f'Written to {arguments.out}')
