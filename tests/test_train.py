"""The training run: steps, resuming, stopping, errors, results."""

import dataclasses
import json
import os
import shutil
import signal

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import numpy as np
import pytest
import small

from vidattn_jax import convert
from vidattn_jax.training import checkpoint
from vidattn_jax.training import evaluate
from vidattn_jax.training import optim
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import train
from vidattn_jax.training import writer

_KEY = state_lib.key_data(0)


def _start(c, devices=1):
  """Returns (mesh, model, initial state), the same for any mesh."""
  mesh = sharding.make_mesh(c, jax.devices()[:devices])
  arguments = state_lib.model_arguments(c, len(small.CLASSES))
  model = state_lib.build_model(arguments, freeze=tuple(c.freeze),
                                partial_bn=c.partial_bn)
  state = state_lib.create_state(
      state_lib.init_variables(model, jax.random.key(0)), c)
  return mesh, model, state


def _steps(c, devices, count, state=None, shard_parameters=False, min_bytes=1):
  """Runs some steps and returns (state, losses)."""
  c = c.copy_and_resolve_references()
  with c.unlocked():
    c.mesh.data = devices
  mesh, model, fresh = _start(c, devices)
  shardings = sharding.state_sharding(
      mesh, jax.eval_shape(lambda: fresh), shard_parameters, min_bytes)
  state = jax.device_put(fresh if state is None else state, shardings)
  step = jax.jit(state_lib.make_train_step(model, c, len(small.CLASSES)),
                 out_shardings=(shardings, sharding.replicated(mesh)))
  losses = []
  batches = small.inputs(c).train_batches(0, count)
  for batch, rate in zip(batches, optim.learning_rates(c, 3), strict=False):
    batch = {k: batch[k] for k in ('video', 'label', 'mask')}
    state, metrics = step(state, sharding.to_devices(mesh, batch), _KEY, rate)
    losses.append(float(metrics['loss'] / metrics['count']))
  return jax.device_get(state), losses


def _differences(a, b):
  return jax.tree.map(lambda x, y: float(np.max(np.abs(
      np.asarray(x, np.float64) - np.asarray(y, np.float64)), initial=0.0)),
                      a, b)


def _same(a, b):
  return jax.tree.all(jax.tree.map(
      lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b))


@pytest.fixture(scope='module')
def plain():
  return small.config(model__dropout=0.5)


@pytest.fixture(scope='module')
def finished(plain, tmp_path_factory):
  """An undisturbed run: (workdir, result, state of its last checkpoint)."""
  workdir = tmp_path_factory.mktemp('finished')
  result = train.train_and_evaluate(plain, workdir, small.inputs(plain))
  return workdir, result, _last_state(plain, workdir)


def _last_state(c, workdir, step=None):
  _, _, state = _start(c)
  shapes = jax.eval_shape(lambda: state)
  shardings = sharding.state_sharding(sharding.make_mesh(c), shapes, False)
  checkpoints = checkpoint.Checkpoints(workdir)
  restored = checkpoints.restore(step or checkpoints.steps()[-1], shapes,
                                 shardings)
  checkpoints.close()
  return jax.device_get(restored)


def test_learns_and_writes_what_it_says(finished):
  workdir, result, state = finished
  assert int(state.step) == 9
  lines = writer.read_metrics(workdir)
  losses = [line['train/loss'] for line in lines if 'train/loss' in line]
  assert len(losses) == 9
  assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])
  assert [line['step'] for line in lines if 'eval/top1' in line] == [3, 6, 9]
  rates = [line['train/learning_rate'] for line in lines
           if 'train/loss' in line]
  np.testing.assert_allclose(rates, [0.05] * 6 + [0.005] * 3, rtol=1e-5)
  loaded = evaluate.load_result(workdir / 'eval' / 'step9_2x1x1.npz')
  assert loaded.names == result.names
  np.testing.assert_array_equal(loaded.scores, result.scores)
  card = json.loads((workdir / 'eval' / 'step9_2x1x1.json').read_text())
  assert card['result'] == result.summary()
  assert card['config']['model']['name'] == 'tsn_r18'
  assert (workdir / 'eval' / 'step9_2x1x1.png').stat().st_size > 10_000


