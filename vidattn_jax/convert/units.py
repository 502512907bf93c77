"""What published checkpoints call the parameters of attention units."""

import re

# Rewrites of a path with dots for slashes, see `layouts`.
RULES = (
    # Attention in Attention.
    (r'\.attention\.(eft\d)\.(\w)\.', r'.\1.\2_'),
    (r'\.attention\.(\w)\.(conv|bn)\.', r'.eft.\1_\2.'),
    # No weights of the others were ever published; these names are ours.
    (r'\.attention\.depthwise(\d)\.', r'.gate.conv\1.'),
    (r'\.attention\.(?:channel\.|spatial\.)?(fc\d?|bn\d?|conv)\.',
     r'.gate.\1.'),
    (r'\.attention\.(conv\d|deconv|scb|tcb)\.', r'.sta.\1.'),
    (r'\.attention\.alpha$', '.gate.alpha'),
)
# Axes of a published kernel in the order of ours, for a gate that pools T, H,
# W or C away: its axes are published with channels before space.
_GATE_AXES = {'C': (2, 3, 4, 1, 0), 'T': (3, 4, 2, 1, 0),
              'H': (2, 4, 3, 1, 0), 'W': (2, 3, 4, 1, 0)}


def axes(path: str) -> tuple[int, ...] | None:
  """Returns the axes of a unit's published weight in the order of ours.

  Args:
    path: path of the leaf.

  Returns:
    The axes; None if they are ordered as in any other layer.
  """
  gate = re.search(r'/attention/(?:.*/)?([CTHW])/conv/kernel$', path)
  return _GATE_AXES[gate[1]] if gate else None
