"""Diving48, the cleaned labels V2."""

from input_pipeline.layouts import listing


def read(folder):
  """Reads `Diving48_V2_train.json`, `Diving48_V2_test.json` and the vocabulary.

  The clips are trimmed: `start_frame` is 0, and the whole file is taken.

  Args:
    folder: holds the three JSON files and rgb/.

  Returns:
    listing.Listing.

  Raises:
    ValueError: a file is missing, or holds something else.
  """
  path = listing.find(folder, 'Diving48_vocab.json')
  classes = []
  for words in listing.read_json(path, list):
    if not isinstance(words, list) or not all(
        isinstance(word, str) for word in words):
      raise ValueError(f'{path}: {words!r} is no class of four words')
    classes.append(' '.join(words))
  if len(set(classes)) != len(classes) or not classes:
    raise ValueError(f'{path}: it names no class, or one twice')
  splits = {kind: tuple(_rows(
      listing.find(folder, f'Diving48_V2_{kind}.json'), len(classes)))
            for kind in ('train', 'test')}
  root, _ = listing.find_root(
      folder, [row.path for rows in splits.values() for row in rows])
  return listing.Listing(
      'Diving48 V2', root, tuple(classes), splits,
      {'train': 15027, 'test': 1970, 'classes': 48},
      'that of the owners, at random')


def _rows(path, count):
  for number, item in enumerate(listing.read_json(path, list), 1):
    where = f'{path}, item {number}'
    if not isinstance(item, dict) or not {
        'vid_name', 'label', 'start_frame', 'end_frame'} <= item.keys():
      raise ValueError(f'{where}: it has not vid_name, label, start_frame and '
                       f'end_frame: {str(item)[:100]}')
    if item['start_frame'] != 0:
      raise ValueError(f'{where}: start_frame is {item["start_frame"]}, though '
                       'the clips of V2 are trimmed')
    yield listing.Row(f'{item["vid_name"]}.mp4',
                      listing.number(item['label'], count, where))
