"""The three-branch network: reference, ablations, gradients, bad input."""

import functools
import json

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models
from vidattn_jax.attention import sparse
from vidattn_jax.models import three_branch
from vidattn_jax.tools import complexity
from vidattn_jax.training import checkpoint
from vidattn_jax.training import evaluate
from vidattn_jax.training import initialize
from vidattn_jax.training import losses
from vidattn_jax.training import optim
from vidattn_jax.training import state

# Quicker to compile than T-CNN, which the reference and configurations test.
pytestmark = pytest.mark.usefixtures('plain_forms')
SMALL = {'num_classes': 6, 'width': 1 / 16, 'num_frames': 2, 'crop_size': 96,
         'backbone': 'tsn_r18'}
_FIRST = ('backbone', 'bn1')


def _video(shape, offset):
  """Returns the reference's clip."""
  t, y, x, c = np.meshgrid(*map(np.arange, shape), indexing='ij')
  return ((1 + 3 * ((t // 2) % 4))
          * np.sin(.11 * (c + 1) * x + .07 * (c + 2) * y + .5 * t + c + offset)
          * np.cos(.05 * x - .09 * y + .9 * t + .3 * offset)).astype(
              np.float32)


@pytest.mark.slow
def test_network_equals_the_reference(data_dir):
  folder = data_dir / 'sparse_attention'
  golden = dict(np.load(folder / 'model.npz'))
  shapes = json.loads((folder / 'model_shapes.json').read_text())
  weights = {name: seeded.tensor(name, shape, int(golden['seed']))
             for name, shape in shapes.items()}
  weights['fc.weight'] *= np.float32(golden['fc_scale'])
  # The file has no widths: the reference used those of the beginning.
  weights['beta_discriminative'] = np.float32(np.sqrt(2) * 31 * 0.09)
  weights['beta_complementary'] = np.float32(np.sqrt(2) * 31 * 0.3)
  video = _video(golden['video_shape'], int(golden['video_offset']))
  np.testing.assert_allclose(video[:2, :2, :2], golden['video_corner'], 1e-6)
  model = models.get_model('three_branch', num_classes=10,
                           num_frames=len(video), crop_size=video.shape[1:3],
                           delta=float(golden['delta']))
  variables = convert.from_torch(model, weights, model.image_shape)
  with jax.default_matmul_precision('highest'):
    outputs = jax.jit(functools.partial(model.apply, capture=True))(
        variables, video[None], phi=golden['phi'][None])

  stages = [np.asarray(stage, np.float64) for stage in outputs['stages']]
  near = functools.partial(np.testing.assert_allclose, rtol=0)
  near([s.mean() for s in stages], golden['stage_mean'], atol=1e-5)
  near([s.std() for s in stages], golden['stage_std'], atol=2e-5)
  near(stages[-1][0, 0], golden['features_t0'], atol=1e-4)
  near(outputs['frame_logits'][0], golden['frame_logits'], atol=1e-4)
  dis, com = (np.asarray(outputs[f'{kind}_peaks'][0]) for kind in sparse.KINDS)
  np.testing.assert_array_equal(dis, golden['dis_mask'])
  np.testing.assert_array_equal(dis | com, golden['peak_mask'])
  for kind, name in zip(sparse.KINDS, ('dis', 'com')):
    near(outputs[f'{kind}_attention'][0, 0], golden[f'q_{name}_t0'],
         atol=2e-5)
    near(outputs[f'{kind}_video'][0, 0, ::2, ::2], golden[f'v_{name}_t0'],
         atol=4e-4)  # Pixels reach 4 here.
  branches = outputs['branch_logits']
  for name, key in (('original', 'f_o'), ('discriminative', 'f_dis'),
                    ('complementary', 'f_com')):
    near(branches[name], golden[key], atol=1e-4)
  near(outputs['logits'], golden['f_total'], atol=1e-4)
  near(outputs['frame_logits'].mean(1), branches['original'], atol=1e-5)
  near(outputs['class_maps'].mean((2, 3)) + weights['fc.bias'],
       outputs['frame_logits'], atol=1e-4)  # The original's maps.
  loss = losses.cross_entropy(outputs, {
      'targets': losses.one_hot_targets(golden['label'][None], 10)})
  near(loss, [golden['losses'].sum()], atol=1e-4)


def test_counts():
  """47.8 GMACs; the paper's 52.3 has 4.3 that nothing in it explains."""
  parts = complexity.by_stage(models.get_model('three_branch',
                                               num_classes=101))
  total = sum(parts.values(), complexity.Complexity())
  once = complexity.complexity(models.get_model('tcnn', num_classes=101))
  assert total.params == once.params + 2 + 3 * 512 * 101 + 101
  assert parts['sparse'].params == 2
  # Maps, Gaussians and grids of both branches, 16 frames each.
  grids = 31 * (31 * 62 + 62 * 62)
  enlarged = 2 * 31 * 31 * 224
  assert parts['sparse'].macs == 16 * (
      512 * 101 + 49 * 512 + 7 * 7 * 31 + 7 * 31 * 31
      + 2 * (31 * 31 * 256 + grids + enlarged))
  assert total.macs == 3 * once.macs + parts['sparse'].macs + 3 * 512 * 101
  alone = complexity.complexity(models.get_model(
      'three_branch', num_classes=101, branches='O'))
  assert alone == once


# --- A small network ---------------------------------------------------------


@functools.cache
def _built(branches='O+C+D', **build):
  """Returns (model, variables, video)."""
  model = models.get_model('three_branch', branches=branches, dropout=0.5,
                           **{**SMALL, **build})
  video = 2 * _video((2 * model.num_frames, *model.crop_size, 3), 0).reshape(
      2, *model.image_shape)
  variables = seeded.variables(model, video.shape)
  head = variables['params']['head']
  head['kernel'] = 8 * head['kernel']
  for name, width in (('discriminative', 3.9), ('complementary', 13.2)):
    if f'beta_{name}' in variables['params'].get('sparse', {}):
      variables['params']['sparse'][f'beta_{name}'] = np.float32(width)
  return model, variables, video


@functools.cache
def _step(branches):
  """Returns what a training step does.

  Gradients, outputs, changed statistics, and the means of what each pass gave
  to the first BatchNorm.
  """
  model, variables, video = _built(branches)
  means = []

  def note(call, args, kwargs, context):
    if context.module.path == _FIRST and context.method_name == '__call__':
      means.append(args[0].mean((0, 1, 2, 3)))
    return call(*args, **kwargs)

  @jax.jit
  def step(params):
    def loss(params):
      means.clear()
      with nn.intercept_methods(note):
        outputs, updated = model.apply(
            {**variables, 'params': params}, video, train=True,
            mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)})
      return losses.cross_entropy(outputs, {'targets': losses.one_hot_targets(
          np.asarray([0, 3]), 6)}).sum(), (outputs, updated['batch_stats'],
                                           list(means))
    return jax.grad(loss, has_aux=True)(params)

  # Together the branches' features are weighted as each alone.
  params = jax.tree.map(jnp.asarray, variables['params'])
  if 'head_total' in params:
    count = params['head_total']['kernel'].shape[0] // len(
        params['head']['kernel'])
    params['head_total'] = {
        'kernel': jnp.tile(params['head']['kernel'], (count, 1)),
        'bias': count * params['head']['bias']}
  grads, rest = step(params)
  return grads, *rest