@pytest.fixture
def compile_cache(tmp_path):
  """An empty folder that takes every program that is compiled."""
  keys = {'jax_compilation_cache_dir': str(tmp_path / 'cache'),
          'jax_persistent_cache_min_compile_time_secs': 0.0}
  before = {key: getattr(jax.config, key) for key in keys}
  try:
    for key, value in keys.items():
      jax.config.update(key, value)
    compilation_cache.reset_cache()
    yield tmp_path / 'cache'
  finally:
    for key, value in before.items():
      jax.config.update(key, value)
    compilation_cache.reset_cache()


def test_another_seed_or_rate_lowers_to_the_same_step():
  keys = {'model__dropout': 0.5, 'mixup_alpha': 0.2}
  texts = []
  for more in ({}, {'seed': 3, 'schedule__learning_rate': 0.01}):
    c = small.config(**keys, **more)
    model = state_lib.build_model(state_lib.model_arguments(c, 3))
    state = jax.eval_shape(lambda c=c, model=model: state_lib.create_state(
        state_lib.init_variables(model, jax.random.key(0)), c))
    batch = {'video': jax.ShapeDtypeStruct((8, *model.image_shape), np.uint8),
             'label': jax.ShapeDtypeStruct((8,), np.int32),
             'mask': jax.ShapeDtypeStruct((8,), np.float32)}
    texts.append(jax.jit(state_lib.make_train_step(model, c, 3)).lower(
        state, batch, state_lib.key_data(c.seed), np.float32(0.1)).as_text())
  assert texts[0] == texts[1]


@pytest.mark.slow
def test_another_seed_rate_or_data_set_takes_the_same_programs(
    compile_cache, tmp_path):
  keys = {'model__dropout': 0.5, 'num_epochs': 1.0, 'mixup_alpha': 0.2}
  runs = [
      (small.config(**keys), {}),
      (small.config(**keys, seed=2**40 + 1, schedule__learning_rate=0.01,
                    schedule__name='cosine'), {'count': 32, 'eval_count': 11})]
  programs = []
  for i, (c, more) in enumerate(runs):
    inputs = dataclasses.replace(small.inputs(c, **more), classes=(
        ('still', 'left', 'right'), ('up', 'down', 'round'))[i])
    train.train_and_evaluate(c, tmp_path / f'{i}', inputs)
    programs.append({path.name for path in compile_cache.glob('*-cache')
                     if path.name.startswith((
                         'jit_create-', 'jit_train_step-', 'jit_eval_step-'))})
  assert len(programs[0]) == 3
  assert programs[1] == programs[0]
  # And yet they are different runs.
  first, second = (checkpoint.Checkpoints(tmp_path / f'{i}').restore_variables(
      step)['params']['head']['kernel'] for i, step in ((0, 3), (1, 4)))
  assert np.abs(first - second).max() > 1e-4


def test_event_files_hold_the_metrics(finished):
  loading = pytest.importorskip(
      'tensorboard.backend.event_processing.event_accumulator')
  workdir, _, _ = finished
  events = loading.EventAccumulator(str(workdir / 'tensorboard'))
  events.Reload()
  wanted = [(line['step'], line['train/loss'])
            for line in writer.read_metrics(workdir) if 'train/loss' in line]
  got = [(e.step, e.value) for e in events.Scalars('train/loss')]
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_checkpoint_evaluates_to_the_scores_of_the_run(finished, plain):
  workdir, result, _ = finished
  c = plain.copy_and_resolve_references()
  with c.unlocked():
    c.eval.checkpoint = 'latest'
  again = train.evaluate_checkpoint(c, workdir, small.inputs(c))
  np.testing.assert_array_equal(again.scores, result.scores)


