"""What accelerators can do, as their makers publish it."""

import dataclasses

from vidattn_jax import names


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator.

  Attributes:
    flops: dense bfloat16 operations per second, a multiply-add being two.
    memory: bytes of its memory.
    bandwidth: bytes per second between it and its memory.
    links: bytes per second that it sends to other chips, all links together.
  """
  flops: float
  memory: float
  bandwidth: float
  links: float


_GIB = 2 ** 30
# Makers' data sheets; of GPUs the SXM versions. Of links, half of what makers
# call bidirectional.
CHIPS = {
    'v4': Chip(275e12, 32 * _GIB, 1.2e12, 300e9),
    'v5e': Chip(197e12, 16 * _GIB, 0.82e12, 200e9),
    'v5p': Chip(459e12, 95 * _GIB, 2.77e12, 600e9),
    'v6e': Chip(918e12, 32 * _GIB, 1.64e12, 400e9),
    'a100': Chip(312e12, 80 * 10 ** 9, 2.04e12, 300e9),
    'h100': Chip(989e12, 80 * 10 ** 9, 3.35e12, 450e9),
    'h200': Chip(989e12, 141 * 10 ** 9, 4.8e12, 450e9),
}


def get_chip(name: str) -> Chip:
  """Returns an accelerator by its name.

  Args:
    name: key of `CHIPS`.

  Raises:
    ValueError: unknown name.
  """
  names.check_name('chip', name, CHIPS)
  return CHIPS[name]


def clips_per_second(chip: Chip, macs: int, utilization: float) -> float:
  """Estimates how many clips a chip trains on in a second.

  A backward pass takes twice the operations of a forward pass.

  Args:
    chip: the accelerator.
    macs: multiply-adds of a forward pass on one clip.
    utilization: share of `chip.flops` that training reaches.
  """
  return chip.flops * utilization / (6 * macs)
