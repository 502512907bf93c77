"""Data sets turned into shards: the same frames, the same bytes, once."""

import errno
import fractions
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import av
import fsspec
import numpy as np
from PIL import Image
import pytest

from configs import common
from input_pipeline import batches
from input_pipeline import datasets
from input_pipeline import decode
from input_pipeline import prepare
from input_pipeline import records
from input_pipeline import reencode
from input_pipeline import resizing
from input_pipeline import sources
from input_pipeline import storage
from input_pipeline import synthetic
from tests import owners

# Encoder, pixel format, options and number of frames of each video.
VIDEOS = {
    'jump/gop.mp4': ('libx264', 'yuv420p', {'g': '12', 'bf': '0'}, 20),
    'jump/bframes.avi': ('mpeg4', 'yuv420p', {'g': '12', 'bf': '2'}, 25),
    'jump/long.mp4': ('libx264', 'yuv420p', {'g': '250', 'bf': '3'}, 30),
    'run/deep.mp4': ('libx264', 'yuv420p10le', {'g': '12'}, 16),
    'run/plain.avi': ('mpeg4', 'yuv420p', {'g': '12'}, 18),
    'run/full_range.avi': ('mjpeg', 'yuvj420p', {}, 16),
}
FRAMES = {name: count for name, (*_, count) in VIDEOS.items()} | {
    'run/frames': 17}


def scene(count, seed, height=48, width=64):
  """A smooth moving texture of few colours, which encoders keep well."""
  rng = np.random.default_rng(seed)
  small = rng.integers(40, 215, (6, 10, 1)) + rng.integers(-40, 40, 3)
  small = small.clip(0, 255).astype(np.uint8)
  large = np.asarray(Image.fromarray(small).resize(
      (width + count, height), Image.Resampling.BICUBIC))
  return np.stack([large[:, i:i + width] for i in range(count)])


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """A folder of classes: files of many kinds, and a folder of frames."""
  root = tmp_path_factory.mktemp('corpus')
  for i, (name, (codec, pix_fmt, options, count)) in enumerate(VIDEOS.items()):
    (root / name).parent.mkdir(exist_ok=True)
    synthetic.encode(str(root / name), scene(count, i), codec,
                     pix_fmt=pix_fmt, options=options)
  folder = root / 'run' / 'frames'
  folder.mkdir()
  for i, frame in enumerate(scene(FRAMES['run/frames'], 9)):
    Image.fromarray(frame).save(folder / f'{i + 1:05d}.jpg')
  (root / 'jump' / 'broken.mp4').write_bytes(b'no video at all')
  (root / 'jump' / 'notes.doc').write_bytes(b'')
  return root


def data(root, **values):
  section = common.get_config().data
  section.root = str(root)
  section.max_bad_fraction = 0.2
  with section.unlocked():
    section.update(values)
  return section


def make(corpus, out, profile='copy', num_shards=3, name='clips', recipe=(),
         lists=(), **options):
  """Prepares in this process, as the command does."""
  return prepare.run(
      prepare.find(name, data(corpus, **dict(lists))), str(out),
      prepare.make_recipe(profile, **dict(recipe)), num_shards=num_shards,
      max_bad_fraction=0.2, **options)


@pytest.fixture(scope='module')
def copied(corpus, tmp_path_factory):
  return make(corpus, tmp_path_factory.mktemp('copied'))


def read(record, config_data, indices=None):
  return batches.read_frames(
      record, range(record.num_frames) if indices is None else indices,
      config_data)


def test_the_report_counts_and_names(copied):
  assert copied.videos == {'videos': 7}
  assert copied.frames == sum(FRAMES.values())
  assert [name for name, _ in copied.dropped] == ['jump/broken.mp4']
  assert 'not a video' in copied.dropped[0][1]
  assert [name for name, _ in copied.ignored] == ['jump/notes.doc']
  assert copied.shards == 3 and copied.kept == 0
  with open(os.path.join(copied.root, 'report.json'), encoding='utf-8') as file:
    stored = json.load(file)
  assert stored['frames'] == copied.frames
  assert stored['dropped'] == [list(copied.dropped[0])]
  assert 'Dropped jump/broken.mp4' in str(copied)
  sizes = [os.path.getsize(os.path.join(copied.root, name))
           for name in os.listdir(copied.root) if '.array_record-' in name]
  assert copied.stored_bytes == sum(sizes)


