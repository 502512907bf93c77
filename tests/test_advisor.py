"""What the input costs, and the advice drawn from it."""

import json

import numpy as np
import pytest

from input_pipeline import advisor
from input_pipeline import decode
from input_pipeline import prepare
from input_pipeline import sources
from input_pipeline import synthetic
from vidattn_jax import cli
from vidattn_jax.tools import chips
from vidattn_jax.tools import networks


def _cost(decoding, total, size=1000):
  return advisor.Cost(np.asarray(decoding), np.asarray(total), size)


def _advice(**values):
  return advisor.Advice(**{
      'now': _cost([0.02, 0.04], [0.03, 0.05]), 'before': None, 'after': None,
      'rate': 30.0, 'cores': 2, **values})


def test_cores_are_what_a_chip_takes_times_the_time_of_a_clip():
  advice = _advice(wanted=500.0, wanted_by='by hand')
  # 0.04 s of a core for each of 500 clips.
  assert advice.cores_needed == (20.0, 20.0)
  assert '500 clips/s (by hand): 20.0 cores keep it busy.' in str(advice)
  advice = _advice(wanted=500.0, before=_cost([0.03], [0.04]),
                   after=_cost([0.01], [0.02], 800))
  assert advice.gain == 2.0
  assert advice.cores_needed == (20.0, 10.0)
  assert '2.0 times as many clips of a core, in 0.8 times' in str(advice)
  assert '20.0 cores keep it busy, 10.0 with data made anew.' in str(advice)


def test_a_loss_is_no_advice():
  advice = _advice(wanted=500.0, before=_cost([0.02], [0.02]),
                   after=_cost([0.03], [0.03]))
  assert 'would gain nothing' in str(advice)
  assert advice.cores_needed == (20.0, 20.0)
  assert advice.to_json()['gain'] == pytest.approx(2 / 3)


def test_a_chip_takes_what_its_operations_allow():
  # 197e12 * 0.5 operations a second, 6 for each multiply-add.
  found = chips.clips_per_second(chips.get_chip('v5e'), 197 * 10 ** 9, 0.5)
  assert found == pytest.approx(1000 / 12)
  with pytest.raises(ValueError, match="no chip 'v5'; did you mean"):
    chips.get_chip('v5')


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  """Sixteen training and eight evaluation clips."""
  root = tmp_path_factory.mktemp('clips') / 'data'
  synthetic.generate(str(root), num_train=16, num_eval=8, seed=3, processes=1)
  return root


@pytest.fixture(scope='module')
def config(clips):
  """A configuration that reads them."""
  return networks.load_config('configs/own_videos.py', [
      f'--config.data.root={clips}', '--config.data.resize=64',
      '--config.model.crop_size=(56,56)', '--config.batch_size=4'])


def test_videos_made_anew_hold_the_same_frames(config, tmp_path):
  dataset = sources.load(config.data, 'train')
  before, after = advisor.reencoded(
      dataset, config, prepare.make_recipe('fast'), str(tmp_path), videos=2)
  assert len(after.records) == 2
  for old, new in zip(before.records, after.records, strict=True):
    assert new.path != old.path and new.name == old.name
    assert new.entry.num_frames == old.num_frames
    frames = [decode.decode_frames(r.path, [0, old.num_frames - 1]).astype(int)
              for r in (old, new)]
    near = np.abs(frames[0] - frames[1]).mean()
    assert near < 0.6 * np.abs(frames[0] - frames[1][::-1]).mean()


def test_a_clip_costs_no_less_than_its_frames(config):
  dataset = sources.load(config.data, 'train')
  cost = advisor.measure(dataset, config, clips=3)
  assert cost.decode.shape == cost.total.shape == (3,)
  assert (cost.decode > 0).all() and (cost.total > 0).all()
  assert cost.bytes > 1000
  assert cost.clips_per_second == pytest.approx(3 / cost.total.sum())


def test_a_video_that_cannot_be_read_is_named(config, clips):
  dataset = sources.load(config.data, 'train')
  lost = dataset.records[0]
  lost = advisor.dataclasses.replace(lost, path=str(clips / 'none.mp4'))
  with pytest.raises(decode.VideoError, match='none.mp4: no such file'):
    advisor.measure(advisor.dataclasses.replace(dataset, records=(lost,)),
                    config, clips=1)


def test_the_command(clips, capsys):
  flags = ['benchmark-input', '--config=configs/own_videos.py',
           f'--config.data.root={clips}', '--config.batch_size=2',
           '--config.data.resize=64', '--config.model.crop_size=(56,56)']
  assert cli.main([*flags, '--chip=v5e', '--clips=2', '--seconds=0.1',
                   '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['now']['clips'] == 2 and found['clips_per_second'] > 0
  assert found['cores_needed'] == pytest.approx(
      found['wanted_clips_per_second'] * found['now']['total_ms'] / 1e3)
  assert found['after']['bytes'] > 0


@pytest.mark.parametrize('flags, says', [
    (['--chip=v7'], "no chip 'v7'"),
    (['--clips=0'], '--clips must be above 0'),
    (['--config.data.rot=1'], 'no key .*rot'),
    (['--config.batch_size=many'], 'many')])
def test_the_command_says_what_is_wrong(clips, flags, says):
  with pytest.raises(SystemExit, match=says):
    cli.main(['benchmark-input', '--config=configs/own_videos.py',
              f'--config.data.root={clips}', *flags])


def test_keys_change_only_beside_a_configuration():
  with pytest.raises(SystemExit, match=r'goes with --config=FILE'):
    cli.main(['complexity', '--model', 'tsn_r18', '--config.batch_size=2'])
