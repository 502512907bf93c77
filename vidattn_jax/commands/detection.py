"""Commands about actions in untrimmed videos."""

import csv
import functools
import json
import os
import sys


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


def add_detect(commands):
  """Adds `vidattn detect`."""
  parser = commands.add_parser(
      'detect', help='find actions in an untrimmed video',
      description='Streams through a video once for each network, prints the '
      'segments that are found and, with --out, writes them: detections.json '
      "(ActivityNet's layout), detections.csv, timeline.svg and timeline.png, "
      'bars under a film strip.')
  parser.add_argument('video', metavar='VIDEO')
  parser.add_argument('--checkpoint', required=True, action='append',
                      metavar='DIR', help='a workdir, or one checkpoint in '
                      'it; a second one is shown below the first')
  parser.add_argument('--which', default='best', metavar='WHICH',
                      help='best, latest or a step (default: best)')
  parser.add_argument('--out', metavar='DIR', help='folder for the files')
  parser.add_argument('--truth', metavar='FILE', help='true segments, as '
                      'evaluate-detections takes them; shown, too')
  parser.add_argument('--subset', metavar='NAME', help='of the true segments')
  parser.add_argument('--name', metavar='NAME', help='of the video in them '
                      '(default: the name of the file)')
  parser.add_argument('--least-score', type=float, default=0.05, metavar='S',
                      help='leave out what is less sure (default: 0.05)')
  parser.add_argument('--most', type=int, default=100, metavar='N',
                      help='segments of each network (default: 100)')
  parser.set_defaults(run=_detect)


def _detect(arguments):
  from input_pipeline import annotations
  from input_pipeline import containers
  from input_pipeline import decode
  from vidattn_jax.detection import checks
  from vidattn_jax.tools import detect
  from vidattn_jax.tools import timeline
  from vidattn_jax.training import detections

  if arguments.most < 1:
    raise ValueError(f'--most={arguments.most} must be at least 1.')
  name = arguments.name or os.path.splitext(
      os.path.basename(os.path.normpath(arguments.video)))[0]
  rows, classes, true = [], [], None
  if arguments.truth:
    truth = annotations.read(arguments.truth, arguments.subset)
    known = annotations.find_names([name], truth.videos)[name]
    if known is None:
      raise ValueError(
          f'--truth: {arguments.truth} annotates no video {name!r}; there are '
          f'{next(iter(truth.videos))!r} and others (--name chooses).')
    classes += truth.classes
    true = truth.videos[known]
    for row in annotations.ended(true, sys.float_info.max)['segments']:
      checks.check_segment(known, row, len(truth.classes))
  detectors = {path: detect.load_detector(
      path, arguments.which, lambda text: print(text, file=sys.stderr))
               for path in arguments.checkpoint}
  if arguments.out:
    os.makedirs(arguments.out, exist_ok=True)
  strip, table, written, errors = [], [], [], []
  titles = _titles(detectors)
  for number, (path, detector) in enumerate(detectors.items()):
    naming = detector.frame_template, detector.first_frame
    # The length as the header tells it: no pass over the video only for that.
    entry = (decode.probe_folder(arguments.video, *naming)
             if os.path.isdir(arguments.video)
             else decode.probe(arguments.video, 'header'))
    if entry.error:
      raise containers.VideoError(arguments.video, entry.error)
    found, seconds, broken = _stream(arguments, detector, entry,
                                     strip if number == 0 else None)
    errors += broken
    title = titles[path]
    segments = [(start, end, detector.classes[label], score)
                for _, start, end, label, score in zip(*(
                    found[key].tolist() for key in (
                        'video', 'start', 'end', 'label', 'score')))]
    print(f'{arguments.video}, {timeline.clock(seconds)}: {len(segments)} '
          f'segments by {path}')
    for start, end, label, score in segments:
      print(f'  {start:9.2f} {end:9.2f} s  {score:6.1%}  {label}')
      table.append((name, f'{start:.3f}', f'{end:.3f}', label, f'{score:.6g}',
                    title))
    rows.append(timeline.Row(title, segments))
    classes += [c for c in detector.classes if c not in classes]
    if arguments.out:
      file = f'detections{"_" + str(number + 1) if number else ""}.json'
      written.append(file)
      found['video'] = [name] * len(segments)
      with open(os.path.join(arguments.out, file), 'w',
                encoding='utf-8') as json_file:
        json.dump(detections.to_activitynet(
            found, detector.classes, [name]), json_file, indent=1)
  if true:
    rows.insert(0, timeline.Row('truth', [
        (start, end, truth.classes[label], None) for start, end, label in
        annotations.ended(true, seconds)['segments']]))
  if arguments.out:
    with open(os.path.join(arguments.out, 'detections.csv'), 'w', newline='',
              encoding='utf-8') as file:
      csv.writer(file).writerows(
          [('video', 'start', 'end', 'label', 'score', 'model'), *table])
    with open(os.path.join(arguments.out, 'timeline.svg'), 'w',
              encoding='utf-8') as file:
      file.write(timeline.draw(name, seconds, rows, classes, strip))
    timeline.paint(name, seconds, rows, classes, strip).save(
        os.path.join(arguments.out, 'timeline.png'))
    written += ['detections.csv', 'timeline.svg', 'timeline.png']
    print(f'Written to {arguments.out}: {", ".join(written)}')
  if errors:
    raise errors[0]


