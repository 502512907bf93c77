"""The residual backbone: its layers, and where shift and units stand."""

import functools
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import attention
from vidattn_jax import convert
from vidattn_jax import models
from vidattn_jax.backbones import resnet


def _leaves(model, shape=(1, 2, 33, 33, 3)):
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
  return traverse_util.flatten_dict(variables['params'], sep='/')


def _blocks(model, leaf):
  """Returns (stage, block) of the blocks whose parameters hold `leaf`."""
  found = (re.search(rf'layer(\d)/block(\d+)/{leaf}/', path)
           for path in _leaves(model))
  return sorted({(int(m[1]), int(m[2])) for m in found if m})


def _shifted(model):
  """Returns (stage, block) of the blocks that shift."""
  state_dict = convert.to_torch(
      model, jax.tree.map(lambda x: np.zeros(x.shape, np.float32),
                          jax.eval_shape(model.init, jax.random.key(0),
                                         jnp.zeros((1, 2, 33, 33, 3)))), 'tsm')
  found = (re.search(r'layer(\d)\.(\d+)\..*\.net\.', name)
           for name in state_dict)
  return sorted((int(m[1]), int(m[2])) for m in found if m)


def test_stages_have_torchs_sizes_at_odd_sizes_too():
  net = resnet.ResNet(18, width=1 / 16)
  stages = jax.eval_shape(
      lambda x: net.init_with_output(jax.random.key(0), x)[0],
      jnp.zeros((2, 3, 75, 101, 3)))
  assert [s.shape for s in stages] == [
      (2, 3, 19, 26, 4), (2, 3, 10, 13, 8), (2, 3, 5, 7, 16), (2, 3, 3, 4, 32)]


@pytest.mark.parametrize('depth, layout, count', [
    (18, 'torchvision_resnet18', 11_689_512), (34, None, 21_797_672),
    (50, 'torchvision_resnet50', 25_557_032), (101, None, 44_549_160)])
def test_depths_have_torchvisions_parameters(depth, layout, count):
  leaves = _leaves(resnet.ResNet(depth))
  features = leaves['layer4/block1/bn2/scale'].size * (1 if depth < 50 else 4)
  # With torchvision's classifier of 1000 classes.
  total = sum(x.size for x in leaves.values()) + 1000 * (features + 1)
  assert total == count
  if layout:
    published = sum(np.prod(shape, dtype=int)
                    for name, shape in seeded.shapes(layout).items()
                    if name.endswith(('weight', 'bias')))
    assert total == published


@pytest.mark.parametrize('depth', [18, 50])
def test_equals_torch(depth):
  torch = pytest.importorskip('torch')
  functional = torch.nn.functional
  weights = seeded.state_dict(f'torchvision_resnet{depth}')
  w = {name: torch.from_numpy(array) for name, array in weights.items()}
  size = (2, 3, 33, 47)
  images = seeded.clip(size)

  def conv(x, name, stride=1):
    kernel = w[f'{name}.weight']
    return functional.conv2d(x, kernel, stride=stride,
                             padding=kernel.shape[-1] // 2)

  def norm(x, name):
    return functional.batch_norm(
        x, *(w[f'{name}.{part}'] for part in (
            'running_mean', 'running_var', 'weight', 'bias')))

  def block(x, name, stride):
    last = 2 if depth == 18 else 3
    y = x
    for i in range(1, last + 1):
      strided = i == (1 if depth == 18 else 2)
      y = norm(conv(y, f'{name}.conv{i}', stride if strided else 1),
               f'{name}.bn{i}')
      y = functional.relu(y) if i < last else y
    if f'{name}.downsample.0.weight' in w:
      x = norm(conv(x, f'{name}.downsample.0', stride), f'{name}.downsample.1')
    return functional.relu(x + y)

  x = functional.relu(norm(conv(torch.from_numpy(images), 'conv1', 2), 'bn1'))
  x = functional.max_pool2d(x, 3, 2, 1)
  for stage, blocks in enumerate(resnet.DEPTHS[depth], 1):
    for i in range(blocks):
      x = block(x, f'layer{stage}.{i}', 2 if i == 0 and stage > 1 else 1)
  x = functional.linear(x.mean((2, 3)), w['fc.weight'], w['fc.bias']).numpy()

  model = models.get_model(f'tsn_r{depth}', num_classes=1000)
  variables = convert.from_torch(model, weights, (2, 33, 47, 3))
  with jax.default_matmul_precision('highest'):
    y = jax.jit(model.apply)(variables, images.transpose(0, 2, 3, 1)[None])
  assert seeded.difference(y['frame_logits'][0], x) < 1e-5


def test_units_stand_in_the_chosen_stages():
  build = functools.partial(models.get_model, 'tsn_r50', attention='ST')
  every = [(s, b) for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)]
  assert _blocks(build(), 'attention') == every
  assert _blocks(build(stages=(2, 4)), 'attention') == [
      (s, b) for s, b in every if s in (2, 4)]


