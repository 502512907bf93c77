"""S-CNN: its two networks, its losses, its windows."""

from flax import traverse_util
import jax
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models
from vidattn_jax.detection import windows
from vidattn_jax.models import rc3d
from vidattn_jax.training import checkpoint
from vidattn_jax.training import initialize
from vidattn_jax.training import losses

pytestmark = pytest.mark.usefixtures('plain_forms')
SMALL = {'num_classes': 3, 'num_frames': 16, 'crop_size': 32, 'width': 1 / 16}


def test_parts_are_recognizers_and_attention_is_in_the_second():
  model = models.get_model('scnn', attention='STA', **SMALL)
  variables = seeded.variables(model, (1, *model.image_shape))
  video = seeded.clip((2, *model.image_shape))
  outputs = jax.jit(lambda v: model.apply(variables, v))(video)
  assert outputs['proposal_logits'].shape == (2, 2)
  assert outputs['logits'].shape == (2, 4)
  for name, unit, key, classes in (('proposal', None, 'proposal_logits', 2),
                                   ('localization', 'STA', 'logits', 4)):
    alone = models.get_model('r3d_18', attention=unit, **{
        **SMALL, 'num_classes': classes})
    wanted = jax.jit(lambda v, alone=alone, name=name: alone.apply(
        {kind: tree[name] for kind, tree in variables.items()}, v))(video)
    assert seeded.difference(outputs[key], wanted['logits']) < 1e-5
  units = [jax.tree_util.keystr(path) for path, _ in
           jax.tree_util.tree_leaves_with_path(variables['params'])
           if 'attention' in jax.tree_util.keystr(path)]
  assert units and all('localization' in name for name in units)


def test_hosts_are_3d_networks():
  model = models.get_model('scnn', backbone='c3d', num_classes=3)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(
      (1, *model.image_shape), np.float32))['params']
  assert shapes['localization']['head']['kernel'].shape == (4096, 4)
  assert shapes['proposal']['head']['kernel'].shape == (4096, 2)
  with pytest.raises(ValueError, match='backbone of scnn'):
    models.get_model('scnn', backbone='tsn_r18')


def test_losses_by_hand():
  labels = np.asarray([0, 2])
  outputs = {'proposal_logits': np.log([[3.0, 1.0], [1.0, 3.0]]),
             'logits': np.log(np.asarray([[.5, .25, .25], [.2, .2, .6]]))}
  got = losses.scnn_losses(outputs, labels, np.asarray([0.0, 0.0625]), 2.0)
  np.testing.assert_allclose(got['proposal'], np.log([4 / 3, 4 / 3]), rtol=1e-6)
  np.testing.assert_allclose(got['class'], -np.log([.5, .6]), rtol=1e-6)
  # 0.0625 ** 0.25 is one half.
  np.testing.assert_allclose(got['overlap'], [0, .36 / .5 - 1], rtol=1e-5)
  less = losses.scnn_losses(outputs, labels, np.asarray([0.0, 0.0625]), 2.0,
                            background=0.1)
  np.testing.assert_allclose(less['class'], -np.log([.5, .6]) * [.1, 1],
                             rtol=1e-6)
  for key in ('proposal', 'overlap'):
    np.testing.assert_array_equal(less[key], got[key])


def test_windows_are_kept_by_the_proposal_and_weighed_by_length():
  action = [0.9, 0.6, 0.7, 0.8]
  chances = [[.1, .2, .7], [0, 1, 0], [.3, .6, .1], [.8, .1, .1]]
  found = windows.judge(action, chances, [1, 1, 26, 1], [16, 16, 32, 16],
                        (16, 32), prior=[[1, .5], [.25, 1]])
  assert found['row'].tolist() == [0, 2]
  assert found['label'].tolist() == [1, 0]
  np.testing.assert_allclose(found['score'], [.35, .15])
  np.testing.assert_allclose(found['start'], [1 / 25, 26 / 25])
  np.testing.assert_allclose(found['end'], [16 / 25, 57 / 25])
  weighed = windows.judge(action, chances, [1, 1, 26, 1], [16, 16, 32, 16],
                          (16, 32), prior=[[1, .5], [.25, 1]],
                          weigh_action=True)
  np.testing.assert_allclose(weighed['score'], [.35 * .9, .15 * .7])


@pytest.mark.parametrize('least', [0.1, 0.0])
def test_rc3d_sees_what_is_far_from_actions_if_asked(least):
  segments = np.asarray([[0, 15, 2], [-1, -1, -1]], np.float32)
  # The action, one that overlaps it by a third, and one that is far away.
  proposals = np.asarray([[0, 15], [8, 23], [60, 75]], np.float32)
  drawn, exist, classes, _ = rc3d._draw_proposals(
      jax.random.key(0), proposals, np.ones(3, bool), segments,
      background=(least, 0.5))
  seen = {float(start): int(label) for (start, _), label, there in zip(
      drawn, classes, exist, strict=True) if there}
  assert seen[0.0] == 3 and seen[8.0] == 0
  assert (60.0 in seen) == (least == 0)
  assert seen.get(60.0, 0) == 0


def test_buffers_reach_both_ends():
  lay = windows.lay_buffers
  assert lay(100, 40, 25).tolist() == [0, 25, 50, 60]
  assert lay(100, 40, 25, True).tolist() == [0, 10, 25, 35, 50, 60]
  assert lay(30, 40, 25).tolist() == lay(40, 40, 25).tolist() == [0]


@pytest.mark.parametrize('kind', ['file', 'checkpoint'])
def test_both_networks_start_from_one_recognizer(tmp_path, monkeypatch, kind):
  model = models.get_model('scnn', attention='STA', **SMALL)
  alone = models.get_model('r3d_18', **{**SMALL, 'num_classes': 7})
  weights = seeded.variables(alone, (1, *alone.image_shape))
  source = tmp_path
  if kind == 'file':
    [layout, *_] = convert.layouts_of(alone)
    source = tmp_path / 'r3d_18.safetensors'
    convert.save_file(source, convert.to_torch(alone, weights, layout))
  else:
    monkeypatch.setattr(checkpoint, 'load', lambda _: (weights, None, None))
  found, text = initialize.load_weights(str(source), model, jax.random.key(0),
                                        ('localization',))
  assert 'fresh parameters are frozen' in text and (
      'drawn: localization/head/bias, localization/head/kernel, localization/'
      'backbone/layer' in text)
  for name in ('proposal', 'localization'):
    assert f'{name}: ' in text
    own = traverse_util.flatten_dict(found['params'][name])
    for path, array in traverse_util.flatten_dict(weights['params']).items():
      if path[0] == 'backbone':
        np.testing.assert_array_equal(own[path], array)
    assert own['head', 'bias'].shape == ({'proposal': 2}.get(name, 4),)
  seen = found['batch_stats']['localization']['backbone']
  assert jax.tree.all(jax.tree.map(
      np.array_equal, seen, weights['batch_stats']['backbone']))
  assert 'attention' not in str(jax.tree.structure(
      found['params']['proposal']))
  # Its own weights go where they are from.
  if kind == 'checkpoint':
    monkeypatch.setattr(checkpoint, 'load', lambda _: (found, None, None))
    again, text = initialize.load_weights(str(source), model,
                                          jax.random.key(1), ('localization',))
    assert 'frozen' not in text
    assert jax.tree.all(jax.tree.map(np.array_equal, again, found))