@pytest.fixture(scope='module')
def trained():
  return _step('O+C+D')


def test_all_branches_share_backbone_classifier_and_dropped_features(trained):
  """Then the logits of all are the sum of those of each."""
  _, outputs, _, _ = trained
  branches = outputs['branch_logits']
  assert list(branches) == sorted(
      three_branch.BRANCHES['O+C+D']) and len(branches) == 3
  np.testing.assert_allclose(outputs['logits'], sum(branches.values()), 1e-4,
                             1e-4)
  assert np.abs(branches['original'] - branches['discriminative']).max() > 0.01
  assert np.abs(branches['complementary']
                - branches['discriminative']).max() > 0.01


def test_every_parameter_learns(trained):
  grads = trained[0]
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(g).all() and np.any(g), path
  assert set(grads['sparse']) == {'beta_discriminative', 'beta_complementary'}


def test_every_pass_has_its_own_statistics(trained):
  """They are updated three times, each pass by its own batch."""
  _, _, statistics, means = trained
  expected = _built()[1]['batch_stats']['backbone']['bn1']['mean']
  assert len(means) == 3
  assert np.abs(means[0] - means[1]).max() > 1e-3
  assert np.abs(means[1] - means[2]).max() > 1e-3
  for mean in means:
    expected = 0.9 * expected + 0.1 * mean
  np.testing.assert_allclose(statistics['backbone']['bn1']['mean'], expected,
                             1e-4, 1e-6)


