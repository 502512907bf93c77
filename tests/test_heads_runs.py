"""Sets with several heads and with any number of labels, through main.py."""

import csv
import json
import shutil

import numpy as np
import pytest
import small

from configs import own_videos
from input_pipeline import synthetic
import main
from vidattn_jax import cli
from vidattn_jax.training import checkpoint
from vidattn_jax.training import evaluate

CLIPS = 12
NOUNS, VERBS = ('cup', 'door', 'hand'), ('open', 'take')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Clips whose red tells the noun and whose blue the verb."""
  root = tmp_path_factory.mktemp('clips')
  rng = np.random.default_rng(0)
  rows, lines = [], []
  for i in range(CLIPS):
    noun, verb = i % 3, i // 3 % 2
    frames = rng.integers(0, 30, (4, 40, 40, 3), dtype=np.uint8)
    frames[..., 0] += np.uint8(100 * noun)
    frames[..., 2] += np.uint8(200 * verb)
    synthetic.encode(str(root / f'{i:02d}.mp4'), frames)
    rows.append((f'{i:02d}.mp4', NOUNS[noun], VERBS[verb],
                 'train' if i < 8 else 'val'))
    # None for a dark cup.
    labels = [NOUNS[noun]] * (noun > 0) + ['take'] * verb
    lines.append(f'{i:02d}.mp4 {";".join(labels)}'.strip())
  with open(root / 'all.csv', 'w', newline='') as file:
    csv.writer(file).writerows([('path', 'noun', 'verb', 'split'), *rows])
  (root / 'train.txt').write_text('\n'.join(lines[:8]))
  (root / 'val.txt').write_text('\n'.join(lines[8:]))
  return root


def _config(root, **keys):
  c = small.shrink(own_videos.get_config())
  with c.unlocked():
    c.data.root = str(root)
    c.update(batch_size=4, num_epochs=2.0, mixup_alpha=0.2)
    c.model.update(num_frames=2)
    c.eval.update(batch_size=4, every_epochs=1.0)
    c.data.update(resize=40, max_bad_fraction=0.3)
    for key, value in keys.items():
      section, _, name = key.rpartition('__')
      with c.ignore_type():
        (c[section] if section else c)[name] = value
  return c


def _heads(root, **keys):
  return _config(root, **{
      'data__train_list': 'all.csv', 'data__csv_split': 'split',
      'data__csv_labels': {'verb': 'verb', 'noun': 'noun'}, **keys})


def _multi(root, **keys):
  return _config(root, **{
      'data__train_list': 'train.txt', 'data__eval_list': 'val.txt',
      'data__labels': 'multi', **keys})


@pytest.fixture(scope='module')
def of_heads(root, tmp_path_factory):
  """A finished run with two heads, and its result."""
  directory = tmp_path_factory.mktemp('heads')
  return directory, main.run(_heads(root), str(directory))


@pytest.fixture(scope='module')
def of_multi(root, tmp_path_factory):
  """A finished run with independent classes, and its result."""
  directory = tmp_path_factory.mktemp('multi')
  return directory, main.run(_multi(root), str(directory))


def _softmax(x):
  x = np.exp(np.float64(x) - x.max())
  return x / x.sum()


@pytest.mark.slow
def test_two_heads_through_the_whole_chain(root, of_heads, capsys, tmp_path):
  directory, result = of_heads
  assert result.classes == {'noun': NOUNS, 'verb': VERBS}
  assert result.scores.shape == (4, 5) and result.labels.tolist() == [
      [2, 0], [0, 1], [1, 1], [2, 1]]
  lines = [json.loads(line) for line in
           (directory / 'metrics.jsonl').read_text().splitlines()]
  assert any('train/action' in line for line in lines)
  assert any('eval/top5_noun' in line for line in lines)
  # The best checkpoint is best in the joint figure.
  found = {line['step']: line['eval/action'] for line in lines
           if 'eval/action' in line}
  best = checkpoint.Checkpoints(directory).best_step()
  assert found[best] == max(found.values())

  again = main.run(_heads(root, eval__checkpoint='latest', eval__crops=3,
                          eval__crop_size=(36, 36)), str(directory), 'evaluate')
  assert again.clip_scores.shape == (4, 1, 5)
  assert 'all heads' in capsys.readouterr().out
  card = json.loads((directory / 'eval/step4_2x1x3.json').read_text())
  assert card['data']['eval']['classes'] == {'noun': 3, 'verb': 2}
  assert {'action', 'top1_noun', 'top1_verb'} <= card['result'].keys()
  assert (directory / 'eval/step4_2x1x3.png').stat().st_size > 10_000

  path = str(root / result.names[0])
  args = [path, f'--checkpoint={directory}', '--which=latest']
  assert cli.main(['predict', *args, '--json']) == 0
  [told] = json.loads(capsys.readouterr().out)
  for head, start, names in (('noun', 0, NOUNS), ('verb', 3, VERBS)):
    scores = {c['class']: c['score'] for c in told['heads'][head]}
    np.testing.assert_allclose(
        [scores[name] for name in names],
        _softmax(result.scores[0, start:start + len(names)]), rtol=1e-4)
  assert cli.main(['predict', *args]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == [path, '  noun'] and lines[5] == '  verb'
  assert len(lines) == 8
  cli.main(['predict', *args, '--window=2', '--stride=2'])
  rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
  assert len(rows) == 2 and rows[0]['verb_class'] in VERBS
  assert 0 < float(rows[0]['noun_score']) <= 1

  npz = str(directory / 'eval/step4_2x1x3.npz')
  fused = str(tmp_path / 'f.npz')
  cli.main(['fuse', npz, npz, '--probabilities', '--out', fused])
  text = capsys.readouterr().out
  assert text.split('\n')[0].split()[:4] == ['model', 'all', 'noun', 'top-1']
  back = evaluate.load_result(fused)
  np.testing.assert_allclose(back.scores[0, 3:], _softmax(again.scores[0, 3:]),
                             rtol=1e-5)
  assert back.classes == again.classes
  cli.main(['compare', npz, fused, '--out', str(tmp_path / 'gains.png')])
  assert 'noun: hand' in capsys.readouterr().out
  out = tmp_path / 'seen'
  cli.main(['explain', *args, f'--out={out}', '--class=take'])
  text = capsys.readouterr().out
  assert 'explained is verb take' in text and 'Grad-CAM of take' in text
  with pytest.raises(SystemExit, match="no head of .* 'nouns'; did you mean"):
    cli.main(['explain', *args, f'--out={out}', '--head=nouns'])


@pytest.mark.slow
def test_heads_resume_and_start_from_other_heads(root, of_heads, tmp_path,
                                                 capfd):
  directory, result = of_heads
  # A run that lost its end goes on to the same bits.
  shutil.copytree(directory, tmp_path / 'half')
  shutil.rmtree(tmp_path / 'half/checkpoints/4')
  rest = main.run(_heads(root), str(tmp_path / 'half'))
  assert 'at step 2.' in capfd.readouterr().err
  np.testing.assert_array_equal(rest.scores, result.scores)
  # Other verbs: that head is fresh, the other comes over.
  text = (root / 'all.csv').read_text()
  (root / 'other.csv').write_text(text.replace('00.mp4,cup,open',
                                               '00.mp4,cup,close'))
  capfd.readouterr()
  main.run(_heads(root, data__train_list='other.csv', num_epochs=1.0,
                  init_from=str(directory)), str(tmp_path / 'other'))
  told = capfd.readouterr().err
  assert 'head_verb/kernel (3 classes here, 2 there)' in told
  assert 'head_noun/kernel (' not in told
  with pytest.raises(ValueError, match="knows {'noun': 3, 'verb': 2} classes "
                     "and the data {'noun': 3, 'verb': 3}"):
    main.run(_heads(root, data__train_list='other.csv'), str(directory),
             'evaluate')


@pytest.mark.slow
def test_any_number_of_labels_through_the_whole_chain(
    root, of_multi, capsys, tmp_path):
  directory, result = of_multi
  assert result.classes == ('door', 'hand', 'take') and result.multi
  # Clips 8 to 11: hand; cup, take; door, take; hand, take.
  assert result.labels.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]]
  lines = [json.loads(line) for line in
           (directory / 'metrics.jsonl').read_text().splitlines()]
  assert any('train/exact' in line for line in lines)
  found = {line['step']: line['eval/map'] for line in lines
           if 'eval/map' in line}
  best = checkpoint.Checkpoints(directory).best_step()
  assert found[best] == max(found.values())
  main.run(_multi(root, eval__checkpoint='latest',
                  eval__average='probabilities', eval__clips=2),
           str(directory), 'evaluate')
  assert 'mAP' in capsys.readouterr().out
  card = json.loads((directory / 'eval/step4_2x2x1.json').read_text())
  assert card['data']['eval']['videos_of_class'] == {
      'door': 1, 'hand': 2, 'take': 3}
  assert card['result']['classes'] == 3
  path = str(root / result.names[0])
  args = [path, f'--checkpoint={directory}', '--which=latest']
  assert cli.main(['predict', *args, '--json']) == 0
  [told] = json.loads(capsys.readouterr().out)
  assert told['independent']
  scores = {c['class']: c['score'] for c in told['classes']}
  np.testing.assert_allclose(
      [scores[name] for name in result.classes],
      1 / (1 + np.exp(-np.float64(result.scores[0]))), rtol=1e-4)
  cli.main(['predict', *args])
  assert capsys.readouterr().out.splitlines()[1] == (
      '  independent probabilities')
  npz = str(directory / 'eval/step4_2x2x1.npz')
  cli.main(['fuse', npz, npz])
  assert 'mAP' in capsys.readouterr().out.splitlines()[0]
  cli.main(['compare', npz, npz, '--out', str(tmp_path / 'gains.png')])
  assert 'hand' in capsys.readouterr().out
  cli.main(['explain', *args, f'--out={tmp_path / "seen"}', '--class=take'])
  assert 'Grad-CAM of take' in capsys.readouterr().out
  with pytest.raises(ValueError, match="trained with data.labels='multi'"):
    main.run(_config(root, data__train_list='one.csv', data__eval_list='v.csv',
                     data__classes=_write_one_class_each(root)),
             str(directory), 'evaluate')


def _write_one_class_each(root):
  (root / 'v.csv').write_text('path,label\n00.mp4,door\n')
  (root / 'three.txt').write_text('door\nhand\ntake\n')
  return 'three.txt'


@pytest.mark.slow
def test_empty_labels_alone_can_be_trained_on(root, tmp_path):
  (root / 'empty.txt').write_text(''.join(f'{i:02d}.mp4\n' for i in range(4)))
  (root / 'names.txt').write_text('door\nhand\ntake\n')
  result = main.run(_multi(
      root, data__train_list='empty.txt', data__eval_list='empty.txt',
      data__classes='names.txt', num_epochs=1.0), str(tmp_path / 'run'))
  assert not result.labels.any() and np.isfinite(result.scores).all()
  assert result.summary()['without_positives'] == 3
