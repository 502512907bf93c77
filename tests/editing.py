"""What tests of the attention editor share."""

import os


class FullDisk:
  """The module `os` on a machine whose disk is full."""

  def __getattr__(self, name):
    return getattr(os, name)

  def write(self, *unused):
    raise OSError(28, 'No space left on device')
