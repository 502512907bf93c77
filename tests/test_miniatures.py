"""Each named data set in miniature: unpacked, listed, prepared, trained on."""

import json

import numpy as np
import pytest

from configs import aia_something
from input_pipeline import batches
from input_pipeline import datasets
from input_pipeline import sources
import main
from tests import owners
from tests import small
from vidattn_jax import cli

pytestmark = pytest.mark.slow

# Options of the miniature, and the names of the first videos that evaluate.
_CASES = {
    'diving48': ({'packed': True}, '-test0Q_00000.mp4'),
    'egtea': ({}, 'OP01-R01-PastaSalad/OP01-R01-PastaSalad-1000-1900-F001-F01'
              '.mp4'),
    'epic55': ({'packed': True}, 'P26/P26_03@0-10'),
    'hmdb51': ({}, 'brush_hair/brush_hair_a_b_goo_0.avi'),
    'kinetics400': ({}, 'val/zumba/-vzu_defghi_000012_000022.mp4'),
    'something_v1': ({}, '7'),
    'something_v2': ({'packed': True}, '106.webm'),
    'thumos14': ({}, 'test/video_test_0000051.mp4@0.1-0.5'),
    'ucf101': ({}, 'Archery/v_Archery_g01_c01.avi'),
}


def _config(keys):
  """One configuration for all, so that one program is compiled."""
  config = small.shrink(aia_something.get_config('tsm,v1,8'))
  with config.unlocked():
    config.update_from_flattened_dict({
        'data.flip_pairs': (), 'data.workers': 0, 'data.resize': (40, 40),
        'data.classes': '', 'num_epochs': 0.3, **keys})
  return config


def _batches(config):
  """Returns two steps of training, and all of the evaluation."""
  train, held = (sources.load(config.data, split) for split in sources.SPLITS)
  return [*batches.train_batches(train, config, num_steps=2),
          *batches.eval_batches(held, config)]


def _assert_same(ours, theirs):
  assert len(ours) == len(theirs) > 2
  for a, b in zip(ours, theirs, strict=True):
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize('name', sorted(_CASES))
def test_from_the_owners_files_to_scores(name, tmp_path, capsys):
  options, first = _CASES[name]
  root = tmp_path / 'data'
  getattr(owners, name)(root, owners.encode, **options)
  assert cli.main(['datasets', name, str(root), '--unpack', '--partial']) == 0
  capsys.readouterr()
  found = datasets.read(name, str(root))
  found = datasets.without(found, datasets.missing(found))
  places = datasets.write(found)  # once more, as the command did
  keys = datasets.keys(found, places)
  assert cli.main(
      ['prepare', str(root), f'--dataset={name}', '--partial', '--workers=1',
       f'--out={tmp_path}/prepared', '--name=mini', '--shards=2']) == 0
  prepared = f'{tmp_path}/prepared/mini/1.0.0'
  # Its lists lie in it.
  config = _config({
      key: value.replace(found.root, prepared) for key, value in keys.items()})
  # They hold the same frames as the owners' files.
  _assert_same(_batches(config), _batches(_config(keys)))
  workdir = tmp_path / 'run'
  result = main.run(config, str(workdir))
  held = next(rows for key, rows in found.splits.items()
              if key.startswith(('val', 'test')))
  assert result.names[0] == first
  np.testing.assert_array_equal(result.labels, [row.label for row in held])
  assert [n.partition('@')[0] for n in result.names] == [r.path for r in held]
  again = main.run(config, str(workdir), 'evaluate')
  np.testing.assert_array_equal(again.scores, result.scores)
  card = json.loads(next((workdir / 'eval').glob('*.json')).read_text())
  assert card['data']['eval']['videos'] == len(held)
  assert card['data']['eval']['dropped'] == []
  with np.load(next((workdir / 'eval').glob('*.npz'))) as scores:
    assert first in scores['names'].tolist()
