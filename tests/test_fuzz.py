"""Thousands of damaged files: none crashes, hangs, leaks or goes unnamed."""

import collections
import os
import pathlib
import signal

import fuzzing
import pytest

from input_pipeline import decode


def _clips():
  place = os.environ.get('VIDATTN_SHARED')
  root = pathlib.Path(place) if place else (
      pathlib.Path(__file__).resolve().parents[2] / 'shared')
  clips = root / 'data' / 'clips'
  return clips if clips.is_dir() else None


@pytest.mark.slow
def test_five_thousand_damaged_files():
  rows = fuzzing.run(5000, seed=0, clips=_clips())
  assert [row['number'] for row in rows] == list(range(5000))
  counts = collections.Counter(row['result'] for row in rows)
  wrong = [row for row in rows
           if row['result'] in ('crash', 'hang', 'unnamed')]
  assert not wrong, wrong[:5]
  assert max(row['seconds'] for row in rows) < fuzzing.SECONDS
  # Damage that no decoder notices, such as one bit of VP8, may leave a file
  # whose frames depend on where decoding began.
  assert counts['differs'] <= 10, counts
  # It is a test of damage: most files are bad, and some survive.
  assert counts['bad'] > 2500 and counts['good'] > 500, counts
  memory = [row['memory'] for row in rows if 'memory' in row]
  assert memory[-1] - memory[0] < 16e6, memory


def test_the_same_damage_for_a_seed(tmp_path):
  files = [('.mp4', bytes(range(256)) * 9), ('.avi', b'RIFF' * 400)]
  made = [fuzzing.mutant(files, 3, number) for number in range(200)]
  assert made == [fuzzing.mutant(files, 3, number) for number in range(200)]
  assert made != [fuzzing.mutant(files, 4, number) for number in range(200)]
  folders = [tmp_path / name for name in 'ab']
  for folder in folders:
    folder.mkdir()
  first, again = map(fuzzing.corpus, folders)
  assert len(first) >= 20
  assert [suffix for (suffix, content), (_, other) in zip(
      first, again, strict=True) if content != other] == []
  ways = {way for *_, done in made for way in done.split('+')}
  assert len(ways) == len(fuzzing._WAYS)


def test_what_goes_wrong_is_seen(tmp_path, monkeypatch):
  """A crash, a hang and an error without a name are findings; it goes on."""
  monkeypatch.setattr(fuzzing, 'SECONDS', 2.0)
  script = tmp_path / 'child.py'
  script.write_text(
      'import json, os, sys, time\n'
      'start = int(sys.argv[1])\n'
      'for n in range(start, 4):\n'
      '  print(json.dumps({"start": n}), flush=True)\n'
      f'  if n == 1: os.kill(os.getpid(), {int(signal.SIGSEGV)})\n'
      '  if n == 2: time.sleep(60)\n'
      '  print(json.dumps({"number": n, "result": "good"}), flush=True)\n')
  rows = []
  while len(rows) < 4:
    rows += fuzzing._watch(
        [fuzzing.sys.executable, str(script), str(len(rows))], len(rows))
  assert [row['result'] for row in rows] == ['good', 'crash', 'hang', 'good']
  assert [row['number'] for row in rows] == [0, 1, 2, 3]

  def fail(*_, **__):
    raise decode.VideoError('another.mp4', 'reason')

  monkeypatch.setattr(decode, 'iterate', fail)
  (tmp_path / 'bad.mp4').write_text('no video')
  with pytest.raises(RuntimeError, match='without a name'):
    fuzzing.exercise(str(tmp_path / 'bad.mp4'))
