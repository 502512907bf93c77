"""Every notebook runs, is short, and is stored without outputs."""

import pathlib
import re

import nbformat
import numpy as np
import pytest

_COLABS = pathlib.Path(__file__).parents[1] / 'colabs'
_NOTEBOOKS = sorted(_COLABS.glob('*.ipynb'))


@pytest.mark.parametrize('path', _NOTEBOOKS, ids=lambda p: p.stem)
def test_is_short_and_stripped(path):
  notebook = nbformat.read(path, as_version=4)
  assert len(notebook.cells) <= 10
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert all(not c.outputs and c.execution_count is None for c in code)
  assert 'pip install' in code[0].source


@pytest.mark.slow
@pytest.mark.parametrize('path', _NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path, monkeypatch):
  client = pytest.importorskip('nbclient')
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  notebook = nbformat.read(path, as_version=4)
  notebook.cells += [nbformat.v4.new_code_cell(more)
                     for more in _MORE.get(path.stem, ())]
  client.NotebookClient(notebook, timeout=600, resources={
      'metadata': {'path': str(_COLABS)}}).execute()
  outputs = [output for cell in notebook.cells
             for output in cell.get('outputs', [])]
  _CHECKS[path.stem](''.join(o.get('text', '') for o in outputs),
                     sum('image/png' in o.get('data', {}) for o in outputs))


def _check_quickstart(printed, pictures):
  first, last = (float(x) for x in
                 printed.split('loss ')[1].split('\n')[0].split(' -> '))
  assert last < 0.8 * first
  assert pictures == 2


def _check_attention_zoo(printed, pictures):
  plain, unit = (int(x.replace(',', '')) for x in re.findall(
      r'^tsm_r18 .*?([\d,]{9,}) ', printed, re.M))
  # A pair in each of eight blocks.
  assert 11e6 < plain < 11.3e6 and unit - plain == 8 * 448
  means = [float(x) for x in re.findall(r'stage \d: mean ([\d.]+)', printed)]
  assert len(means) == 2 and means[0] != means[1]
  assert all(0 < mean < 1 for mean in means)
  assert pictures == 2


def _check_two_stream(printed, pictures):
  # A ring that moves to the right by some four pixels a frame, three times.
  x, y = (float(v) for v in re.findall(r'([+-][\d.]+)', printed)[:2])
  assert 9 < x < 15 and abs(y) < 1
  tops = {name: float(top) for name, top in re.findall(
      r'^(rgb|flow|fused 1:3|1:0|0:1) +([\d.]+)%', printed, re.M)}
  assert tops['flow'] > tops['rgb'] and tops['fused 1:3'] > tops['rgb']
  assert (tops['1:0'], tops['0:1']) == (tops['rgb'], tops['flow'])
  assert pictures == 1


def _check_gaussian_resampling(printed, pictures):
  shares = {beta: float(share) for beta, share in re.findall(
      r'(as it is|beta [\d.]+).*?([\d.]+)%', printed)}
  before = shares['as it is']
  assert before < shares['beta 1'] < shares['beta 8'] < shares['beta 4']
  assert shares['beta 4'] > 2.5 * before
  assert abs(shares['beta 40'] - before) < 0.1 * before
  slid = re.search(r'slid from ([\d.]+) to ([\d.]+)', printed).groups()
  assert [100 * float(x) for x in slid] == [
      pytest.approx(shares[beta], abs=0.01) for beta in ('beta 4', 'beta 8')]
  assert pictures == 1


def _check_edit_attention(printed, pictures):
  first, last = (float(x) for x in re.search(
      r'loss ([\d.]+) -> ([\d.]+)', printed).groups())
  assert last < 0.8 * first
  shares = [float(x) for x in re.findall(
      r'weight [\d.]+: slide_right ([\d.]+)', printed)]
  assert len(shares) == 3 and np.ptp(shares) > 5e-3
  assert pictures == 1


def _check_detection(printed, pictures):
  first, last = (float(x) for x in re.search(
      r'loss ([\d.]+) -> ([\d.]+)', printed).groups())
  assert last < 0.6 * first
  found, actions = map(int, re.search(r'(\d+) of (\d+) actions are overlapped',
                                      printed).groups())
  assert 2 * found >= actions > 0
  assert pictures == 0  # the timeline is a drawing


# What a reader does behind a notebook's end.
_MORE = {'gaussian_resampling': (
    'first = slider.result\nslider.children[0].value = 8.0\n'
    "print(f'slid from {first:.5f} to {slider.result:.5f}')",)}
# What each notebook must have printed, and how many pictures it drew.
_CHECKS = {'quickstart': _check_quickstart,
           'detection': _check_detection,
           'attention_zoo': _check_attention_zoo,
           'edit_attention': _check_edit_attention,
           'gaussian_resampling': _check_gaussian_resampling,
           'two_stream': _check_two_stream}
