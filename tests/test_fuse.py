"""Fusing streams, weights and splits."""

import dataclasses
import itertools

import numpy as np
import pytest

from vidattn_jax import cli
from vidattn_jax.tools import fuse
from vidattn_jax.training import evaluate
from vidattn_jax.training import metrics

CLASSES = ('a', 'b', 'c')


def _result(scores, labels, **changes):
  scores = np.asarray(scores, np.float32)
  return evaluate.Result(
      names=tuple(f'v{i}' for i in range(len(scores))),
      labels=np.asarray(labels, np.int32), scores=scores,
      clip_scores=scores[:, None], classes=CLASSES, **changes)


@pytest.fixture
def streams():
  """RGB is sure of two of four videos, flow weakly of the two others."""
  rgb = _result([[4, 0, 0], [0, 4, 0], [0, 1.5, 0], [2, 0, 0]], [0, 1, 2, 1])
  flow = _result([[0.3, 0.4, 0.3], [0.1, 0.6, 0.3], [0.1, 0.2, 0.7],
                  [0.2, 0.6, 0.2]], [0, 1, 2, 1], average='probabilities',
                 modality='flow')
  return rgb, flow


def test_rgb_and_flow_are_fused_one_to_three_on_probabilities(streams):
  rgb, flow = streams
  fused = fuse.fuse(streams)
  expected = (metrics.softmax(rgb.scores) + 3 * flow.scores) / 4
  np.testing.assert_allclose(fused.scores, expected, rtol=1e-6)
  assert (fused.average, fused.modality) == ('probabilities', 'flow+rgb')
  # The order of the files does not matter, nor do logits of both.
  np.testing.assert_allclose(fuse.fuse(streams[::-1]).scores, expected,
                             rtol=1e-6)
  logits = dataclasses.replace(flow, scores=np.log(flow.scores),
                               average='logits')
  np.testing.assert_allclose(fuse.fuse([rgb, logits]).scores, expected,
                             rtol=1e-5)
  # Or logits, all alike, as the code of MARS.
  np.testing.assert_allclose(
      fuse.fuse([rgb, logits, rgb], [1, 1, 1], probabilities=False).scores,
      (2 * rgb.scores + logits.scores) / 3, rtol=1e-6)
  with pytest.raises(ValueError, match='result 2 holds probabilities'):
    fuse.fuse(streams, probabilities=False)
  assert fuse.fuse([flow, flow]).average == 'probabilities'
  # Two of one kind count alike, as they are.
  np.testing.assert_allclose(fuse.fuse([rgb, rgb]).scores, rgb.scores)
  assert fuse.fuse([rgb, rgb]).average == 'logits'


def test_accuracy_by_length(tmp_path):
  labels = np.zeros(40, int)
  scores = np.tile(np.float32([1, 0, 0]), (40, 1))
  lengths = np.arange(40) * 10 + 5
  first = _result(scores, labels, num_frames=lengths)
  # The second errs in the longer half.
  second = _result(np.where(lengths[:, None] > 200, scores[:, ::-1], scores),
                   labels, num_frames=lengths)
  rows = fuse.compare_lengths([first, second], ('a', 'b'),
                              tmp_path / 'x.png', bins=4)
  assert sum(row[2] for row in rows) == 40
  assert all(9 <= row[2] <= 11 for row in rows)
  assert rows[0][0] == 5 and rows[-1][1] == 395
  assert all(low[1] < high[0] for low, high in itertools.pairwise(rows))
  assert [row[3][0] for row in rows] == [1.0] * 4
  np.testing.assert_allclose(
      sum(row[2] * row[3][1] for row in rows), (lengths <= 200).sum())
  assert rows[0][3][1] == 1 and rows[-1][3][1] == 0
  assert (tmp_path / 'x.png').stat().st_size > 1000
  with pytest.raises(ValueError, match='does not tell the lengths'):
    fuse.compare_lengths([_result(scores, labels)] * 2, ('a', 'b'))


def test_sweep_ends_at_the_streams_themselves(streams):
  rows = dict(fuse.sweep(*streams))
  tops = {name: result.summary()['top1'] for name, result in rows.items()}
  assert tops['1:0'] == 0.5 and tops['0:1'] == 0.75 and tops['1:3'] == 1.0
  for end, stream in (('1:0', streams[0]), ('0:1', streams[1])):
    np.testing.assert_array_equal(np.argmax(rows[end].scores, 1),
                                  np.argmax(stream.scores, 1))


def test_mean_of_splits_is_weighted_by_videos():
  good = _result(np.eye(3), [0, 1, 2])
  bad = _result([[1, 0, 0]], [1])
  mean = fuse.mean_of_splits([good, bad])
  assert mean['top1'] == 0.75 and mean['videos'] == 4
  with pytest.raises(ValueError, match='Split 2 has no labelled videos'):
    fuse.mean_of_splits([good, _result([[1, 0, 0]], [-1])])


def test_modality_is_kept_in_files_and_may_lack(streams, tmp_path):
  streams[1].save(tmp_path / 'flow.npz')
  assert evaluate.load_result(tmp_path / 'flow.npz').modality == 'flow'
  with np.load(tmp_path / 'flow.npz') as data:
    np.savez(tmp_path / 'old.npz', **{
        key: data[key] for key in data if key != 'modality'})
  assert evaluate.load_result(tmp_path / 'old.npz').modality == 'rgb'


def test_command_prints_streams_sweep_and_mean(streams, tmp_path, capsys):
  paths = [str(tmp_path / f'{s.modality}.npz') for s in streams]
  for stream, path in zip(streams, paths, strict=True):
    stream.save(path)
  cli.main(['fuse', *paths, '--sweep', '--split', *paths])
  lines = capsys.readouterr().out.splitlines()
  cells = {line.split('%')[0].rpartition(' ')[0].strip():
           line.split() for line in lines if '%' in line}
  assert cells['fused 1:3'][2] == '100.00%'
  assert cells['1:0'][1] == '50.00%' and cells['0:1'][1] == '75.00%'
  assert 'tuned on these videos' in '\n'.join(lines)
  assert lines[-1].startswith(
      'Mean of 2 splits, weighted by their videos (8): top-1 100.00%')
  for wrong, says in ((['--split', paths[0]], 'takes as many files'),
                      (['--split', *paths, '--out', 'x'], 'leave out --split'),
                      ):
    with pytest.raises(SystemExit, match=says):
      cli.main(['fuse', *paths, *wrong])
  with pytest.raises(SystemExit, match='--sweep takes two files'):
    cli.main(['fuse', paths[0], '--sweep'])


def test_command_averages_logits_of_all_streams_alike(streams, tmp_path):
  rgb, flow = streams
  flow = dataclasses.replace(flow, scores=np.log(flow.scores),
                             average='logits')
  paths = [str(tmp_path / name) for name in ('rgb.npz', 'flow.npz', 'mars.npz')]
  for result, path in zip((rgb, flow, rgb), paths, strict=True):
    result.save(path)
  out = str(tmp_path / 'fused.npz')
  cli.main(['fuse', *paths, '--logits', '--weights', '1', '1', '1',
            f'--out={out}'])
  fused = evaluate.load_result(out)
  np.testing.assert_allclose(fused.scores, (2 * rgb.scores + flow.scores) / 3,
                             rtol=1e-6)
  assert fused.average == 'logits'
  # Two of them swept, on the same scale.
  with pytest.raises(SystemExit, match='flow.npz holds probabilities'):
    streams[1].save(paths[1])
    cli.main(['fuse', *paths[:2], '--logits', '--sweep'])