def test_folder_and_records_are_one_data_set(corpus, copied):
  for split in sources.SPLITS:
    folder = sources.load(data(corpus), split)
    prepared = sources.load(data(copied.root), split)
    assert prepared.classes == folder.classes == ('jump', 'run')
    assert [(r.name, r.label, r.num_frames) for r in prepared.records] == (
        [(r.name, r.label, r.num_frames) for r in folder.records])
    assert prepared.fingerprint == folder.fingerprint
    bad = [item for item in folder.dropped if 'notes' not in item[0]]
    assert list(prepared.dropped) == bad
    for a, b in zip(folder.records, prepared.records, strict=True):
      assert storage.split_record(b.path)
      assert a.entry.pts == b.entry.pts
      np.testing.assert_array_equal(read(a, data(corpus)),
                                    read(b, data(copied.root)))
      indices = [a.num_frames - 1, 3, 3]
      np.testing.assert_array_equal(read(a, data(corpus), indices),
                                    read(b, data(copied.root), indices))


def test_records_are_not_probed_again(copied, monkeypatch):
  monkeypatch.setattr(sources.index, 'build', lambda paths, *_, **__: (
      {} if not paths else pytest.fail(f'asked for {paths}')))
  assert len(sources.load(data(copied.root), 'train').records) == 5


_TFDS = '''
import hashlib, json, sys
import tensorflow_datasets as tfds
out, root = sys.argv[1:]
sets = {}
for name, source in (
    ('by_name', tfds.data_source('clips', data_dir=out, split='videos')),
    ('by_folder', tfds.builder_from_directory(root).as_data_source('videos'))):
  sets[name] = [
      [row['name'].decode(), [text.decode() for text in row['labels']],
       [int(i) for i in row['label_ids']], row['suffix'].decode(),
       row['num_frames'], hashlib.sha256(row['video']).hexdigest()]
      for row in source]
assert not [m for m in sys.modules if m.partition('.')[0] == 'tensorflow']
print(json.dumps(sets))
'''