def test_resnet101_follows_the_rules_of_both_papers():
  every = [(s, b) for s, n in enumerate((3, 4, 23, 3), 1) for b in range(n)]
  even = [(s, b) for s, b in every if b % 2 == 0]
  long_even = [(s, b) for s, b in every if s != 3 or b % 2 == 0]
  build = functools.partial(models.get_model, 'tsm_r101', attention='C',
                            width=1 / 16)
  assert _shifted(build()) == even
  assert _blocks(build(), 'attention') == every
  aia = build(placement='aia')
  assert _shifted(aia) == long_even
  assert _blocks(aia, 'attention') == long_even
  assert _shifted(models.get_model('tsm_r50', width=1 / 16)) == [
      (s, b) for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)]


class _Ten:
  """Stands in for a unit: y = 10 x."""

  def __init__(self, dtype, name):
    pass

  def __call__(self, x, train):
    return 10 * x


@pytest.mark.parametrize('bottleneck', [True, False])
def test_positions_of_a_unit_in_a_block(bottleneck):
  x = jnp.asarray(seeded.clip((1, 2, 5, 5, 16)))
  width = 4 if bottleneck else 16
  build = functools.partial(resnet.Block, width, bottleneck=bottleneck)
  variables = seeded.variables(build(), x.shape)

  def run(**kwargs):
    return np.asarray(build(**kwargs).apply(variables, x))

  plain = run()
  branch_only = run(attention=_Ten, position='before_sum')
  np.testing.assert_allclose(run(attention=_Ten, position='after_sum'),
                             10 * plain, rtol=1e-5)
  # Where the sum is positive, ten branches are nine more than one.
  both = (plain > 0) & (branch_only > 0)
  branch = (branch_only - plain)[both] / 9
  np.testing.assert_allclose(branch, (plain - x)[both], rtol=1e-3, atol=1e-4)
  inner = run(attention=_Ten)
  if bottleneck:
    # A ReLU and a convolution with its BatchNorm lie between: affine in it.
    offset = variables['params']['bn3']['bias'] - (
        variables['params']['bn3']['scale'] * variables['batch_stats']['bn3'][
            'mean'] / np.sqrt(variables['batch_stats']['bn3']['var'] + 1e-5))
    both = (plain > 0) & (inner > 0)
    expected = 10 * (plain - x - offset) + x + offset
    np.testing.assert_allclose(inner[both], expected[both], rtol=1e-3,
                               atol=1e-3)
  else:
    np.testing.assert_array_equal(inner, branch_only)


def test_the_shortcut_is_not_shifted():
  x = jnp.asarray(seeded.clip((1, 3, 4, 4, 16)))
  build = functools.partial(resnet.Block, 16, bottleneck=False)
  variables = seeded.variables(build(), x.shape)
  dead = jax.tree.map(jnp.zeros_like, variables['params']['bn2'])
  variables['params'] = {**variables['params'], 'bn2': dead}
  y = build(shift=True).apply(variables, x)
  np.testing.assert_allclose(y, jax.nn.relu(x), rtol=1e-6)


def test_bfloat16_computes_in_it_and_keeps_float32():
  net = resnet.ResNet(18, width=1 / 8, attention=attention.get_attention('C'),
                      stages=(4,), dtype=jnp.bfloat16)
  x = jnp.asarray(seeded.clip((1, 2, 40, 40, 3)))
  variables = seeded.variables(net, x.shape)
  stages, changed = net.apply(variables, x, train=True,
                              mutable=['batch_stats'])
  assert {s.dtype for s in stages} == {jnp.dtype('bfloat16')}
  assert {s.dtype for s in jax.tree.leaves(changed)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('field, value, message', [
    ('depth', 49, 'no depth 49'), ('position', 'bn1', 'did you mean bn2'),
    ('placement', 'tsn', 'did you mean tsm'), ('stages', (0, 1), 'no stage 0'),
    ('width', 0.0, 'width is 0.0; it must be above 0')])
def test_wrong_fields_are_named(field, value, message):
  with pytest.raises(ValueError, match=message):
    _leaves(resnet.ResNet(**{'depth': 18, field: value}))