def test_views_are_averaged_exactly_at_any_pass_size(finished, plain):
  workdir, _, state = finished
  c = plain.copy_and_resolve_references()
  with c.unlocked():
    c.eval.update(clips=2, crops=3, checkpoint='latest')
  model = state_lib.build_model(
      state_lib.model_arguments(c, len(small.CLASSES)))
  views = np.concatenate([b['video'][b['mask'] > 0] for b in
                          small.inputs(c).eval_batches()])
  step = jax.jit(state_lib.make_eval_step(model, c.data.mean, c.data.std,
                                          'float32'))
  logits = np.asarray(step(state.variables(), views))
  # Views lie crop by crop: a clip's crops are three apart by two.
  clips = logits.reshape(10, 3, 2, -1).mean(1)
  for views_per_pass, batch_size, average in (
      (1, 8, 'logits'), (8, 2, 'logits'), (40, 8, 'logits'),
      (4, 1, 'probabilities')):
    with c.unlocked():
      c.eval.update(views_per_pass=views_per_pass, batch_size=batch_size,
                    average=average)
    got = train.evaluate_checkpoint(c, workdir, small.inputs(c))
    want = clips
    if average == 'probabilities':
      p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
      want = p.reshape(10, 3, 2, -1).mean(1)
    np.testing.assert_allclose(got.clip_scores, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.scores, want.mean(1), rtol=1e-4, atol=1e-5)


def test_signal_saves_and_the_rest_is_bitwise_the_same(finished, plain,
                                                       tmp_path):
  _, _, undisturbed = finished
  stop_at = 5
  original = small.inputs(plain)

  def signalling(start, num_steps):
    for step, batch in enumerate(original.train_batches(start, num_steps),
                                 start):
      if step == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  inputs = dataclasses.replace(original, train_batches=signalling)
  assert train.train_and_evaluate(plain, tmp_path, inputs) is None
  steps = checkpoint.Checkpoints(tmp_path).steps()
  assert 0 < steps[-1] < 9
  result = train.train_and_evaluate(plain, tmp_path, small.inputs(plain))
  assert result is not None
  assert _same(_last_state(plain, tmp_path), undisturbed)
  lines = [line['step'] for line in writer.read_metrics(tmp_path)
           if 'train/loss' in line]
  assert lines == list(range(1, 10))


def test_damaged_newest_checkpoint_is_told_and_the_one_before_used(
    finished, plain, tmp_path, capsys):
  _, _, undisturbed = finished
  train.train_and_evaluate(plain, tmp_path, small.inputs(plain))
  # The last step's arrays are cut short, as by a full disk.
  for path in (tmp_path / 'checkpoints' / '9' / 'state').rglob('*'):
    if path.is_file() and path.parent.name == 'd':
      path.write_bytes(path.read_bytes()[:20])
  capsys.readouterr()
  train.train_and_evaluate(plain, tmp_path, small.inputs(plain))
  said = capsys.readouterr().err
  assert 'checkpoints/9 is damaged' in said and 'at step 6' in said
  assert _same(_last_state(plain, tmp_path), undisturbed)