@pytest.mark.slow
def test_one_pass_of_both_clips_is_a_pass_of_each():
  model, variables, video = _built()
  outputs = jax.jit(functools.partial(model.apply, capture=True))(
      variables, video)
  alone, *_ = _built('O')
  params = {k: variables['params'][k] for k in ('backbone', 'head')}
  run = jax.jit(lambda video: alone.apply(
      {**variables, 'params': params}, video)['logits'])
  branches = outputs['branch_logits']
  for kind in sparse.KINDS:
    np.testing.assert_allclose(branches[kind], run(outputs[f'{kind}_video']),
                               1e-4, 1e-4)
  np.testing.assert_allclose(branches['original'], run(video), 1e-4, 1e-4)
  assert np.abs(branches['discriminative']
                - branches['complementary']).max() > 0.01


def test_scores_of_frames_have_the_mean_of_the_clip():
  model, variables, video = _built()

  @jax.jit
  def run(variables, video):
    # What else the network computes is left out when this is compiled.
    outputs = model.apply(variables, video)
    return outputs['frame_logits'], outputs['branch_logits']['original']

  frames, clip = run(variables, video)
  assert frames.shape == (2, 2, 6) and np.abs(frames[:, 0] - frames[:, 1]).max(
      ) > 0.01
  np.testing.assert_allclose(frames.mean(1), clip, 1e-4, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('branches', ['O', 'O+D', 'O+C', 'C+D'])
def test_ablations(branches):
  grads, outputs, *_ = _step(branches)
  wanted = three_branch.BRANCHES[branches]
  if branches == 'O':
    assert set(outputs) == {'logits'} and 'sparse' not in grads
    return
  assert set(outputs['branch_logits']) == set(wanted)
  np.testing.assert_allclose(outputs['logits'],
                             sum(outputs['branch_logits'].values()), 1e-4,
                             1e-4)
  assert set(grads['sparse']) == {f'beta_{b}' for b in wanted
                                  if b != 'original'}
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(g).all() and np.any(g), path


def test_optimizer_treats_widths_apart(trained):
  grads = trained[0]
  groups = optim.parameter_groups(grads)
  assert set(jax.tree.leaves(groups['sparse'])) == {'norm'}
  from configs import three_branch_ucf_hmdb
  config = three_branch_ucf_hmdb.get_config()
  multipliers = optim.learning_rate_multipliers(grads, config)
  assert set(jax.tree.leaves(multipliers['sparse'])) == {1e-3}
  assert set(jax.tree.leaves(multipliers['head_total'])) == {1.0}


# --- Sparse attention on given features --------------------------------------


@functools.cache
def _attention(data_dir):
  """Returns reference features and what else `SparseAttention` takes."""
  golden = dict(np.load(data_dir / 'sparse_attention' / '64x80.npz'))
  return {'features': golden['features'][None], 'kernel': golden['fc_kernel'],
          'bias': golden['fc_bias'],
          'video': np.float32(golden['image'][None] / 255)}, golden


def _attend(inputs, train=False, phi=None, key=0, **build):
  module = sparse.SparseAttention(**build)
  run = jax.jit(functools.partial(module.apply, train=train))
  betas = {f'beta_{k}': jnp.float32(b) for k, b in zip(sparse.KINDS,
                                                       (3.9, 13.2))}
  return run({'params': betas}, **inputs, phi=phi,
             rngs={'dropout': jax.random.key(key)})


def test_ways_to_part_peaks(data_dir):
  inputs, golden = _attention(data_dir)
  response = np.asarray(golden['response'])
  found = golden['peak_mask']

  def parts(**kwargs):
    outputs = _attend(inputs, **kwargs)
    return [np.asarray(outputs[kind]['peaks'][0]) for kind in sparse.KINDS]

  for ours, reference in zip(parts(evaluation_phi='extremes'),
                             ('strongest_mask', 'weakest_mask')):
    np.testing.assert_array_equal(ours, golden[reference])
  for ours in parts(evaluation_phi='all'):
    np.testing.assert_array_equal(ours, found)
  dis, com = parts()
  np.testing.assert_array_equal(dis, found & (response >= 0.5))
  np.testing.assert_array_equal(com, found & (response < 0.5))
  dis, com = parts(phi=golden['phi'][None])
  np.testing.assert_array_equal(dis, golden['dis_mask'])
  np.testing.assert_array_equal(com, golden['com_mask'])

  draws = [parts(train=True, key=key)[0] for key in range(4)]
  assert any((draws[0] != other).any() for other in draws[1:])
  for dis in draws:
    # A threshold is below 1: the strongest peak is always discriminative.
    assert dis[golden['strongest_mask']].all() and not dis[~found].any()
  # In evaluation 'random' is fixed, and a clip's share whatever the batch.
  twice = {k: np.concatenate([x[:, ::-1], x]) if k in ('features', 'video')
           else x for k, x in inputs.items()}
  alone = _attend(inputs, evaluation_phi='random', key=1)
  among = _attend(twice, evaluation_phi='random', key=2)
  np.testing.assert_array_equal(alone['discriminative']['peaks'][0],
                                among['discriminative']['peaks'][1])


def test_wrong_choices_are_told(data_dir):
  inputs, _ = _attention(data_dir)
  with pytest.raises(ValueError, match=r'phi has the shape \(6, 31, 31\)'):
    _attend(inputs, phi=jnp.zeros((6, 31, 31)))
  for wrong, message in (
      ({'branches': 'D+C'}, 'no branches'),
      ({'training_phi': 'randon'}, 'did you mean random'),
      ({'threshold': 'max'}, 'no threshold'),
      ({'grid_size': 1}, 'grid_size is 1; it must be 2'),
      ({'backbone': 'c3d'}, "no backbone of three_branch 'c3d'"),
      ({'num_classes': {'verb': 3}}, 'takes one number of classes')):
    with pytest.raises(ValueError, match=message):
      models.get_model('three_branch', **wrong)


def test_bfloat16_network_finds_the_same_peaks(data_dir):
  """Given float32 features; the products are float32, of highest precision."""
  inputs, golden = _attention(data_dir)
  module = sparse.SparseAttention()
  video = inputs['video'].astype(jnp.bfloat16)
  betas = {f'beta_{k}': jnp.float32(b) for k, b in zip(sparse.KINDS,
                                                       (3.9, 13.2))}

  def run(features):
    return module.apply({'params': betas}, features, inputs['kernel'],
                        inputs['bias'], video, phi=golden['phi'][None])

  outputs = jax.jit(run)(inputs['features'])
  for kind, key in zip(sparse.KINDS, ('dis_mask', 'com_mask')):
    np.testing.assert_array_equal(outputs[kind]['peaks'][0], golden[key])
    assert outputs[kind]['video'].dtype == jnp.bfloat16
    reference = golden['v_' + key[:3]] / 65535
    np.testing.assert_allclose(np.asarray(
        outputs[kind]['video'][0], np.float32), reference, 0, 0.02)

  seen = []

  def walk(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name == 'dot_general':
        seen.append(([v.aval.dtype.name for v in equation.invars],
                     equation.params['precision']))
      for part in jax.tree.leaves(equation.params,
                                  is_leaf=lambda p: hasattr(p, 'eqns')):
        if hasattr(part, 'eqns'):
          walk(part)

  walk(jax.make_jaxpr(run)(inputs['features'].astype(jnp.bfloat16)).jaxpr)
  assert len(seen) > 8
  highest = jax.lax.Precision.HIGHEST
  assert all(types == ['float32'] * 2 and precision == (highest, highest)
             for types, precision in seen), seen


def test_bfloat16_network_keeps_what_float32_features_say(data_dir):
  """The whole network, whose backbone gives the reference's features."""
  inputs, golden = _attention(data_dir)
  features, kernel = inputs['features'], inputs['kernel']
  width, classes = kernel.shape
  model = models.get_model(
      'three_branch', backbone='tsn_r18', dtype='bfloat16',
      num_classes=classes, num_frames=features.shape[1],
      crop_size=inputs['video'].shape[2:4])

  def replace(call, args, kwargs, context):
    if context.module.path != ('backbone',):
      return call(*args, **kwargs)
    return [jnp.broadcast_to(features, (len(args[0]), *features.shape[1:]))]

  variables = {'params': {
      'head': {'kernel': kernel, 'bias': inputs['bias']},
      'head_total': {'kernel': np.zeros((3 * width, classes), np.float32),
                     'bias': np.zeros(classes, np.float32)},
      'sparse': {'beta_discriminative': np.float32(3.9),
                 'beta_complementary': np.float32(13.2)}}}

  @jax.jit
  def run(video):
    with nn.intercept_methods(replace):
      return model.apply(variables, video, capture=True,
                         phi=golden['phi'][None])

  outputs = run(jnp.asarray(inputs['video'], jnp.bfloat16))
  for kind, key in zip(sparse.KINDS, ('dis_mask', 'com_mask')):
    np.testing.assert_array_equal(outputs[f'{kind}_peaks'][0], golden[key])
    assert outputs[f'{kind}_video'].dtype == jnp.bfloat16
  np.testing.assert_allclose(outputs['response_attention'][0],
                             golden['response'], 0, 1e-5)
  np.testing.assert_allclose(outputs['frame_logits'][0], golden['logits'], 0,
                             1e-5)


@pytest.mark.parametrize('kind', ['flat', 'one class', 'three classes',
                                  'one pixel'])
def test_poor_input_has_results_and_gradients(data_dir, kind):
  inputs = dict(_attention(data_dir)[0])
  if kind == 'flat':
    inputs['features'] = np.ones_like(inputs['features'])
  elif kind == 'one pixel':
    inputs['features'] = inputs['features'][:, :, :1, :1]
    inputs['video'] = inputs['video'][:, :, :1, :1]
  else:
    classes = {'one class': 1, 'three classes': 3}[kind]
    inputs['kernel'] = inputs['kernel'][:, :classes]
    inputs['bias'] = inputs['bias'][:classes]
  module = sparse.SparseAttention()

  def energy(betas):
    outputs = module.apply({'params': betas}, **inputs)
    return sum((outputs[k]['video'] ** 2).sum() for k in sparse.KINDS), outputs

  with jax.debug_nans(True):
    (_, outputs), grads = jax.jit(jax.value_and_grad(energy, has_aux=True))(
        {f'beta_{k}': 4.0 for k in sparse.KINDS})
  assert np.isfinite(list(grads.values())).all()
  found = np.asarray(outputs['discriminative']['peaks'])
  if kind in ('flat', 'one pixel'):
    assert not found.any() and not any(grads.values())
    np.testing.assert_allclose(outputs['discriminative']['video'],
                               inputs['video'], 0, 1e-5)
  else:
    assert found.any((2, 3))[0, [0, 1, 2]].all()
    assert grads['beta_discriminative'] != 0


def test_features_that_are_no_numbers_leave_frames(data_dir):
  inputs = dict(_attention(data_dir)[0])
  inputs['features'] = inputs['features'].copy()
  inputs['features'][0, 1] = np.nan
  module = sparse.SparseAttention()

  def energy(betas):
    outputs = module.apply({'params': betas}, **inputs)
    return sum((outputs[k]['video'] ** 2).sum() for k in sparse.KINDS), outputs

  (_, outputs), grads = jax.jit(jax.value_and_grad(energy, has_aux=True))(
      {f'beta_{k}': 4.0 for k in sparse.KINDS})
  assert np.isfinite(list(grads.values())).all()
  assert not np.any(outputs['complementary']['peaks'][0, 1])
  np.testing.assert_allclose(outputs['discriminative']['video'][0, 1],
                             inputs['video'][0, 1], 0, 1e-5)


# --- Other backbones, and evaluation -----------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('host, frames, per_map', [
    ('tsm_r18', 8, 1), ('r3d_18', 32, 16)])
