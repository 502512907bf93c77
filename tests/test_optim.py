"""The optimiser and the schedules against torch's rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from vidattn_jax.training import optim


def _params():
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  return {
      'backbone': {
          'conv1': {'kernel': draw(3, 2)},
          'bn1': {'scale': draw(2), 'bias': draw(2)},
          'layer1': {'attention': {'conv': {'kernel': draw(2, 2)}}}},
      'head': {'kernel': draw(2, 3), 'bias': draw(3)}}


def _gradients(step):
  rng = np.random.default_rng(step + 1)
  return jax.tree.map(lambda p: jnp.asarray(
      3 * rng.standard_normal(p.shape), jnp.float32), _params())


def _run(config, steps=6, rate=0.1):
  params = _params()
  optimizer = optim.make_optimizer(params, config)
  state = optimizer.init(params)
  for step in range(steps):
    updates, state = optimizer.update(_gradients(step), state, params)
    params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
  return params


def _expected(momentum, dampening, nesterov, decay, clip, multipliers, steps=6,
              rate=0.1):
  """Torch's documented update, written out in float64."""
  params = jax.tree.map(lambda p: np.asarray(p, np.float64), _params())
  buffers = None
  decayed = {'backbone/conv1/kernel', 'head/kernel',
             'backbone/layer1/attention/conv/kernel'}
  for step in range(steps):
    grads = jax.tree.map(lambda g: np.asarray(g, np.float64), _gradients(step))
    norm = np.sqrt(sum(np.sum(g ** 2) for g in jax.tree.leaves(grads)))
    scale = min(1.0, clip / norm) if clip else 1.0
    grads = jax.tree_util.tree_map_with_path(
        lambda path, g, p, scale=scale: scale * g
        + decay * p * (optim.path_name(path) in decayed), grads, params)
    if buffers is None:
      buffers = grads
    else:
      buffers = jax.tree.map(
          lambda b, g: momentum * b + (1 - dampening) * g, buffers, grads)
    step_by = jax.tree.map(lambda g, b: g + momentum * b, grads, buffers) if (
        nesterov) else buffers
    params = jax.tree_util.tree_map_with_path(
        lambda path, p, u: p - rate * multipliers.get(
            optim.path_name(path), 1.0) * u, params, step_by)
  return params


@pytest.mark.parametrize('dampening,nesterov,clip', [
    (0.0, False, 0.0), (0.9, False, 5.0), (0.0, True, 20.0)])
def test_follows_torch_sgd(dampening, nesterov, clip):
  c = small.config(optimizer__dampening=dampening,
                   optimizer__nesterov=nesterov, optimizer__clip_norm=clip,
                   optimizer__weight_decay=0.05, optimizer__bias_lr=2.0,
                   optimizer__head_lr=5.0, optimizer__attention_lr=0.5,
                   optimizer__lr_multipliers=(('backbone/conv1', 3.0),
                                              ('head', 0.5)))
  want = _expected(0.9, dampening, nesterov, 0.05, clip, {
      'head/kernel': 2.5, 'head/bias': 5.0, 'backbone/conv1/kernel': 3.0,
      'backbone/layer1/attention/conv/kernel': 0.5})
  got = _run(c)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5,
                                                       atol=2e-5), got, want)


def test_equals_torch_itself():
  torch = pytest.importorskip('torch')
  c = small.config(optimizer__clip_norm=4.0, optimizer__bias_lr=1.0,
                   optimizer__weight_decay=0.02)
  names = [optim.path_name(p) for p, _ in
           jax.tree_util.tree_leaves_with_path(_params())]
  leaves = [torch.nn.Parameter(torch.from_numpy(np.array(p)))
            for p in jax.tree.leaves(_params())]
  decayed = [p for n, p in zip(names, leaves, strict=True)
             if n.endswith('kernel')]
  others = [p for n, p in zip(names, leaves, strict=True)
            if not n.endswith('kernel')]
  sgd = torch.optim.SGD([{'params': decayed, 'weight_decay': 0.02},
                         {'params': others}], lr=0.1, momentum=0.9)
  for step in range(6):
    for leaf, grad in zip(leaves, jax.tree.leaves(_gradients(step)),
                          strict=True):
      leaf.grad = torch.from_numpy(np.array(grad))
    torch.nn.utils.clip_grad_norm_(leaves, 4.0)
    sgd.step()
  for got, want in zip(jax.tree.leaves(_run(c)), leaves, strict=True):
    np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-5,
                               atol=1e-5)


