"""T-CNN, layer by layer."""

import json

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models
from vidattn_jax.backbones import tcnn
from vidattn_jax.tools import complexity


def test_layers_are_those_of_the_table(data_dir):
  """Kernel, stride, dilation, padding, output and counts of every layer."""
  path = data_dir / 'sparse_attention' / 'tcnn_layers.json'
  rows = json.loads(path.read_text())
  model = models.get_model('tcnn', num_classes=101)
  seen = []

  def note(call, args, kwargs, context):
    y, module = call(*args, **kwargs), context.module
    if isinstance(module, nn.Conv):
      kernel = module.get_variable('params', 'kernel').shape
      macs = y.size * int(np.prod(kernel[:-1]))
      dilation = list(module.kernel_dilation)
      padding = [before for before, after in module.padding
                 if before == after]
      seen.append([*kernel[3:], list(kernel[:3]), list(module.strides),
                   dilation, padding, list(y.shape[1:4]),
                   int(np.prod(kernel)), macs])
    return y

  with nn.intercept_methods(note):
    jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(
        (1, *model.image_shape), np.float32))
  keys = ('cin', 'cout', 'kernel', 'stride', 'dilation', 'padding', 'out',
          'params', 'macs')
  expected = [[row[key] for key in keys] for row in rows if 'kernel' in row
              and len(row['kernel']) == 3]
  assert len(expected) > 42
  assert sorted(map(str, seen)) == sorted(map(str, expected))


@pytest.mark.parametrize('build, params, macs', [
    ({}, 18285893, 15920695808),
    # As printed: two plain convolutions fewer.
    ({'rows': 40}, 17308101, 15154809344),
    ({'kernel': (3, 3, 3), 'dilated_kernel': (3, 3, 3)}, 67918853,
     58039634432)])
def test_counts_of_the_readings(build, params, macs):
  model = models.get_model('tcnn', num_classes=101, **build)
  counts = complexity.complexity(model)
  assert (counts.params, counts.macs) == (params, macs)


@pytest.mark.parametrize('build, mixes', [
    ({}, False),
    pytest.param({'kernel': (3, 3, 3), 'dilated_kernel': (3, 3, 3)}, True,
                 marks=pytest.mark.slow)])
def test_odd_frames_do_not_touch_even_ones(build, mixes):
  """All dilations are even; only in the full reading do frames mix."""
  x = seeded.clip((1, 8, 16, 16, 3)).repeat(3, 0)
  x[1:, 1::2] = seeded.clip((1, 4, 16, 16, 3), seed=1)
  x[2, 2] = -x[2, 2]
  net = tcnn.TCNN(width=1 / 16, **build)
  plain, odd, third = np.asarray(jax.jit(lambda x: net.apply(
      seeded.variables(net, x.shape), x)[-1])(x))
  assert np.array_equal(plain[::2], odd[::2]) != mixes
  assert np.abs(plain[1::2] - odd[1::2]).max() > 1e-4
  # Even frames do see each other.
  assert np.abs(third[0] - odd[0]).max() > 1e-5


@pytest.mark.parametrize('wrong, message', [
    ({'rows': 41}, 'no number of rows 41'),
    ({'kernel': (3, 3)}, r'kernel is \(3, 3\); it must be 3 odd whole'),
    ({'kernel': (1, 2, 3)}, r'kernel is \(1, 2, 3\); it must be 3 odd'),
    ({'dilated_kernel': 3}, 'dilated_kernel is 3; it must be 3 odd'),
    ({'strides': (2, 2, 2)}, r'strides is \(2, 2, 2\); it must be 8 whole'),
    ({'strides': (2,) * 7 + (0,)}, 'it must be 8 whole numbers from 1 on'),
    ({'attention': 'C', 'stages': (8,)}, 'no stage 8'),
    ({'attention': 'C', 'position': 'bn3'}, 'no position')])
def test_wrong_fields_are_told(wrong, message):
  with pytest.raises(ValueError, match=message):
    models.get_model('tcnn', **wrong)


def test_weights_go_out_and_come_back():
  model = models.get_model('tcnn', num_classes=5, width=1 / 16, num_frames=4,
                           crop_size=32)
  variables = seeded.variables(model, (1, *model.image_shape))
  out = convert.to_torch(model, variables, 'tcnn')
  assert out['stage4.block1.proj.weight'].shape == (10, 6, 1, 1, 1)
  assert {'stage1.conv1.weight', 'fc.bias'} <= out.keys()
  back = convert.from_torch(model, out, model.image_shape)
  jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


def test_attention_unit_stands_in_its_blocks():
  model = models.get_model('tcnn', num_classes=5, width=1 / 16, attention='C',
                           stages=(1, 4), blocks=(-1,), num_frames=4,
                           crop_size=32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(
      (1, *model.image_shape)))
  paths = {jax.tree_util.keystr(path, simple=True, separator='/')
           .partition('/attention')[0] for path, _ in
           jax.tree_util.tree_leaves_with_path(shapes['params'])
           if 'attention' in jax.tree_util.keystr(path)}
  assert paths == {'backbone/stage1/block0', 'backbone/stage4/block6'}