def test_any_backbone_takes_the_place(host, frames, per_map):
  """One that strides in time sees several frames at once."""
  model = models.get_model('three_branch', backbone=host, width=1 / 16,
                           num_frames=frames, crop_size=64, num_classes=6)
  assert (model.num_frames, model.dropout) == (frames, 0.5)
  video = 2 * _video(model.image_shape, 0)[None]
  variables = seeded.variables(model, video.shape)
  outputs = jax.jit(functools.partial(model.apply, capture=True))(
      variables, video)
  steps = np.asarray(outputs['response_attention'])[0]
  groups = steps.reshape(-1, per_map, *steps.shape[1:])
  assert (groups == groups[:, :1]).all()
  assert not (groups == groups[:1]).all()
  assert np.isfinite(outputs['logits']).all()


# Those whose classifier sees no mean of features, and whole networks.
_REFUSED = ('c3d', 'tstam', 'st_abn', 'st_abn_r50', 'st_abn_r101',
            'three_branch', 'scnn', 'rc3d')


@pytest.mark.parametrize('host', _REFUSED)
def test_other_networks_take_no_place(host):
  with pytest.raises(ValueError, match='There is no backbone of three_branch '
                     f"'{host}'; (did you mean|there are) ") as caught:
    models.get_model('three_branch', backbone=host)
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    'host', [name for name in models.MODELS if name not in _REFUSED])
def test_every_other_backbone_takes_the_place(host):
  model = models.get_model('three_branch', backbone=host, width=1 / 16,
                           num_classes=6)
  video = jnp.zeros((1, *model.image_shape))
  params = jax.eval_shape(model.init, jax.random.key(0), video)['params']
  assert set(params) == {'backbone', 'head', 'head_total', 'sparse'}
  width, classes = params['head']['kernel'].shape
  assert classes == 6
  assert params['head_total']['kernel'].shape == (3 * width, 6)