def test_changed_bytes_are_noticed(plain, tmp_path, capsys):
  train.train_and_evaluate(plain, tmp_path, small.inputs(plain))
  largest = max((p for p in (tmp_path / 'checkpoints' / '9').rglob('*')
                 if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  middle = len(data) // 2
  data[middle:middle + 8] = bytes(255 - b for b in data[middle:middle + 8])
  largest.write_bytes(bytes(data))
  with pytest.raises(checkpoint.CheckpointError, match='is damaged'):
    checkpoint.Checkpoints(tmp_path).restore_variables(9)
  said = []
  _, description, step = checkpoint.load(tmp_path, 'latest', said.append)
  assert step == description['step'] == 6
  assert 'checkpoints/9 is damaged' in said[0]


def test_unreadable_description_is_told_and_another_taken(plain, tmp_path):
  train.train_and_evaluate(plain, tmp_path, small.inputs(plain))
  path = tmp_path / 'checkpoints' / '9' / '_CHECKPOINT_METADATA'
  path.write_text('{broken')
  said = []
  _, _, step = checkpoint.load(tmp_path, 'latest', said.append)
  assert step == 6 and len(said) == 1


def test_classes_that_the_data_do_not_have_are_refused(tmp_path):
  c = small.config(model__num_classes=5)
  with pytest.raises(ValueError, match='num_classes is 5, but the data have 3'):
    train.train_and_evaluate(c, tmp_path, small.inputs(c))


def test_a_wrong_start_does_not_claim_the_workdir(tmp_path):
  wrong = small.config(init_from=str(tmp_path / 'none.pth'))
  with pytest.raises(ValueError, match='none.pth'):
    train.train_and_evaluate(wrong, tmp_path, small.inputs(wrong))
  c = small.config(num_epochs=1.0)
  assert train.train_and_evaluate(c, tmp_path, small.inputs(c)) is not None


def test_evaluation_that_lost_its_videos_fails(plain, finished):
  workdir, _, _ = finished
  inputs = small.inputs(plain)

  def without(batches=inputs.eval_batches):
    for batch in batches():
      yield {**batch, 'mask': batch['mask'] * (batch['index'] > 2)}

  with pytest.raises(train.TrainingError, match=r'3 of 10 evaluation videos'):
    train.evaluate_checkpoint(plain, workdir, dataclasses.replace(
        inputs, eval_batches=without))


def test_other_videos_do_not_overwrite_scores(plain, finished):
  workdir, _, _ = finished
  c = plain.copy_and_resolve_references()
  with c.unlocked():
    c.eval.checkpoint = 'latest'
  before = {p.name for p in (workdir / 'eval').glob('*.npz')}
  train.evaluate_checkpoint(c, workdir, dataclasses.replace(
      small.inputs(c), card={'train': {}, 'eval': {'sha256': 'other'}}))
  new = {p.name for p in (workdir / 'eval').glob('*.npz')} - before
  assert len(new) == 1


def test_checkpoint_of_another_model_names_every_leaf(finished, plain):
  workdir, _, _ = finished
  c = small.config(model__width=1 / 8)
  _, _, state = _start(c)
  shapes = jax.eval_shape(lambda: state)
  shardings = sharding.state_sharding(sharding.make_mesh(c), shapes, False)
  with pytest.raises(checkpoint.CheckpointError) as error:
    checkpoint.Checkpoints(workdir).restore(9, shapes, shardings)
  text = str(error.value)
  assert 'conv1/kernel: (7, 7, 3, 4) in the checkpoint, (7, 7, 3, 8)' in text


def test_leaves_are_compared_by_name():
  with pytest.raises(checkpoint.CheckpointError) as error:
    checkpoint.compare_leaves({'a': (2,), 'b': (3,), 'c': (1,)},
                              {'a': (2,), 'b': (4,), 'd': (5,)}, 'DIR')
  text = str(error.value)
  assert 'b: (3,) in the checkpoint, (4,) in the model' in text
  assert 'd: missing in the checkpoint, (5,) in the model' in text
  assert 'c: (1,) in the checkpoint, unknown to the model' in text
  assert '\n  a:' not in text


def test_workdir_of_another_configuration_is_refused(finished, plain):
  workdir, _, _ = finished
  c = small.config(schedule__learning_rate=0.2)
  with pytest.raises(ValueError, match=r'schedule.learning_rate=0.05.*0.2'):
    train.train_and_evaluate(c, workdir, small.inputs(c))
  counted = small.config(data__index='header')
  with pytest.raises(ValueError, match="data.index='decode'"):
    train.train_and_evaluate(counted, workdir, small.inputs(counted))
  changed = dataclasses.replace(small.inputs(plain),
                                card={'train': {'sha256': 'xyz'}, 'eval': {}})
  with pytest.raises(ValueError, match='abc, now xyz'):
    train.train_and_evaluate(plain, workdir, changed)


def test_a_workdir_from_before_a_key_is_gone_on_with(
    finished, plain, tmp_path):
  workdir = shutil.copytree(finished[0], tmp_path / 'old')
  file = workdir / 'config.json'
  content = json.loads(file.read_text())
  assert content['config']['data'].pop('transfer') == 'rgb'
  file.write_text(json.dumps(content))
  changed = small.config(data__transfer='yuv')
  with pytest.raises(ValueError, match="data.transfer='rgb'.*'yuv'"):
    train.train_and_evaluate(changed, workdir, small.inputs(changed))
  assert train.train_and_evaluate(plain, workdir, small.inputs(plain))


def test_loss_that_is_no_number_stops_with_names_and_checkpoint(tmp_path):
  c = small.config(eval__every_epochs=9.0)
  with pytest.raises(train.TrainingError) as error:
    train.train_and_evaluate(c, tmp_path, small.inputs(c, poison=4))
  text = str(error.value)
  rows = np.random.default_rng((7, 4)).permutation(24)[:8]
  assert 'at step 5' in text
  assert ', '.join(f'train{i}' for i in rows) in text
  assert str(tmp_path / 'checkpoints' / '3') in text
  assert checkpoint.Checkpoints(tmp_path).steps() == [3]


def test_unreadable_videos_do_not_count_and_too_many_stop_the_run(
    plain, tmp_path, capsys):
  c = small.config(data__max_bad_fraction=0.1)
  batch = next(small.inputs(c, bad=(3, 5)).train_batches(0, 1))
  rows = batch['index'].tolist()
  assert 3 in rows or 5 in rows
  train.train_and_evaluate(c, tmp_path / 'few', small.inputs(c, bad=(3, 5)))
  assert ('2 training videos could not be read and did not count: train3, '
          'train5') in capsys.readouterr().err
  # The card names them, also that of a run which only goes on.
  train.train_and_evaluate(c, tmp_path / 'few', small.inputs(c))
  card = json.loads((tmp_path / 'few/eval/step9_2x1x1.json').read_text())
  assert card['data']['train']['unreadable'] == ['train3', 'train5']
  with pytest.raises(train.TrainingError, match='max_bad_fraction'):
    train.train_and_evaluate(c, tmp_path / 'many',
                             small.inputs(c, bad=(3, 5, 7, 9)))
  c.data.update(bad_videos='fail', max_bad_fraction=1.0)
  with pytest.raises(train.TrainingError,
                     match=r"than data\.bad_videos='fail' allows: train3"):
    train.train_and_evaluate(c, tmp_path / 'none', small.inputs(c, bad=(3,)))


def test_masked_clips_leave_the_loss_alone():
  c = small.config(model__dropout=0.0, model__attention='', partial_bn=True)
  mesh, model, state = _start(c)
  step = jax.jit(state_lib.make_train_step(model, c, 3))
  clips, labels = small.videos(8)
  mask = np.ones(8, np.float32)
  mask[[1, 6]] = 0
  del mesh
  # Statistics of the first BatchNorm see every clip, so the masked ones are
  # replaced by copies of others' pixels: labels then cannot matter.
  changed = labels.copy()
  changed[[1, 6]] = (labels[[1, 6]] + 1) % 3
  (a, first), (b, second) = (
      step(state, {'video': clips, 'label': label, 'mask': mask}, _KEY, 0.05)
      for label in (labels, changed))
  assert float(first['count']) == 6
  assert float(first['loss']) == float(second['loss'])
  assert _same(a.params, b.params)


def test_accumulated_parts_equal_one_batch_where_statistics_do():
  # Clip i and i + 1 are the same, so each half has the whole batch's
  # statistics.
  c = small.config(model__dropout=0.0, optimizer__clip_norm=0.0)
  clips, labels = (np.repeat(x, 2, axis=0) for x in small.videos(4))
  batch = {'video': clips, 'label': labels, 'mask': np.ones(8, np.float32)}
  _, model, state = _start(c)
  results = []
  for parts in (1, 2):
    with c.unlocked():
      c.accumulate_steps = parts
    results.append(jax.jit(state_lib.make_train_step(model, c, 3))(
        state, batch, _KEY, 0.05))
  (one, first), (two, second) = results
  assert float(first['loss']) == pytest.approx(float(second['loss']), rel=1e-5)
  gap = _differences(one.params, two.params)
  assert max(jax.tree.leaves(gap)) < 2e-6
  # The statistics moved twice instead of once.
  assert not _same(one.batch_stats, two.batch_stats)


def test_eight_devices_equal_one_after_a_step():
  c = small.config(model__dropout=0.5)
  one, loss = _steps(c, 1, 1)
  for shard_parameters in (False, True):
    eight, losses = _steps(c, 8, 1, shard_parameters=shard_parameters)
    assert losses[0] == pytest.approx(loss[0], rel=1e-6)
    assert max(jax.tree.leaves(_differences(one.params, eight.params))) < 1e-6
    assert max(jax.tree.leaves(_differences(
        one.batch_stats, eight.batch_stats))) < 1e-6


@pytest.mark.slow
def test_eight_devices_equal_one_after_twenty_steps_in_float64():
  c = small.config(model__dtype='float64', model__dropout=0.5,
                   num_epochs=20 / 3)
  with jax.enable_x64(True):
    _, _, state = _start(c)
    wide = jax.tree.map(lambda x: x.astype(np.float64) if (
        x.dtype == np.float32) else x, state)
    one, losses = _steps(c, 1, 20, wide)
    eight, again = _steps(c, 8, 20, wide, shard_parameters=True)
  assert one.params['head']['kernel'].dtype == np.float64
  np.testing.assert_allclose(losses, again, rtol=1e-9)
  gap = _differences((one.params, one.batch_stats),
                     (eight.params, eight.batch_stats))
  assert max(jax.tree.leaves(gap)) < 1e-9


def test_a_checkpoint_of_eight_devices_is_restored_on_fewer(tmp_path):
  def lay(devices):
    mesh, _, fresh = _start(small.config(mesh__data=devices), devices)
    return fresh, sharding.state_sharding(
        mesh, jax.eval_shape(lambda: fresh), True, min_bytes=1)

  fresh, shardings = lay(8)
  state = jax.device_put(fresh, shardings)
  kernel = state.params['head']['kernel']
  assert len(kernel.sharding.device_set) == 8
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(state, {'classes': list(small.CLASSES)})
  checkpoints.wait()
  for devices in (1, 2, 4):
    shapes, wanted = jax.eval_shape(lambda: fresh), lay(devices)[1]
    found = checkpoints.restore(0, shapes, wanted)
    assert _same(found, fresh)
    assert jax.tree.all(jax.tree.map(
        lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), found, wanted))
    assert any(not x.sharding.is_fully_replicated
               for x in jax.tree.leaves(found.params)) == (devices > 1)
  checkpoints.close()


def test_parameter_sharding_splits_large_leaves_only():
  mesh = sharding.make_mesh(small.config(mesh__data=8))
  shapes = {'large': jax.ShapeDtypeStruct((3, 512, 16), jnp.float32),
            'odd': jax.ShapeDtypeStruct((1001, 1003), jnp.float32),
            'small': jax.ShapeDtypeStruct((16,), jnp.float32)}
  got = sharding.state_sharding(mesh, shapes, True, min_bytes=1000)
  assert got['large'].spec == jax.sharding.PartitionSpec(None, 'data')
  assert got['odd'].spec == got['small'].spec == jax.sharding.PartitionSpec()


def test_batch_that_does_not_divide_is_told_with_the_mend(tmp_path):
  c = small.config(mesh__data=8, batch_size=12)
  with pytest.raises(ValueError, match=r'batch_size is 12, which 8 devices do '
                     r'not divide evenly; use a multiple of 8, such as 8'):
    train.train_and_evaluate(c, tmp_path, small.inputs(c))


def test_frozen_layers_and_their_statistics_stay(tmp_path):
  c = small.config(freeze=('backbone/conv1', 'backbone/bn1',
                           'backbone/layer1'))
  _, _, before = _start(c)
  after, _ = _steps(c, 1, 2)
  for tree in ('params', 'batch_stats'):
    moved = jax.tree_util.tree_leaves_with_path(
        _differences(getattr(before, tree), getattr(after, tree)))
    for path, gap in moved:
      name = optim.path_name(path)
      fixed = name.startswith(('backbone/conv1', 'backbone/bn1',
                               'backbone/layer1/'))
      assert (gap == 0) == fixed, name


def test_moving_average_is_what_is_evaluated():
  c = small.config(ema_decay=0.9, model__dropout=0.0)
  _, _, start = _start(c)
  after, _ = _steps(c, 1, 1)
  want = jax.tree.map(lambda a, b: 0.9 * np.asarray(a) + 0.1 * np.asarray(b),
                      start.params, after.params)
  gap = _differences(want, after.ema)
  assert max(jax.tree.leaves(gap)) < 1e-6
  assert after.variables()['params'] is after.ema


def test_plateau_lowers_the_rate_of_the_run(tmp_path):
  c = small.config(schedule__name='plateau', schedule__patience=0,
                   num_epochs=4.0, schedule__learning_rate=1e-9)
  # At this rate the loss stands still; it must fall by 1e-4 to count.
  train.train_and_evaluate(c, tmp_path, small.inputs(c))
  lines = writer.read_metrics(tmp_path)
  rates = {line['step']: line['train/learning_rate'] for line in lines
           if 'train/learning_rate' in line}
  evaluated = [line['eval/loss'] for line in lines if 'eval/loss' in line]
  best, scale = np.inf, 1.0
  for i, loss in enumerate(evaluated[:-1]):
    if loss < best * (1 - 1e-4):
      best = loss
    else:
      scale *= 0.1
    assert rates[3 * (i + 1) + 1] == pytest.approx(1e-9 * scale, rel=1e-5)
  assert scale < 1


@pytest.mark.slow
def test_bfloat16_keeps_weights_and_statistics_in_float32():
  c = small.config(model__dtype='bfloat16', model__dropout=0.0)
  single = small.config(model__dropout=0.0)
  after, losses = _steps(c, 1, 2)
  _, reference = _steps(single, 1, 2)
  assert {x.dtype for x in jax.tree.leaves((after.params, after.batch_stats))
          } == {np.dtype('float32')}
  np.testing.assert_allclose(losses, reference, rtol=0.05)
  assert losses != reference


def test_every_video_is_scored_once_whatever_the_padding():
  batches = [
      {'video': np.zeros((2, 1)), 'label': np.asarray([1, 0]),
       'mask': np.asarray([1.0, 1.0]), 'index': np.asarray([2, 0])},
      {'video': np.ones((2, 1)), 'label': np.asarray([2, 1]),
       'mask': np.asarray([1.0, 0.0]), 'index': np.asarray([3, 2])}]

  def score(variables, views):
    del variables
    return np.broadcast_to(views[:, None], (2, 1, 3)) * np.ones((2, 1, 3))

  got = evaluate.evaluate(None, batches, score, ('a', 'b', 'c', 'd'),
                          ('x', 'y', 'z'))
  assert got.names == ('a', 'c', 'd')
  assert got.unreadable == ('b',)
  assert got.labels.tolist() == [0, 1, 2]
  assert got.scores[:, 0].tolist() == [0, 0, 1]


def test_file_without_scores_is_named(tmp_path):
  path = tmp_path / 'x.npz'
  with pytest.raises(ValueError, match='does not exist'):
    evaluate.load_result(path)
  path.write_text('no archive')
  with pytest.raises(ValueError, match=r'x.npz holds no scores'):
    evaluate.load_result(path)


def test_directory_without_checkpoints_is_told(tmp_path):
  with pytest.raises(ValueError, match='holds no checkpoints'):
    checkpoint.load(tmp_path)


def test_starts_from_a_checkpoint_of_other_classes(finished, tmp_path, capsys):
  workdir, _, state = finished
  # At rate 0 the weights stay what they were at the start.
  c = small.config(model__num_classes=5, init_from=str(workdir),
                   schedule__learning_rate=0.0, num_epochs=1.0,
                   model__attention='CinST')
  inputs = dataclasses.replace(
      small.inputs(c), classes=(*small.CLASSES, 'up', 'down'))
  train.train_and_evaluate(c, tmp_path, inputs)
  said = capsys.readouterr().err
  assert 'head/kernel (5 classes here, 3 there)' in said
  assert 'attention/H/bn' in said
  best = checkpoint.Checkpoints(workdir).best_step()
  source = _last_state(small.config(), workdir, best)
  started = checkpoint.Checkpoints(tmp_path).restore_variables(3)
  np.testing.assert_array_equal(
      started['params']['backbone']['conv1']['kernel'],
      source.params['backbone']['conv1']['kernel'])
  assert started['params']['head']['kernel'].shape[-1] == 5
  del state


def test_starts_from_a_published_file(finished, tmp_path, capsys):
  _, _, state = finished
  c = small.config(schedule__learning_rate=0.0, num_epochs=1.0)
  _, model, _ = _start(c)
  names = convert.to_torch(model, state.variables(), 'tsn')
  path = tmp_path / 'weights.safetensors'
  small.write_safetensors(path, names)
  with c.unlocked():
    c.init_from = str(path)
  train.train_and_evaluate(c, tmp_path / 'run', small.inputs(c))
  said = capsys.readouterr().err
  assert f'Weights from {path}' in said and '0 fresh' in said
  started = checkpoint.Checkpoints(tmp_path / 'run').restore_variables(3)
  assert _same(started['params'], state.params)


def test_missing_weights_are_named(tmp_path):
  c = small.config(init_from=str(tmp_path / 'none.pth'))
  with pytest.raises(ValueError, match='none.pth'):
    train.train_and_evaluate(c, tmp_path / 'run', small.inputs(c))


def test_evaluating_other_classes_or_another_network_is_refused(plain,
                                                                finished):
  workdir, _, _ = finished
  other = dataclasses.replace(small.inputs(plain), classes=('a', 'b', 'c'))
  with pytest.raises(ValueError, match='knows 3 classes and the data 3'):
    train.evaluate_checkpoint(plain, workdir, other)
  c = small.config(model__attention='ST')
  with pytest.raises(ValueError, match="model.attention='C'; the config"):
    train.evaluate_checkpoint(c, workdir, small.inputs(c))


def test_clips_of_a_video_may_come_in_several_rows():
  def row(index, mask, clips, total, first):
    video = np.zeros((1, 2, 1, 1, 1, 1), np.uint8)
    video[0, :, 0, 0, 0, 0] = first, first + 1
    return {'video': video, 'label': np.int32([index % 2]),
            'mask': np.float32([mask]), 'index': np.int32([index]),
            'clips': np.int32([clips]), 'all_clips': np.int32([total])}

  def score(_, views):
    value = views[:, :, 0, 0, 0, 0].astype(np.float32)
    return np.stack([value, 10 - value], -1)

  rows = [row(0, 1, 2, 3, 1), row(0, 1, 1, 3, 5), row(1, 1, 1, 1, 7),
          row(2, 1, 2, 4, 0), row(2, 0, 2, 4, 0), row(0, 0, 2, 3, 1)]
  done = []
  got = evaluate.evaluate(None, rows, score, ('a', 'b', 'c'), ('x', 'y'),
                          progress=done.append, lengths=(30, 10, 40))
  # Clips 1, 2 and 5; 7; the third video lacks two of its clips.
  assert got.names == ('a', 'b') and got.unreadable == ('c',)
  np.testing.assert_allclose(got.scores, [[8 / 3, 22 / 3], [7, 3]])
  assert got.clip_counts.tolist() == [3, 1]
  assert got.num_frames.tolist() == [30, 10]
  np.testing.assert_array_equal(got.clip_scores[0, :, 0], [1, 2, 5])
  # Wrong, wrong and wrong of class x; wrong of class y.
  assert got.summary()['clip_top1'] == 0.25
  assert sum(done) == 3
