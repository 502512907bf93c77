"""From collected attention over edits to fine-tuning: the trainer's side."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from input_pipeline import batches
from input_pipeline import sampling
from input_pipeline import sources
from input_pipeline import synthetic
import main
from vidattn_jax import cli
from vidattn_jax import wiring
from vidattn_jax.editor import collected
from vidattn_jax.editor import files
from vidattn_jax.editor import store
from vidattn_jax.ops import pixels
from vidattn_jax.training import checkpoint
from vidattn_jax.training import evaluate
from vidattn_jax.training import losses

_LENGTHS = (9, 12, 10, 8, 11, 13)


def _edit(name, num_frames, weights, label=0, **changes):
  values = dict(
      video=name, num_frames=num_frames, frame_indices=tuple(range(num_frames)),
      original=(0.5,) * num_frames, edited=tuple(weights),
      mask=(1,) * num_frames, label=label, predicted=1, annotator='a',
      created=store.now(), updated=store.now(), revision=1, status='submitted')
  return store.Edit(**{**values, **changes})


def test_both_branches_are_trained():
  rng = np.random.default_rng(0)
  logits, attention = rng.standard_normal((2, 4, 3)).astype(np.float32)
  targets = np.eye(3, dtype=np.float32)[[0, 2, 1, 1]]
  got = losses.cross_entropy(
      {'logits': logits, 'attention_logits': attention}, {'targets': targets})
  want = sum(optax.softmax_cross_entropy(x, targets)
             for x in (logits, attention))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_temporal_loss_is_the_mean_over_edited_clips_that_count():
  drawn = np.array([[1, 0], [0.5, 0.25], [1, 1], [0, 0]], np.float32)
  mask = np.array([[1, 1], [1, 0], [1, 1], [0, 0]], np.float32)
  batch = {'temporal_target': drawn, 'temporal_mask': mask,
           'mask': np.array([1, 1, 0, 1], np.float32)}
  outputs = {'temporal_attention': jnp.full((4, 2), 0.5)}
  # Clip 0: mean of two quarters; clip 1: the one frame is as drawn; clip 2 does
  # not count, clip 3 nobody edited.
  got = losses.mean_temporal_loss(outputs, batch, gamma=10.0)
  assert float(got) == pytest.approx(10 * (0.25 + 0) / 2)
  batch['mask'] = np.zeros(4, np.float32)
  assert float(losses.mean_temporal_loss(outputs, batch, 10.0)) == 0
  gradient = jax.grad(lambda a: losses.mean_temporal_loss(
      {'temporal_attention': a}, batch, 10.0))(outputs['temporal_attention'])
  assert not np.asarray(gradient).any()


def test_jitter_changes_clips_as_a_whole():
  video = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 5, 3), np.uint8)
  same = pixels.jitter(jax.random.key(0), video, 0.0)
  np.testing.assert_allclose(same, video, atol=1e-3)
  got = np.asarray(pixels.jitter(jax.random.key(0), video, 0.4))
  assert got.min() >= 0 and got.max() <= 255
  factors = np.asarray(jax.random.uniform(
      jax.random.key(0), (3, 3, 1, 1, 1, 1), jnp.float32, 0.6, 1.4))
  for n in range(3):
    b, c, s = factors[:, n].ravel()
    x = np.clip(b * video[n].astype(np.float64), 0, 255)
    weights = np.array([0.299, 0.587, 0.114])
    x = np.clip(c * x + (1 - c) * (x @ weights).mean(), 0, 255)
    x = np.clip(s * x + (1 - s) * (x @ weights)[..., None], 0, 255)
    np.testing.assert_allclose(got[n], x, atol=2e-3)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  """Videos whose grey level tells the number of a frame."""
  root = tmp_path_factory.mktemp('knowledge')
  for i, length in enumerate(_LENGTHS):
    path = root / 'train' / 'ab'[i % 2] / f'{i}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = 20 + 16 * np.arange(length)
    frames = np.broadcast_to(levels[:, None, None, None], (length, 40, 48, 3))
    synthetic.encode(str(path), frames.astype(np.uint8))
  for i, name in enumerate('ab'):
    path = root / 'val' / name / '0.mp4'
    path.parent.mkdir(parents=True)
    frames = np.full((9, 40, 48, 3), 60 + 90 * i, np.uint8)
    synthetic.encode(str(path), frames)
  return root


def _config(clips, **changes):
  config = common.get_config()
  with config.unlocked():
    config.update_from_flattened_dict({
        'data.root': str(clips), 'model.name': 'st_abn_r50',
        'model.width': 1 / 16, 'model.num_frames': 3,
        'model.crop_size': (32, 32), 'model.dropout': 0.0,
        'data.resize': (36, 40), 'data.crop': 'center', 'data.flip': 0.0,
        'batch_size': 2, 'eval.batch_size': 2, 'num_epochs': 2.0,
        'schedule.learning_rate': 0.01, 'log_every_steps': 1, 'mesh.data': 1,
        'compile_cache': '',
        **{k.replace('__', '.'): v for k, v in changes.items()}})
  return config


@pytest.mark.parametrize('workers', [0, 1])
def test_targets_are_those_of_the_frames_of_a_clip(clips, workers):
  config = _config(clips, data__workers=workers)
  dataset = sources.load(config.data, 'train')
  name = 'train/a/2.mp4'
  drawn = np.linspace(0, 1, 10)
  edits = store.by_video({(name, 'a'): _edit(name, 10, drawn)})
  met = set()
  for batch in batches.train_batches(
      dataset, config, num_steps=6,
      annotate=functools.partial(store.annotate, edits)):
    for row, index in enumerate(batch['index']):
      target, mask = (batch[f'temporal_{kind}'][row]
                      for kind in ('target', 'mask'))
      if dataset.records[index].name != name:
        assert not target.any() and not mask.any()
        continue
      # The frames' own numbers, read off their pixels.
      numbers = np.rint((batch['video'][row].mean((1, 2, 3)) - 20) / 16)
      np.testing.assert_allclose(target, drawn[numbers.astype(int)], rtol=1e-6)
      assert mask.all()
      met.add(tuple(numbers))
  assert len(met) >= 2


def test_edits_of_the_data_set_are_found_and_others_named(clips, tmp_path,
                                                          caplog):
  path = tmp_path / 'edits.jsonl'
  edits = [_edit('train/a/0.mp4', 9, [1.0] * 9),
           _edit('train/b/1.mp4', 12, [0.0] * 12, label=1, status='draft'),
           _edit('train/a/9.mp4', 9, [1.0] * 9)]
  path.write_text(''.join(e.to_line() + '\n' for e in edits))
  config = wiring.resolve(_config(clips, data__edits=str(path)))
  mixed = wiring.training_inputs(config, str(tmp_path))
  assert len(mixed.train_names) == 6
  assert '1 edits of' in caplog.text and 'train/a/9.mp4' in caplog.text
  config.data.edited_only = True
  only = wiring.training_inputs(config, str(tmp_path))
  assert only.train_names == ('train/a/0.mp4',)
  config.data.edits = ''
  plain = wiring.training_inputs(config, str(tmp_path))
  hashes = {inputs.card['train']['sha256'] for inputs in (mixed, only, plain)}
  assert len(hashes) == 3
  path.write_text(edits[1].to_line() + '\n')
  config.data.edits = str(path)
  with pytest.raises(ValueError, match='holds no submitted edit of a training'):
    wiring.training_inputs(config, str(tmp_path))


def test_networks_without_a_branch_are_refused(clips, tmp_path):
  for key in ('data__edits', 'eval__collect_attention', 'eval__invert_spatial'):
    config = _config(clips, model__name='slow_r50',
                     **{key: 'x' if key == 'data__edits' else True})
    with pytest.raises(ValueError, match='takes a network with an attention'):
      main.run(config, str(tmp_path / 'run'), 'evaluate')


def test_classes_of_edited_videos_are_compared_with_others(tmp_path, capsys):
  def result(right):
    scores = np.eye(3, dtype=np.float32)[
        [label if hit else (label + 1) % 3 for label, hit in right]]
    return evaluate.Result(
        names=tuple(f'v{i}' for i in range(len(right))),
        labels=np.array([label for label, _ in right], np.int32),
        scores=scores, clip_scores=scores[:, None], classes=('a', 'b', 'c'))

  result([(0, 0), (0, 0), (1, 1), (2, 1), (2, 0)]).save(tmp_path / '1.npz')
  result([(0, 1), (0, 0), (1, 1), (2, 0), (2, 0)]).save(tmp_path / '2.npz')
  (tmp_path / 'edits.jsonl').write_text(
      _edit('v0', 9, [1.0] * 9).to_line() + '\n')
  cli.main(['compare', str(tmp_path / '1.npz'), str(tmp_path / '2.npz'),
            '--out', str(tmp_path / 'x.png'), '--edits',
            str(tmp_path / 'edits.jsonl')])
  lines = capsys.readouterr().out.splitlines()
  assert '1 classes of edited videos: a' in lines
  rows = {line[:13].strip(): line[13:].split() for line in lines}
  assert rows['these classes'] == ['0.0%', '50.0%', '+50.0%', '2']
  assert rows['others'] == ['66.7%', '33.3%', '-33.3%', '3']
  assert rows['all'] == ['40.0%', '40.0%', '+0.0%', '5']


@pytest.mark.slow
def test_what_people_drew_is_learned_and_the_extractor_stays(clips, tmp_path):
  first = str(tmp_path / 'first')
  config = _config(clips)
  main.run(config, first)
  config.eval.collect_attention = True
  result = main.run(config, first, 'evaluate')
  assert collected.splits(first) == ('train', 'eval')
  found = collected.read(first, 'train')
  assert len(found.names) == 6 and found.temporal_attention.shape == (6, 1, 3)
  for row, name in enumerate(found.names):
    indices = sampling.segment_eval(int(found.num_frames[row]), 3)
    np.testing.assert_array_equal(found.frame_indices[row], indices)
    assert name in found.paths[row]
  np.testing.assert_allclose(collected.read(first, 'eval').scores,
                             result.scores, rtol=1e-5)

  # More crops change the scores, not whose attention is shown: the centre's.
  config.eval.crops = 3
  main.run(config, first, 'evaluate')
  np.testing.assert_allclose(
      collected.read(first, 'train').temporal_attention,
      found.temporal_attention, atol=1e-5)

  # Everybody says: the end matters, the beginning does not.
  edits = files.default_path(first)
  with open(edits, 'w', encoding='utf-8') as file:
    for name, n in zip(found.names, found.num_frames, strict=True):
      weights = np.where(np.arange(n) < n * 2 // 3, 0.0, 1.0)
      file.write(_edit(name, int(n), weights).to_line() + '\n')
  distances = {}
  for gamma in (0.0, 10.0):
    second = str(tmp_path / f'gamma{gamma:g}')
    tuned = _config(clips, data__edits=edits, init_from=first,
                    freeze=('backbone',), temporal_weight=gamma,
                    num_epochs=20.0, eval__every_epochs=20.0,
                    checkpoint__every_epochs=20.0)
    main.run(tuned, second)
    tuned.eval.collect_attention = True
    main.run(tuned, second, 'evaluate')
    attention = collected.read(second, 'train').temporal_attention[:, 0]
    distances[gamma] = np.mean((attention - np.array([0, 0, 1])) ** 2)
  assert distances[10.0] < 0.5 * distances[0.0]
  before, after = (checkpoint.load(where)[0] for where in (first, second))
  for kind in ('params', 'batch_stats'):
    for a, b in zip(jax.tree.leaves(before[kind]['backbone']),
                    jax.tree.leaves(after[kind]['backbone']), strict=True):
      np.testing.assert_array_equal(a, b)
  moved = [np.abs(a - b).max() for a, b in zip(
      jax.tree.leaves(before['params']['branch']),
      jax.tree.leaves(after['params']['branch']), strict=True)]
  assert max(moved) > 1e-3

  # Where it would not look is another place.
  tuned.eval.collect_attention = False
  tuned.eval.invert_spatial = True
  inverted = main.run(tuned, second, 'evaluate')
  card = json.loads((tmp_path / 'gamma10' / 'eval').glob('*.json').__next__()
                    .read_text())
  assert card['config']['eval']['invert_spatial'] in (True, False)
  straight = collected.read(second, 'eval').scores
  assert np.abs(inverted.scores - straight).max() > 1e-4