class _Shallow(nn.Module):
  """A backbone of one convolution."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(4, (1, 3, 3), name='conv1')(x)
    return [nn.relu(nn.BatchNorm(not train, name='bn1')(x))]


@pytest.mark.parametrize('classes, size', [(1, 12), (1, 1), (4, 1)])
def test_one_class_and_one_pixel_make_no_nan(classes, size):
  model = three_branch.ThreeBranch(_Shallow, classes, 2, (size, size))
  video = seeded.clip((2, *model.image_shape))
  variables = seeded.variables(model, video.shape)
  targets = losses.one_hot_targets(np.asarray([0, classes - 1]), classes)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def step(params):
    outputs, updated = model.apply(
        {**variables, 'params': params}, video, train=True,
        mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)})
    return losses.cross_entropy(outputs, {'targets': targets}).sum(), (
        outputs, updated)

  with jax.debug_nans(True):
    (loss, rest), grads = step(variables['params'])
  for path, x in jax.tree_util.tree_leaves_with_path((loss, rest, grads)):
    assert np.isfinite(x).all(), path
  # Of one class nothing can be learned.
  assert (loss == 0) == (classes == 1)
  assert np.any(grads['head_total']['bias']) == (classes > 1)


@pytest.mark.slow
def test_starts_from_a_run_of_its_backbone_with_other_classes(tmp_path):
  build = {'width': 1 / 16, 'num_frames': 2, 'crop_size': 40}
  alone = models.get_model('tcnn', num_classes=4, **build)
  weights = seeded.variables(alone, (1, *alone.image_shape))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(
      state.TrainState(step=np.asarray(1, np.int32), opt_state={}, ema={},
                       plateau={}, **weights),
      {'model': {'name': 'tcnn', 'num_classes': 4, **build}}, {'top1': 0.5})
  checkpoints.close()
  model = models.get_model('three_branch', num_classes=6, **build)
  found, text = initialize.load_weights(str(tmp_path), model,
                                        jax.random.key(0))
  started = traverse_util.flatten_dict(found, sep='/')
  trained = traverse_util.flatten_dict(weights, sep='/')
  fresh = traverse_util.flatten_dict(
      state.init_variables(model, jax.random.key(0)), sep='/')
  own = {path for path in started if '/backbone/' not in path}
  assert own == {'params/head/kernel', 'params/head/bias',
                 'params/head_total/kernel', 'params/head_total/bias',
                 'params/sparse/beta_discriminative',
                 'params/sparse/beta_complementary'}
  for path, x in started.items():
    np.testing.assert_array_equal(x, (fresh if path in own else trained)[path],
                                  err_msg=path)
  assert started['params/head/kernel'].shape == (32, 6)
  # All that is its own is told, and the backbone is all that there was beside
  # a classifier.
  assert f'{len(trained) - 2} used' in text and '0 unused' in text
  assert '6 fresh' in text
  assert 'params/head/kernel (6 classes here, 4 there)' in text
  assert all(path in text for path in own)


def test_branches_are_scored_alone():
  names = ('original', 'discriminative')

  class Fake(nn.Module):
    """Its logits are the first pixel's, plus a number for each branch."""

    def __call__(self, video, train=False):
      logits = video[:, 0, 0, 0]
      return {'logits': logits, 'branch_logits': {
          'original': -logits, 'discriminative': logits[:, ::-1]}}

  step = state.make_eval_step(Fake(), (0, 0, 0), (1, 1, 1), 'float32',
                              branches=names)
  views = np.zeros((3, 4, 1, 1, 1, 3), np.uint8)
  views[..., 0] = np.asarray([10, 20, 30])[:, None, None, None, None]
  logits = step({}, views)
  assert logits.shape == (3, 4, 3, 3)
  labels = np.asarray([0, 2, 1], np.int32)

  def score(variables, video):
    del variables
    all_views = np.asarray(step({}, video))
    return all_views.reshape(len(video), 2, 2, 3, 3).mean(2)

  result = evaluate.evaluate({}, [{
      'video': views, 'label': labels, 'mask': np.ones(3), 'index':
      np.arange(3)}], score, ('a', 'b', 'c'), ('x', 'y', 'z'), branches=names)
  assert result.scores.shape == (3, 3) and result.clip_scores.shape == (3, 2, 3)
  np.testing.assert_allclose(result.branch_scores[:, 0], -result.scores)
  figures = result.summary()
  # All say class 0; the original denies it; the other says class 2.
  assert figures['top1'] == pytest.approx(1 / 3)
  assert figures['top1_original'] == pytest.approx(1 / 3)
  assert figures['top1_discriminative'] == pytest.approx(1 / 3)


def test_results_with_branches_are_stored_and_read(tmp_path):
  scores = np.eye(3, dtype=np.float32)
  result = evaluate.Result(
      names=('a', 'b', 'c'), labels=np.asarray([0, 1, 1], np.int32),
      scores=scores, clip_scores=scores[:, None], classes=('x', 'y', 'z'),
      branches=('original',), branch_scores=scores[:, None, ::-1])
  result.save(tmp_path / 'scores.npz')
  again = evaluate.load_result(tmp_path / 'scores.npz')
  assert again.branches == ('original',)
  assert again.summary() == result.summary()
  assert result.summary()['top1'] == pytest.approx(2 / 3)
  assert result.summary()['top1_original'] == pytest.approx(1 / 3)