def test_tensorflow_datasets_reads_the_folder_without_tensorflow(
    corpus, copied):
  out = os.path.dirname(os.path.dirname(copied.root))
  done = subprocess.run([sys.executable, '-c', _TFDS, out, copied.root],
                        capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  sets = json.loads(done.stdout.splitlines()[-1])
  assert sets['by_name'] == sets['by_folder']
  rows = {row[0]: row[1:] for row in sets['by_name']}
  assert list(rows) == sorted(FRAMES)
  for name, (labels, ids, suffix, num_frames, digest) in rows.items():
    label = name.partition('/')[0]
    assert (labels, ids) == ([label], [('jump', 'run').index(label)])
    assert num_frames == FRAMES[name]
    if name != 'run/frames':
      blob = (corpus / name).read_bytes()
      assert suffix == os.path.splitext(name)[1]
      assert digest == hashlib.sha256(blob).hexdigest()


def test_frames_of_a_folder_are_stored_unchanged(corpus, copied):
  entry = records.read_catalog(copied.root)['run/frames']
  assert (entry.label, entry.split) == ('run', 'videos')
  with zipfile.ZipFile(storage.media(entry.place)) as archive:
    names = sorted(os.listdir(corpus / 'run' / 'frames'))
    assert archive.namelist() == names
    for name in names:
      assert archive.read(name) == (
          corpus / 'run' / 'frames' / name).read_bytes()


def stream(root, workers, steps=3):
  """Returns the bytes of the training stream."""
  config = common.get_config()
  config.data = data(root, workers=workers, threads=1, resize=48)
  config.batch_size = 4
  config.model.num_frames = 4
  config.model.crop_size = (32, 32)
  dataset = sources.load(config.data, 'train')
  return [(batch['index'].tolist(), batch['label'].tolist(),
           batch['mask'].tolist(), batch['video'].tobytes())
          for batch in batches.train_batches(
              dataset, config, start_step=0, num_steps=steps)]


def test_the_training_stream_is_the_same_from_folder_and_records(
    corpus, copied):
  assert stream(corpus, 0) == stream(copied.root, 0)


@pytest.mark.slow
def test_the_training_stream_is_the_same_at_any_number_of_workers(
    corpus, copied):
  expected = stream(corpus, 0)
  for root in (corpus, copied.root):
    for workers in (1, 2):
      assert stream(root, workers) == expected


def test_splits_of_folders_are_splits(corpus, tmp_path):
  root = tmp_path / 'split'
  root.mkdir()
  for split in ('train', 'val'):
    (root / split).symlink_to(corpus)
  report = make(root, tmp_path / 'out')
  assert report.videos == {'train': 7, 'eval': 7}
  for split in sources.SPLITS:
    a, b = sources.load(data(root), split), sources.load(
        data(report.root), split)
    assert [r.name for r in a.records] == [r.name for r in b.records]
    assert a.fingerprint == b.fingerprint


def test_overlapping_lists_are_lists_in_one_prepared_folder(corpus, tmp_path):
  train = tmp_path / 'train1.txt'
  train.write_text('jump/gop.mp4 jump\nrun/deep.mp4 run\nrun/frames run\n'
                   'jump/none.mp4 jump\n')
  test = tmp_path / 'test1.txt'
  test.write_text('run/plain.avi run\njump/gop.mp4 jump\n')
  report = make(corpus, tmp_path / 'out', lists={
      'train_list': str(train), 'eval_list': str(test)})
  assert report.videos == {'videos': 4}
  assert report.dropped == (('jump/none.mp4', 'no such file'),)
  for lists in ({'train_list': 'train.txt', 'eval_list': 'eval.txt'},
                {'train_list': str(train), 'eval_list': str(test)}):
    section = data(report.root, classes='classes.txt', max_bad_fraction=0.3,
                   **lists)
    found = sources.load(section, 'train')
    assert [(r.name, r.label) for r in found.records] == [
        ('jump/gop.mp4', 0), ('run/deep.mp4', 1), ('run/frames', 1)]
    assert [name for name, _ in found.dropped] == ['jump/none.mp4']
    assert [r.name for r in sources.load(section, 'eval').records] == [
        'run/plain.avi', 'jump/gop.mp4']


def test_a_store_takes_and_gives_a_prepared_set(corpus, tmp_path, monkeypatch):
  monkeypatch.setenv('VIDATTN_CACHE', str(tmp_path / 'cache'))
  files = fsspec.filesystem('memory')
  files.store.clear()
  storage._local_copy_of_url.cache_clear()
  try:
    report = make(corpus, 'memory://bucket/out')
    assert report.root == 'memory://bucket/out/clips/1.0.0'
    local = sources.load(data(corpus), 'train')
    remote = sources.load(data(report.root), 'train')
    assert remote.fingerprint == local.fingerprint
    for a, b in zip(local.records, remote.records, strict=True):
      np.testing.assert_array_equal(read(a, data(corpus)),
                                    read(b, data(report.root)))
    again = make(corpus, 'memory://bucket/out')
    assert again.kept == again.shards == 3
  finally:
    files.store.clear()
    storage._local_copy_of_url.cache_clear()


def psnr(a, b):
  """Peak signal-to-noise ratio of 8-bit pixels, dB."""
  error = ((a.astype(np.float64) - b) ** 2).mean()
  return 10 * np.log10(255 ** 2 / error)


@pytest.mark.parametrize('profile, least', [('fast', 33), ('jpeg', 35)])
def test_frame_i_is_frame_i_after_encoding(corpus, tmp_path, profile, least):
  report = make(corpus, tmp_path, profile, recipe={'short_side': 32})
  originals = {r.name: r for split in sources.SPLITS
               for r in sources.load(data(corpus), split).records}
  prepared = {r.name: r for split in sources.SPLITS
              for r in sources.load(data(report.root), split).records}
  assert prepared.keys() == originals.keys()
  for name, record in prepared.items():
    assert record.num_frames == FRAMES[name]
    frames = read(record, data(report.root))
    wanted = resizing.resize(read(originals[name], data(corpus)), (32, 42))
    assert psnr(frames, wanted) > least
    # No other frame is as near: none was lost, doubled or moved.
    distances = np.abs(frames[:, None].astype(int) - wanted[None]).mean(
        (2, 3, 4))
    np.testing.assert_array_equal(distances.argmin(1), np.arange(len(frames)))
    if profile == 'fast':
      assert record.entry.codec == 'h264'
      assert record.entry.keyframes[:2] == (0, 12)
      assert record.entry.rate == pytest.approx(25)


def write_with_times(path, frames, times, unit):
  """Writes a video whose frames have their own times."""
  with av.open(str(path), 'w') as output:
    stream = output.add_stream('mpeg4', rate=25)
    stream.height, stream.width = frames.shape[1:3]
    stream.time_base = stream.codec_context.time_base = unit
    for frame, time in zip(frames, times, strict=True):
      picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
      picture.pts, picture.time_base = time, unit
      output.mux(stream.encode(picture))
    output.mux(stream.encode())


def test_times_are_kept_and_merge_no_frames(tmp_path):
  times = [0, 1, 2, 5, 6, 107, 108, 1000, 1001, 1002, 5000, 5001]
  (tmp_path / 'in' / 'run').mkdir(parents=True)
  video = tmp_path / 'in' / 'run' / 'variable.mkv'
  write_with_times(video, scene(12, 0), times, fractions.Fraction(1, 1000))
  entry = decode.probe(video)
  assert entry.times() == times
  report = make(tmp_path / 'in', tmp_path / 'out', 'fast',
                recipe={'short_side': 0})
  found = records.read_catalog(report.root)['run/variable.mkv'].entry
  unit = found.time_base[0] / found.time_base[1]
  np.testing.assert_allclose(np.array(found.times()) * unit,
                             np.array(times) / 1000, atol=1e-9)


def test_times_that_do_not_rise_are_counted():
  entry = decode.IndexEntry(4, rate=12.5, pts=((0, 0, 2), (3, 1, 2)),
                            time_base=(1, 25))
  assert entry.times() == [0, 0, 3, 4]
  assert reencode.times_of(entry, 0, 4) == ([0, 1, 2, 3],
                                            fractions.Fraction(2, 25))
  assert reencode.times_of(entry, 1, 3) == ([0, 3, 4],
                                            fractions.Fraction(1, 25))


def test_upright_frames_are_stored_upright(shared, tmp_path):
  (tmp_path / 'in' / 'run').mkdir(parents=True)
  source = shared / 'data' / 'clips' / 'rotated_90.mov'
  shutil.copy(source, tmp_path / 'in' / 'run')
  shapes = {}
  for rotate in (True, False):
    report = make(tmp_path / 'in', tmp_path / f'out{rotate}', 'fast',
                  recipe={'short_side': 0, 'rotate': rotate})
    entry, = records.read_catalog(report.root).values()
    frames = decode.decode_all(entry.place)
    assert entry.entry.rotation == 0
    wanted = decode.decode_all(source, rotate=rotate)
    shapes[rotate] = frames.shape
    assert psnr(frames, wanted[:, :frames.shape[1], :frames.shape[2]]) > 30
  assert shapes[True] != shapes[False]


def test_segments_become_records_of_their_own_or_share_one(corpus, tmp_path):
  table = tmp_path / 'train.csv'
  table.write_text('path,label,start,stop\n'
                   'jump/gop.mp4,a,2,9\nrun/plain.avi,b,0,4\n'
                   'jump/gop.mp4,b,5,99\njump/gop.mp4,b,40,50\n')
  lists = {'train_list': str(table), 'csv_start': 'start', 'csv_stop': 'stop',
           'max_bad_fraction': 0.3}
  originals = sources.load(data(corpus, **lists), 'train')
  assert [r.num_frames for r in originals.records] == [7, 4, 15]
  for profile, count in (('copy', 2), ('fast', 3)):
    report = prepare.run(
        prepare.find('clips', data(corpus, **lists)), str(tmp_path / profile),
        prepare.make_recipe(profile, short_side=0), num_shards=1,
        max_bad_fraction=0.3)
    assert report.frames == 26
    header = records.read_header(report.root)
    assert [part['records'] for part in header['splits']['train']] == [count]
    # By its own split, and by the list that it was made from.
    for section in (data(report.root, max_bad_fraction=0.3),
                    data(report.root, **lists)):
      found = sources.load(section, 'train')
      assert [(r.name, r.label, r.num_frames) for r in found.records] == [
          (r.name, r.label, r.num_frames) for r in originals.records]
      assert [name for name, _ in found.dropped] == ['jump/gop.mp4@40-50']
      if profile == 'copy':
        assert found.fingerprint == originals.fingerprint
      for a, b in zip(originals.records, found.records, strict=True):
        assert psnr(read(a, data(corpus)), read(b, section) + 0.01) > 30


def test_segments_of_folders_have_archives_of_their_own(corpus, tmp_path):
  table = tmp_path / 'train.csv'
  table.write_text('path,label,start,stop\nrun/frames,a,2,9\n'
                   'run/frames,b,8,99\n')
  section = data(corpus, train_list=str(table), csv_start='start',
                 csv_stop='stop')
  report = prepare.run(prepare.find('clips', section), str(tmp_path / 'out'),
                       prepare.make_recipe('copy'), num_shards=1)
  assert report.source_bytes == sum(
      os.path.getsize(corpus / 'run' / 'frames' / f'{i + 1:05d}.jpg')
      for i in (*range(2, 9), *range(8, 17)))
  found = sources.load(data(report.root), 'train')
  assert [(r.name, r.num_frames) for r in found.records] == [
      ('run/frames@2-9', 7), ('run/frames@8-99', 9)]
  originals = sources.load(section, 'train')
  for a, b in zip(originals.records, found.records, strict=True):
    np.testing.assert_array_equal(read(a, section), read(b, data(report.root)))


def keys_of(found, folder):
  """Returns what a configuration's `data` needs to read the owners' lists."""
  section = {}
  for key, value in datasets.keys(found, datasets.write(found, folder)).items():
    _, key, *head = key.split('.')
    if head:
      section.setdefault(key, {})[head[0]] = value
    else:
      section[key] = value
  if isinstance(found.classes, dict):
    section['csv_labels'] = {head: head for head in found.classes}
  return section


@pytest.mark.parametrize('name, profile', [
    ('ucf101', 'copy'), ('something_v1', 'copy'), ('epic55', 'fast'),
    ('egtea', 'jpeg'), ('thumos14', 'copy')])
def test_named_data_sets_train_from_shards_with_their_owners_lists(
    name, profile, tmp_path):
  getattr(owners, name)(tmp_path / 'data', owners.encode)
  found = datasets.read(name, str(tmp_path / 'data'))
  report = prepare.run(
      prepare.from_listing(name, found), str(tmp_path / 'out'),
      prepare.make_recipe(profile, short_side=0), num_shards=2)
  assert not report.dropped
  keys = keys_of(found, str(tmp_path / 'lists'))
  # The same lists lie in the prepared folder.
  own = {key: os.path.basename(value) if key in (
      'train_list', 'eval_list', 'classes') else value
         for key, value in keys.items()} | {'root': report.root}
  for split in sources.SPLITS:
    a, b = (sources.load(data(**section), split) for section in (keys, own))
    assert a.classes == b.classes
    assert [(r.name, r.label, r.num_frames) for r in a.records] == [
        (r.name, r.label, r.num_frames) for r in b.records]
    assert all(storage.split_record(r.path) for r in b.records)
  config = common.get_config()
  config.batch_size = 2
  config.model.num_frames = 4
  config.model.crop_size = (32, 32)
  config.data = data(**own, resize=40)
  train = sources.load(config.data, 'train')
  batch = next(iter(batches.train_batches(train, config, num_steps=1)))
  assert batch['mask'].tolist() == [1, 1]


@pytest.mark.parametrize('multi', [False, True])
def test_several_labels_go_with_the_videos(corpus, tmp_path, multi):
  table = tmp_path / 'all.csv'
  table.write_text('path,label,noun,split\njump/gop.mp4,up;down,cat,train\n'
                   'run/plain.avi,,dog,train\nrun/deep.mp4,up,dog,train\n'
                   'jump/long.mp4,up,cat,val\njump/gop.mp4,up,cat,val\n')
  lists = {'train_list': str(table), 'csv_split': 'split',
           'missing_labels': 'skip'}
  lists |= {'labels': 'multi'} if multi else {
      'csv_labels': {'verb': 'label', 'noun': 'noun'}}
  report = make(corpus, tmp_path / 'out', lists=lists)
  own = dict(lists, train_list='train.csv', eval_list='eval.csv', csv_split='')
  if not multi:
    own['csv_labels'] = {'verb': 'verb', 'noun': 'noun'}
  for split in sources.SPLITS:
    a = sources.load(data(corpus, **lists), split)
    b = sources.load(data(report.root, **own), split)
    assert a.classes == b.classes
    assert [(r.name, r.label) for r in a.records] == [
        (r.name, r.label) for r in b.records]


@pytest.mark.parametrize('change, words', [
    ({'profile': 'small'}, "profile 'small' is unknown; choose copy, fast or"),
    ({'name': 'My Clips'}, "'My Clips' cannot name a data set"),
    ({'profile': 'jpeg'}, "with another recipe (ffmpeg="),
    ({'num_shards': 2}, 'in another number of shards (videos=3, not 2)'),
    ({'profile': 'fast', 'recipe': {'crf': 70}}, 'crf=70 must lie between'),
    ({'profile': 'jpeg', 'recipe': {'quality': 99}}, 'quality of 99'),
    ({'profile': 'jpeg', 'recipe': {'short_side': 3}}, 'side of 3 pixels'),
])
def test_what_cannot_be_is_said_before_any_work(
    corpus, copied, change, words, monkeypatch):
  monkeypatch.setattr(prepare.beam_runs, 'run', None)
  out = os.path.dirname(os.path.dirname(copied.root))
  with pytest.raises(ValueError) as error:
    make(corpus, out, **change)
  assert words in str(error.value)


def test_other_videos_and_other_files_are_refused(corpus, copied, tmp_path):
  out = os.path.dirname(os.path.dirname(copied.root))
  table = tmp_path / 'train.csv'
  table.write_text('path,label\njump/gop.mp4,jump\n')
  with pytest.raises(ValueError, match='was begun from other videos'):
    make(corpus, out, lists={'train_list': str(table)})
  root = tmp_path / 'out' / 'clips' / '1.0.0'
  root.mkdir(parents=True)
  (root / 'thesis.tex').touch()
  with pytest.raises(ValueError, match='holds other files'):
    make(corpus, tmp_path / 'out')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='holds no class folder'):
    make(tmp_path / 'empty', tmp_path / 'out')
  (tmp_path / 'file').touch()
  with pytest.raises(ValueError, match='cannot be written'):
    make(corpus, tmp_path / 'file')


