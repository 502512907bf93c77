"""What the runs of an experiment reached, and what one gains on another."""

import numpy as np

from vidattn_jax.training import evaluate


def newest(workdir):
  """Returns the `evaluate.Result` that a run's last evaluation wrote."""
  return evaluate.load_result(max((workdir / 'eval').glob('*.npz'),
                                  key=lambda path: path.stat().st_mtime))


def table(rows: dict, base: str) -> str:
  """Writes accuracies as a Markdown table, and what is gained on one of them.

  Args:
    rows: {network: top-1 of each seed}.
    base: the network that the others are compared with.
  """
  lines = [f'| network | top-1, by seed | mean | gained on {base} |',
           '|---|---|---|---|']
  for name, values in rows.items():
    gain = 100 * (np.mean(values) - np.mean(rows[base]))
    lines.append(f'| {name} | ' + ', '.join(f'{v:.1%}' for v in values)
                 + f' | {np.mean(values):.1%} | {gain:+.1f} |')
  return '\n'.join(lines) + '\n'
