"""Something-Something V1 (folders of frames) and V2 (WebM files)."""

from input_pipeline.layouts import listing

_CLASSES = 174


def read_v1(folder):
  """Reads `something-something-v1-{labels,train,validation,test}.csv`.

  The owners give the classes no numbers. They are sorted by name here, as V2's
  are, and as those of published networks.

  Args:
    folder: holds the CSV files and 20bn-something-something-v1/.

  Returns:
    listing.Listing; videos are folders of 00001.jpg and so on.

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  stem = 'something-something-v1-'
  names = []
  for where, fields in listing.semicolons(
      listing.find(folder, f'{stem}labels.csv')):
    if len(fields) != 1 or fields[0] in names:
      raise ValueError(f'{where}: {";".join(fields)!r} is no class name, or '
                       'stands twice')
    names.append(fields[0])
  classes = tuple(sorted(names))
  ids = {name: i for i, name in enumerate(classes)}

  def rows(kind):
    path = listing.find(folder, f'{stem}{kind}.csv', optional=kind == 'test')
    for where, fields in listing.semicolons(path) if path else ():
      if len(fields) != 1 + (kind != 'test') or (
          kind != 'test' and fields[1] not in ids):
        raise ValueError(f"{where}: it is not 'video"
                         f"{';class' * (kind != 'test')}' of a class in "
                         f'{stem}labels.csv')
      yield listing.Row(fields[0], None if kind == 'test' else ids[fields[1]])

  return _listing(
      'Something-Something V1', folder, classes, rows, '{:05d}.jpg',
      {'train': 86017, 'val': 11522, 'test': 10960})


def read_v2(folder):
  """Reads `something-something-v2-{labels,train,validation,test}.json`.

  The later names, `train.json` and so on, are read, too. A video's class
  is its template without the brackets.

  Args:
    folder: holds the JSON files and 20bn-something-something-v2/.

  Returns:
    listing.Listing; videos are files VIDEO.webm, or folders of 000001.jpg and
    so on if there are such.

  Raises:
    ValueError: a file is missing, or holds something else.
  """
  def file(kind, optional=False):
    return listing.find(folder, f'something-something-v2-{kind}.json',
                        f'labels/{kind}.json', f'{kind}.json',
                        optional=optional)

  path = file('labels')
  ids = {}
  for name, label in listing.read_json(path, dict).items():
    ids[name] = label
  numbers = sorted(str(n) for n in ids.values())
  if numbers != sorted(str(n) for n in range(len(ids))):
    raise ValueError(f'{path}: its classes are not numbered 0 to '
                     f'{len(ids) - 1}')
  classes = tuple(sorted(ids, key=lambda name: int(ids[name])))

  def rows(kind):
    path = file(kind, optional=kind == 'test')
    items = listing.read_json(path, list) if path else ()
    for number, item in enumerate(items, 1):
      name = str(item.get('template', '')) if isinstance(item, dict) else ''
      name = name.replace('[', '').replace(']', '')
      if not isinstance(item, dict) or not item.get('id') or (
          kind != 'test' and name not in ids):
        raise ValueError(f'{path}, item {number}: it is no video of a class in '
                         f'{file("labels")}: {str(item)[:100]}')
      yield listing.Row(f'{item["id"]}.webm',
                        None if kind == 'test' else int(ids[name]))

  return _listing(
      'Something-Something V2', folder, classes, rows, '{:06d}.jpg',
      {'train': 168913, 'val': 24777, 'test': 27157})


def _listing(name, folder, classes, rows, template, expected):
  if not classes:
    raise ValueError(f'{folder}: the file of labels names no class')
  splits = {'train': tuple(rows('train')), 'val': tuple(rows('validation')),
            'test': tuple(rows('test'))}
  if not splits['test']:  # it has no labels: many do not keep it
    del splits['test']
  paths = [row.path for part in splits.values() for row in part]
  root, found = listing.find_root(folder, paths)
  if paths and paths[0].endswith('.webm'):
    stems = [path.removesuffix('.webm') for path in paths]
    of_frames, count = listing.find_root(folder, stems)
    if count > found:
      root = of_frames
      splits = {
          key: tuple(listing.Row(r.path.removesuffix('.webm'), r.label)
                     for r in part) for key, part in splits.items()}
  settings = {}
  if any(not r.path.endswith('.webm') for r in splits['train'][:1]):
    settings['frame_template'] = template
  return listing.Listing(
      name, root, classes, splits,
      {key: expected[key] for key in splits} | {'classes': _CLASSES},
      'that of the owners; the test set is listed without labels',
      settings=settings)