def test_too_many_bad_videos_fail_but_their_shards_are_kept(corpus, tmp_path):
  found = prepare.find('clips', data(corpus))
  recipe = prepare.make_recipe('copy')
  with pytest.raises(ValueError, match='1 of 8 videos are unusable.*jump/brok'):
    prepare.run(found, str(tmp_path), recipe, num_shards=2)
  assert not records.is_prepared(tmp_path / 'clips' / '1.0.0')
  # What was mended since is taken with `retry`, and only its shard made anew.
  report = prepare.run(found, str(tmp_path), recipe, num_shards=2,
                       max_bad_fraction=0.2)
  assert report.kept == 2 and len(report.dropped) == 1
  broken = corpus / 'jump' / 'broken.mp4'
  content = broken.read_bytes()
  try:
    shutil.copy(corpus / 'jump' / 'gop.mp4', broken)
    report = prepare.run(found, str(tmp_path), recipe, num_shards=2, retry=True)
  finally:
    broken.write_bytes(content)
  assert report.kept == 1 and not report.dropped


def test_shards_of_changed_sources_are_made_anew(corpus, tmp_path):
  def run():
    return make(corpus, tmp_path, num_shards=2)

  run()
  assert run().kept == 2
  changed = corpus / 'jump' / 'gop.mp4'
  content = changed.read_bytes()
  try:
    shutil.copy(corpus / 'jump' / 'long.mp4', changed)
    report = run()
    assert report.kept == 1
    entry = records.open_prepared(report.root).catalog['jump/gop.mp4'].entry
    assert entry.size == changed.stat().st_size
    # What is gone is no reason: its shard is good.
    changed.unlink()
    changed.parent.joinpath('gop.mp4').symlink_to('nowhere.mp4')
    assert run().kept == 2
  finally:
    changed.unlink(missing_ok=True)
    changed.write_bytes(content)


