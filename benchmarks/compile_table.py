"""Compiles train steps for TPUs that are not there, and writes the table.

python -m benchmarks.compile_table --rows tsm_r50 'tsm_r50 CinST->STinC'

A row is compiled anew only if its lowered program or the compiler is another
than that of the figures kept in docs/scaling.json. Rows that are not named
are taken from there. The table stands in docs/scaling.md, between two marks.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib

import jax

from configs import common
from vidattn_jax.tools import chips
from vidattn_jax.tools import compile as compile_lib
from vidattn_jax.tools import hlo

_DOCS = pathlib.Path(__file__).parents[1] / 'docs'
_MARKS = ('<!-- compiled rows -->\n', '<!-- end of compiled rows -->\n')


@dataclasses.dataclass(frozen=True)
class Row:
  """One program.

  Attributes:
    model: name of the network.
    attention: its units, or ''.
    frames: frames of a clip.
    crop: its height and width.
    topology: the chips.
    clips: clips per chip.
    fsdp: whether parameters are sharded.
  """
  model: str
  attention: str = ''
  frames: int = 8
  crop: int = 224
  topology: str = 'v5e:4x4'
  clips: int = 16
  fsdp: bool = False

  def config(self):
    """Returns the configuration, in bfloat16."""
    config = common.get_config()
    config.model.update(name=self.model, attention=self.attention,
                        num_frames=self.frames, dtype='bfloat16',
                        crop_size=(self.crop, self.crop))
    config.mesh.shard_parameters = self.fsdp
    return config


def _rows():
  """Returns {name: row}; a plain network stands before those with units."""
  rows = {'tsm_r50': Row('tsm_r50')}
  for unit in ('CinST->STinC', 'STA', 'SE3D', 'CBAM3D377'):
    rows[f'tsm_r50 {unit}'] = Row('tsm_r50', unit)
  rows |= {
      'tsm_r101': Row('tsm_r101'),
      'r3d_50': Row('r3d_50', frames=16, crop=112),
      'resnext3d_101': Row('resnext3d_101', frames=64, crop=112, clips=8),
      'resnext3d_101 STA': Row('resnext3d_101', 'STA', frames=64, crop=112,
                               clips=8),
      'c3d': Row('c3d', frames=16, crop=112),
      'p3d_199': Row('p3d_199', frames=16, crop=160),
      'slow_r50': Row('slow_r50'),
      'tsn_se_bninception': Row('tsn_se_bninception'),
      'tstam': Row('tstam'),
      'st_abn_r50': Row('st_abn_r50', frames=32, clips=4),
      'tcnn': Row('tcnn', frames=16, crop=112)}
  for shape in ('2x2', '8x8', '16x16'):
    rows[f'tsm_r50 on {shape}'] = Row('tsm_r50', topology=f'v5e:{shape}')
  rows['tsm_r50 sharded'] = Row('tsm_r50', fsdp=True)
  return rows


def _compile(row, kept):
  """Returns the figures of a row, those that are kept if they are its own."""
  topology = compile_lib.get_topology(row.topology)
  lowered = compile_lib.lower(row.config(), topology, row.clips)
  key = hashlib.sha256('\n'.join((
      lowered.as_text(), row.topology,
      importlib.metadata.version('libtpu'))).encode()).hexdigest()
  if kept and kept['key'] == key:
    return kept
  found = compile_lib.cost(lowered, topology, row.clips)
  figures = dataclasses.asdict(found) if found else None
  return {'key': key, 'row': dataclasses.asdict(row), 'cost': figures,
          'bounds': found and found.bounds(topology.chip)}


def _line(name, entry, plain):
  row, cost = entry['row'], entry['cost']
  head = (f'| `{row["model"]}` {row["attention"] or "plain"}'
          f'{", sharded parameters" if row["fsdp"] else ""} | '
          f'{row["topology"]} | {row["clips"]} x {row["frames"]}x{row["crop"]}x'
          f'{row["crop"]} |')
  if cost is None:
    return f'{head} does not fit | | | | | | | |'

  def ratio(key):
    if plain is None or plain is entry or plain['cost'] is None:
      return ''
    return f' ({cost[key] / plain["cost"][key]:.2f}x)'

  sent = sum(hlo.Collective(**c).sent for c in cost['collectives'])
  bounds = entry['bounds']
  worst = max(bounds, key=bounds.get)
  chip = chips.CHIPS[row['topology'].partition(':')[0]]
  return (f'{head} {cost["flops"] / 1e9:,.0f}{ratio("flops")} | '
          f'{cost["moved"] / 1e9:.1f}{ratio("moved")} | '
          f'{cost["bytes"] / 1e9:.1f}{ratio("bytes")} | '
          f'{cost["temporary"] / 1e9:.2f}{ratio("temporary")} | '
          f'{cost["peak"] / 1e9:.1f} of {chip.memory / 1e9:.1f} | '
          f'{sent / 1e6:.0f} | {1e3 * bounds[worst]:.0f} ms, {worst} | '
          f'{cost["seconds"]:.0f} s{ratio("seconds")} |')


def write(kept):
  """Writes what is kept, and the table.

  Args:
    kept: {name of the row: figures}.
  """
  (_DOCS / 'scaling.json').write_text(
      json.dumps(kept, indent=1, sort_keys=True) + '\n')
  lines = ['| network | chips | clips per chip | GFLOP | GB of memory | '
           'GB accessed | GB temporary | GB peak | MB sent | step at least, '
           'bound | compiled in |',
           '|---|---|---|---:|---:|---:|---:|---:|---:|---|---:|']
  for name in _rows():
    if name in kept:
      row = kept[name]['row']
      plain = kept.get(row['model'])
      same = plain and all(
          plain['row'][k] == row[k] for k in ('frames', 'crop', 'clips'))
      lines.append(_line(name, kept[name], plain if same else None))
  page = _DOCS / 'scaling.md'
  before, rest = page.read_text().split(_MARKS[0])
  after = rest.split(_MARKS[1])[1]
  page.write_text(before + _MARKS[0] + '\n'.join(lines) + '\n' + _MARKS[1]
                  + after)


def main(argv=None):
  """Compiles the rows that are asked for, and writes the table."""
  rows = _rows()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rows', nargs='*', choices=rows, default=list(rows),
                      metavar='ROW', help=', '.join(rows))
  options = parser.parse_args(argv)
  compile_lib.prepare('v5e')
  # In which line of which checkout a kernel stands is no part of a program.
  jax.config.update('jax_traceback_in_locations_limit', 0)
  path = _DOCS / 'scaling.json'
  kept = json.loads(path.read_text()) if path.exists() else {}
  for name in options.rows:
    kept[name] = _compile(rows[name], kept.get(name))
    write(kept)
    print(_line(name, kept[name], kept.get(rows[name].model)), flush=True)


if __name__ == '__main__':
  main()
