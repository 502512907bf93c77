"""Errors about names that nobody knows."""

import difflib


def check_name(kind: str, name, known):
  """Raises an error with the nearest known names if a name is unknown.

  Args:
    kind: what the name is a name of, such as 'model'.
    name: the name that was given.
    known: the names that exist.

  Raises:
    ValueError: `name` is not in `known`.
  """
  known = list(known)
  if name in known:
    return
  folded = {str(other).lower(): other for other in known}
  near = difflib.get_close_matches(str(name).lower(), folded, cutoff=0.4)
  hint = (f'did you mean {" or ".join(str(folded[n]) for n in near)}?' if near
          else f'there are {", ".join(map(str, known)) or "none"}.')
  raise ValueError(f'There is no {kind} {name!r}; {hint}')