def test_frozen_parameters_stay_and_do_not_count_in_the_norm():
  c = small.config(freeze=('backbone/conv1',), optimizer__clip_norm=1.0,
                   optimizer__weight_decay=0.0)
  params, got = _params(), _run(c, steps=1)
  np.testing.assert_array_equal(got['backbone']['conv1']['kernel'],
                                params['backbone']['conv1']['kernel'])
  moved = jax.tree.map(lambda a, b: a - b, params, got)
  moved['head']['bias'] /= 2  # biases learn twice as fast
  norm = np.sqrt(sum(np.sum(np.square(m)) for m in jax.tree.leaves(moved)))
  assert norm == pytest.approx(0.1, rel=1e-5)


def test_units_may_be_left_out_of_what_is_frozen():
  params = {'backbone': {'layer1': {
      'conv1': {'kernel': np.ones(1)},
      'attention': {'conv1': {'kernel': np.ones(1)}}}},
            'head': {'bias': np.ones(1)}}
  for freeze, unit in ((('backbone',), 0), (('backbone', '-attention'), 5)):
    rates = optim.learning_rate_multipliers(params, small.config(
        freeze=freeze, optimizer__attention_lr=5.0))
    assert rates['backbone']['layer1'] == {
        'conv1': {'kernel': 0}, 'attention': {'conv1': {'kernel': unit}}}
  with pytest.raises(ValueError, match="leaves out '-unit', but nothing"):
    optim.learning_rate_multipliers(params, small.config(
        freeze=('backbone', '-unit')))


@pytest.mark.parametrize('key,value', [
    ('freeze', ('backbone/layer9',)),
    ('optimizer__lr_multipliers', (('backbone/layer9', 2.0),))])
def test_unknown_prefix_is_named(key, value):
  c = small.config(**{key: value})
  with pytest.raises(ValueError, match=r'layer9.*backbone/conv1'):
    optim.make_optimizer(_params(), c)


def test_step_schedule_with_warmup_and_linear_scaling():
  c = small.config(schedule__learning_rate=0.01, schedule__base_batch_size=4,
                   schedule__milestones=(2.0, 4.0), num_epochs=6.0,
                   schedule__warmup_epochs=1.0)
  rate = optim.make_schedule(c, 10)
  np.testing.assert_allclose(
      [rate(s) for s in (0, 5, 10, 19, 20, 39, 40, 59)],
      [0.0, 0.01, 0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002], rtol=1e-5)


def test_cosine_schedule_ends_where_it_should():
  c = small.config(schedule__name='cosine', schedule__learning_rate=0.1,
                   schedule__final_learning_rate=1e-4, num_epochs=4.0)
  rate = optim.make_schedule(c, 25)
  np.testing.assert_allclose(
      [rate(0), rate(50), rate(100)], [0.1, 0.05005, 1e-4], rtol=1e-5)


@pytest.mark.parametrize('name', ['step', 'cosine', 'plateau'])
def test_rates_of_all_steps_are_those_of_each(name):
  c = small.config(schedule__name=name, schedule__learning_rate=0.02,
                   schedule__warmup_epochs=1.0, schedule__milestones=(2.0,),
                   num_epochs=3.0)
  rate = optim.make_schedule(c, 5)
  got = optim.learning_rates(c, 5)
  assert got.shape == (15,) and got.dtype == np.float32
  np.testing.assert_allclose(got, [rate(s) for s in range(15)], rtol=1e-6)
  assert got[5] == pytest.approx(0.02)


def test_unknown_schedule_is_named():
  with pytest.raises(ValueError, match=r"'exponential'.*cosine"):
    optim.make_schedule(small.config(schedule__name='exponential'), 5)


def test_plateau_equals_torch():
  losses = [1.0, 0.9, 0.95, 0.92, 0.91, 0.93, 0.94, 0.5, 0.6, 0.7, 0.8, 0.9]
  c = small.config(schedule__name='plateau', schedule__patience=2,
                   schedule__factor=0.1)
  plateau = optim.make_plateau(c)
  state = plateau.init({})
  scales = []
  for loss in losses:
    _, state = plateau.update({}, state, {}, value=jnp.float32(loss))
    scales.append(float(state.scale))
  # Three bad evaluations in a row (one more than the patience) after 0.9 and
  # again after 0.5.
  want = [1, 1, 1, 1, .1, .1, .1, .1, .1, .1, .01, .01]
  np.testing.assert_allclose(scales, want, rtol=1e-5)
  torch = pytest.importorskip('torch')
  sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
  theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, factor=0.1,
                                                      patience=2)
  rates = []
  for loss in losses:
    theirs.step(loss)
    rates.append(sgd.param_groups[0]['lr'])
  np.testing.assert_allclose(scales, rates, rtol=1e-5)
