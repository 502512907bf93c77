"""Every notebook runs, is short, and is stored without outputs."""

import pathlib

import nbformat
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
  monkeypatch.setenv('MPLBACKEND', 'agg')
  notebook = nbformat.read(path, as_version=4)
  client.NotebookClient(notebook, timeout=600, resources={
      'metadata': {'path': str(_COLABS)}}).execute()
  printed = ''.join(
      output.get('text', '') for cell in notebook.cells
      for output in cell.get('outputs', []))
  first, last = (float(x) for x in
                 printed.split('loss ')[1].split('\n')[0].split(' -> '))
  assert last < 0.8 * first
