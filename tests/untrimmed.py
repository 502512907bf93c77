"""Small untrimmed sets for tests: grey videos in which colours flash."""

import json

import numpy as np

from input_pipeline import synthetic

CLASSES = ('blue', 'red')


def write(root, videos, frames=96, size=40, fps=25):
  """Writes videos and annotations in the layout of ActivityNet.

  Args:
    root: folder.
    videos: {name: (subset, [(first frame, one past the last, class name)])}.
    frames: of each video.
    size: height and width.
    fps: frames per second.

  Returns:
    What the annotations file holds.
  """
  (root / 'videos').mkdir(parents=True, exist_ok=True)
  database = {}
  for number, (name, (subset, actions)) in enumerate(sorted(videos.items())):
    rng = np.random.default_rng(number)
    pixels = rng.integers(60, 120, (frames, size, size, 3), dtype=np.uint8)
    for start, stop, label in actions:
      pixels[start:stop, 8:-8, 8:-8, 2 if label == 'blue' else 0] = 250
    synthetic.encode(str(root / 'videos' / f'{name}.mp4'), pixels, fps=fps)
    database[name] = {'subset': subset, 'duration': frames / fps,
                      'annotations': [{'segment': [a / fps, b / fps],
                                       'label': label}
                                      for a, b, label in actions]}
  content = {'version': 'test', 'taxonomy': list(CLASSES),
             'database': database}
  (root / 'annotations.json').write_text(json.dumps(content))
  return content


def config(c, root, **overrides):
  """Makes a configuration that of a small untrimmed set."""
  with c.unlocked():
    c.update_from_flattened_dict({
        'data.root': str(root), 'detection.annotations': 'annotations.json',
        'detection.windows': (8, 16, 32), 'data.resize': (36, 36),
        'model.crop_size': (32, 32), 'model.num_frames': 8, 'data.flip': 0.0,
        'data.crop': 'random', 'batch_size': 4, 'eval.batch_size': 4,
        'compile_cache': '', 'mesh.data': 1,
        **{k.replace('__', '.'): v for k, v in overrides.items()}})
  return c