def test_a_source_that_fails_is_dropped_and_named(corpus, tmp_path,
                                                  monkeypatch):
  original = storage.read_bytes

  def read(path):
    if str(path).endswith('gop.mp4'):
      raise OSError(errno.EIO, 'Input/output error')
    return original(path)

  monkeypatch.setattr(storage, 'read_bytes', read)
  # With the broken one they are too many; what is named is the file.
  with pytest.raises(ValueError, match=r'jump/gop\.mp4: it cannot be read now '
                     r'\(Input/output error\)'):
    make(corpus, tmp_path, num_shards=2)


def test_a_damaged_catalog_is_named(corpus, copied, tmp_path):
  root = tmp_path / 'set'
  shutil.copytree(copied.root, root)
  (root / 'clips-videos-00001-of-00003.json').write_text('{"layout": 1')
  with pytest.raises(ValueError, match='00001-of-00003.json cannot be read'):
    sources.load(data(root), 'train')
  (root / 'catalog.json').write_text('{"layout": 7}')
  with pytest.raises(ValueError, match='version 7, this program reads 1'):
    sources.load(data(root), 'train')


def test_a_missing_shard_is_named(copied, tmp_path):
  root = tmp_path / 'set'
  shutil.copytree(copied.root, root)
  for shard in root.glob('*.array_record-*'):
    shard.unlink()
  record = sources.load(data(root), 'train').records[0]
  with pytest.raises(decode.VideoError, match='array_record-.*no such file'):
    read(record, data(root))


_ENCODE = '''
import fractions, hashlib, sys
import numpy as np
from input_pipeline import reencode
rng = np.random.default_rng(0)
frames = rng.integers(0, 255, (30, 20, 30, 3), np.uint8)
frames = (frames // 4 + frames[:1] // 2).repeat(12, 1).repeat(12, 2)
encoder = reencode.H264(
    {'short_side': 0, 'gop': 12, 'crf': 20, 'preset': 'veryfast'},
    (list(range(30)), fractions.Fraction(1, 25)))
for frame in frames:
  encoder.add(frame)
print(hashlib.sha256(encoder.finish()).hexdigest())
'''


@pytest.mark.slow
def test_bytes_do_not_depend_on_memory_that_nobody_wrote():
  digests = {subprocess.run(
      [sys.executable, '-c', _ENCODE], capture_output=True, text=True,
      check=True, env={**os.environ, 'MALLOC_PERTURB_': filler}).stdout
             for filler in ('0', '1', '85', '255')}
  assert len(digests) == 1