def _titles(paths) -> dict:
  """Returns {path: the fewest of its last parts that tell it from others}."""
  parts = {path: os.path.normpath(path).split(os.sep) for path in paths}
  for size in range(1, max(map(len, parts.values())) + 1):
    titles = {path: '/'.join(p[-size:]) for path, p in parts.items()}
    if len(set(titles.values())) == len(parts):
      return titles
  return {path: path for path in paths}  # a and a/


# Frames of the film strip, and their height in pixels.
_STRIP, _STRIP_HEIGHT = 12, 120


def _stream(arguments, detector, entry, strip):
  """Returns what is found in a video, its seconds, and what damage was met.

  Fills the strip. If the video cannot be read to its end, what came before is
  looked at.
  """
  import numpy as np
  import tqdm

  from input_pipeline import containers
  from input_pipeline import pieces
  from input_pipeline import timing
  from vidattn_jax.tools import detect
  from vidattn_jax.tools import pictures
  numbered, _ = timing.renumber(entry, detector.pixels)
  if not numbered.rate:
    raise containers.VideoError(arguments.video, 'its frames have no times')
  starts, lengths = detector.lay(numbered.num_frames)
  if not len(starts):
    raise containers.VideoError(
        arguments.video, f'it has {numbered.num_frames} frames; the shortest '
        f'window has {detector.pixels["detection"]["windows"][0]}')
  shown = set() if strip is None else set(np.linspace(
      0, numbered.num_frames - 1, 2 * _STRIP + 1).astype(int)[1::2].tolist())
  broken = []
  with tqdm.tqdm(total=numbered.num_frames, desc='detect', unit=' frames',
                 mininterval=1.0, dynamic_ncols=True) as bar:

    def look(number, frame):
      if number in shown:
        strip.append(pictures.resize(frame[None], _STRIP_HEIGHT)[0])
      bar.update()

    frames = pieces.seen_frames(
        arguments.video, entry, detector.pixels,
        template=detector.frame_template, first_frame=detector.first_frame,
        look=look)
    place = functools.partial(pieces.slot, index=0, rate=numbered.rate, mask=1)

    def slots():
      try:
        for i, clip in pieces.cut(frames, starts, lengths,
                                  detector.pixels['num_frames']):
          yield place(clip, start=starts[i], length=lengths[i])
      except containers.VideoError as error:
        if not bar.n:
          raise
        broken.append(error)

    found = detect.detect(
        detector, pieces.batched(slots(), detector.rows, detector.pixels),
        arguments.least_score, arguments.most,
        numbered.num_frames / numbered.rate)
  if strip:
    # What could not be read is grey.
    strip += [np.full_like(strip[0], 200)] * (len(shown) - len(strip))
  # What follows the last piece is shorter than a step, and not looked at.
  if broken:
    print(f'{arguments.video}: it cannot be read after frame {bar.n}; what was '
          'found before is kept.', file=sys.stderr)
  elif bar.n < (starts + lengths).max():
    print(f'{arguments.video}: its header promises {numbered.num_frames} '
          f'frames; {bar.n} could be had.', file=sys.stderr)
  return found, numbered.num_frames / numbered.rate, broken
