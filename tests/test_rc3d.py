"""R-C3D: proposals, detections, what is trained, published weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models
from vidattn_jax.detection import segments as segments_lib
from vidattn_jax.training import initialize
from vidattn_jax.training import losses

pytestmark = pytest.mark.usefixtures('plain_forms')
FRAMES, CLASSES = 64, 3
SMALL = {'num_classes': CLASSES, 'num_frames': FRAMES, 'crop_size': 64,
         'width': 1 / 16, 'scales': (1, 2, 3), 'proposals': (20, 12),
         'detections': 30, 'least_score': 0.2}


@functools.cache
def _network(**changes):
  model = models.get_model('rc3d', **{**SMALL, **changes})
  return model, seeded.variables(model, (1, *model.image_shape))


@pytest.fixture(scope='module')
def found():
  """Outputs of two buffers."""
  model, variables = _network()
  video = seeded.clip((2, *model.image_shape))
  outputs = jax.jit(lambda v: model.apply(variables, v, capture=True))(video)
  return variables, jax.tree.map(np.asarray, outputs)


def _softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def _plain_nms(boxes, scores, threshold, most):
  kept = []
  for i in np.argsort(-scores, kind='stable'):
    if len(kept) < most and all(segments_lib.temporal_iou(
        boxes[i], boxes[j], extra=1) <= threshold for j in kept):
      kept.append(i)
  return np.asarray(kept, int)


def _decode(anchors, deltas):
  length = anchors[..., 1] - anchors[..., 0] + 1
  centre = anchors[..., 0] + length / 2 + deltas[..., 0] * length
  half = np.exp(deltas[..., 1]) * length / 2
  return np.clip(np.stack([centre - half, centre + half], -1), 0, FRAMES - 1)


def test_proposals_are_the_surest_moved_anchors(found):
  _, outputs = found
  anchors = segments_lib.make_anchors((1, 2, 3), 8, FRAMES // 8)
  assert outputs['rpn_logits'].shape == (2, 24, 2)
  for n in range(2):
    moved = _decode(anchors, outputs['rpn_deltas'][n])
    kept = _plain_nms(moved, _softmax(outputs['rpn_logits'][n])[:, 1], 0.9, 12)
    count = outputs['proposal_mask'][n].sum()
    assert count == len(kept)
    np.testing.assert_allclose(outputs['proposals'][n][:count], moved[kept],
                               rtol=1e-5, atol=1e-3)


def test_detections_are_suppressed_class_by_class(found):
  _, outputs = found
  assert outputs['logits'].shape == (2, 12, CLASSES + 1)
  for n in range(2):
    scores = _softmax(outputs['logits'][n])
    rows = []
    for k in range(1, CLASSES + 1):
      boxes = _decode(outputs['proposals'][n], outputs['deltas'][n][:, k]
                      * np.asarray([0.1, 0.2]))
      sure = np.flatnonzero(outputs['proposal_mask'][n] & (scores[:, k] > 0.2))
      kept = sure[_plain_nms(boxes[sure], scores[sure, k], 0.4, 30)]
      rows += [(scores[i, k], k - 1, *boxes[i]) for i in kept]
    rows = np.asarray(sorted(rows, reverse=True))[:30]
    mask = outputs['mask'][n]
    assert mask.sum() == len(rows) > 0 and mask[:len(rows)].all()
    np.testing.assert_allclose(outputs['scores'][n][mask], rows[:, 0],
                               rtol=1e-5)
    np.testing.assert_array_equal(outputs['labels'][n][mask], rows[:, 1])
    np.testing.assert_allclose(outputs['segments'][n][mask], rows[:, 2:],
                               atol=1e-3)


def test_heads_compute_what_the_published_code_does(found):
  torch = pytest.importorskip('torch')
  variables, outputs = found
  model, _ = _network()
  weights = {k: torch.from_numpy(np.array(v)) for k, v in convert.to_torch(
      model, variables, 'rc3d').items()}
  x = torch.from_numpy(outputs['stages'][-1].transpose(0, 4, 1, 2, 3).copy())
  y = x
  for name in ('RPN_Conv1', 'RPN_Conv2'):
    y = torch.nn.functional.conv3d(
        y, weights[f'RCNN_rpn.{name}.weight'],
        weights[f'RCNN_rpn.{name}.bias'], (1, 2, 2), 1).relu()
  # 4 x 4 places become 1; of the published 7 x 7, the pool sees 2 x 2.
  y = y.amax((3, 4), keepdim=True)
  score, twin = (torch.nn.functional.conv3d(
      y, weights[f'RCNN_rpn.RPN_{name}.weight'],
      weights[f'RCNN_rpn.RPN_{name}.bias']) for name in (
          'cls_score', 'twin_pred'))
  n, _, t = score.shape[:3]
  score = score.reshape(n, 2, 3 * t, 1, 1).reshape(n, 2, 3, t)
  score = score.permute(0, 3, 2, 1).reshape(n, -1, 2)
  twin = twin.permute(0, 2, 3, 4, 1).reshape(n, -1, 2)
  assert seeded.difference(outputs['rpn_logits'], score.numpy()) < 1e-4
  assert seeded.difference(outputs['rpn_deltas'], twin.numpy()) < 1e-4
  pooled = torch.stack([torch.stack([
      torch.from_numpy(np.asarray(segments_lib.soi_pool(
          jnp.asarray(outputs['stages'][-1][i]), jnp.asarray(roi[None]))[0])
                       .transpose(3, 0, 1, 2).copy())
      for roi in outputs['proposals'][i]]) for i in range(n)])
  linear = torch.nn.functional.linear
  y = linear(pooled.flatten(2), weights['RCNN_top.0.weight'],
             weights['RCNN_top.0.bias']).relu()
  logits = linear(y, weights['RCNN_cls_score.weight'],
                  weights['RCNN_cls_score.bias'])
  deltas = linear(y, weights['RCNN_twin_pred.weight'],
                  weights['RCNN_twin_pred.bias'])
  assert seeded.difference(outputs['logits'], logits.numpy()) < 1e-4
  assert seeded.difference(
      outputs['deltas'].reshape(deltas.shape), deltas.numpy()) < 1e-4


def test_published_weights_have_a_place_each():
  model = models.get_model('rc3d', num_classes=20)
  tree = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(
      (1, 16, 112, 112, 3), np.float32))
  # Shapes are compared with arrays that take no memory.
  weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in
             seeded.shapes('rc3d_c3d_thumos14').items()}
  converted = convert.from_torch(model, weights, (16, 112, 112, 3))
  assert jax.tree.map(lambda x: x.shape, converted['params']) == jax.tree.map(
      lambda x: x.shape, tree['params'])


def test_published_weights_see_the_same_colours(tmp_path, monkeypatch):
  model, variables = _network()
  file = tmp_path / 'w.safetensors'
  convert.save_file(file, convert.to_torch(model, variables, 'rc3d'))
  # Drawing fresh weights takes long to compile, and none is left.
  monkeypatch.setattr(initialize.state, 'init_variables', lambda *_: (
      jax.tree.map(np.zeros_like, variables)))
  started, said = initialize.load_weights(str(file), model, jax.random.key(0))
  assert 'turned to take RGB' in said
  expected = convert.swap_colours(model, variables)
  first = expected['params']['backbone']['conv1']['conv']['kernel']
  np.testing.assert_array_equal(
      first, variables['params']['backbone']['conv1']['conv']['kernel'][
          ..., ::-1, :])
  jax.tree.map(np.testing.assert_array_equal, started['params'],
               expected['params'])


def _truth(*rows, most=5):
  truth = np.full((most, 3), -1, np.float32)
  truth[:len(rows)] = np.reshape(rows, (-1, 3))
  return truth


def test_targets_of_what_is_drawn():
  model, variables = _network()
  truth = np.stack([_truth((8, 23, 1), (40, 60, 2)), _truth()])
  outputs = jax.jit(lambda v, s: model.apply(
      variables, v, train=True, segments=s,
      rngs={'dropout': jax.random.key(0)}))(
          seeded.clip((2, *model.image_shape)), truth)
  outputs = jax.tree.map(np.asarray, outputs)
  anchors = segments_lib.make_anchors((1, 2, 3), 8, FRAMES // 8)
  wanted, which = segments_lib.match_anchors(
      anchors, truth[0, :, :2], truth[0, :, 2] >= 0, FRAMES)
  labels = outputs['rpn_labels'][0]
  # No more than are drawn: all of them.
  np.testing.assert_array_equal(labels, wanted)
  assert (labels == 1).sum() >= 2
  np.testing.assert_allclose(
      outputs['rpn_targets'][0][labels == 1],
      segments_lib.encode(anchors, truth[0][which][:, :2])[labels == 1],
      rtol=1e-5)
  # The truth is among what is proposed, with its class and nothing to move.
  rows = outputs['proposals'][0].tolist()
  for start, end, label in truth[0, :2]:
    i = rows.index([start, end])
    assert outputs['labels'][0][i] == label + 1
    assert outputs['proposal_mask'][0][i]
    np.testing.assert_allclose(outputs['targets'][0][i], 0, atol=1e-6)
  # Others move by tenths and grow by fifths.
  actions = outputs['labels'][0] > 0
  boxes = outputs['proposals'][0][actions]
  best = segments_lib.temporal_iou(
      boxes[:, None], truth[0, :2, :2], extra=1).argmax(1)
  moved = segments_lib.encode(boxes, truth[0, best, :2])
  assert np.abs(moved).max() > 0.01
  np.testing.assert_allclose(outputs['targets'][0][actions],
                             moved / np.asarray([0.1, 0.2]), atol=1e-4)
  # A buffer without truth has background alone, and finite losses.
  assert set(outputs['rpn_labels'][1]) == {-1, 0}
  assert not outputs['labels'][1].any()
  parts = losses.rc3d_losses(outputs)
  assert all(np.isfinite(part).all() for part in parts.values())
  assert parts['rpn_twin'][1] == parts['twin'][1] == parts['class'][1] == 0


def test_losses_by_hand():
  zeros = np.zeros((1, 3, 2), np.float32)
  deltas = np.zeros((1, 2, 3, 2), np.float32)
  deltas[0, 0, 1] = 2.0, 0.5  # of the class of this proposal
  deltas[0, 0, 2] = 9.0, 9.0
  got = losses.rc3d_losses({
      'rpn_logits': zeros, 'rpn_deltas': zeros,
      'rpn_labels': np.asarray([[1, 0, -1]]),
      'rpn_targets': np.asarray([[[1.0, 0.1], [5, 5], [5, 5]]]),
      'labels': np.asarray([[1, 0]]), 'logits': np.zeros((1, 2, 3)),
      'proposal_mask': np.asarray([[True, False]]),
      'deltas': deltas, 'targets': np.zeros((1, 2, 2))})
  expected = {
      'rpn_class': np.log(2),
      # Beyond 1 / 9 a straight line; within, 4.5 x^2; of two that were drawn.
      'rpn_twin': (1 - 0.5 / 9 + 4.5 * 0.01) / 2,
      'class': np.log(3), 'twin': 1.5 + 0.125}
  for key, value in expected.items():
    np.testing.assert_allclose(got[key], [value], rtol=1e-5, err_msg=key)


@pytest.mark.parametrize('shape,segments,message', [
    ((1, 60, 64, 64, 3), None, 'a multiple of 8 frames'),
    ((1, 64, 48, 64, 3), None, '64 pixels high and wide or more'),
    ((1, 64, 64, 64, 2), None, 'the network takes'),
    ((1, 64, 64, 64, 3), (1, 5, 2), r'must be \(1, S, 3\)')])
def test_other_forms_are_refused(shape, segments, message):
  model, variables = _network()
  with pytest.raises(ValueError, match=message):
    model.apply(variables, np.zeros(shape, np.float32), segments=(
        None if segments is None else np.zeros(segments)),
                rngs={'dropout': jax.random.key(0)})
