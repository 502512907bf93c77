"""ZIP archives of unchanged files in a fixed order: the frames of a video.

Anything opens such an archive; here the members are views into it, so that
frame i costs no more than its own bytes.
"""

import io
import struct
import zipfile

_END = struct.Struct('<4s4H2LH')
_ENTRY = struct.Struct('<4s6H3L5H2L')
_LOCAL = struct.Struct('<4s5H3L2H')


def pack(files):
  """Returns an archive; equal files give equal bytes.

  Args:
    files: (name, bytes) of each member, in order.
  """
  blob = io.BytesIO()
  with zipfile.ZipFile(blob, 'w', zipfile.ZIP_STORED) as archive:
    for name, content in files:
      archive.writestr(zipfile.ZipInfo(name), content)
  return blob.getvalue()


def is_archive(medium):
  """Tells whether `io.BytesIO` holds an archive; False for anything else."""
  return isinstance(medium, io.BytesIO) and (
      bytes(medium.getbuffer()[:4]) == b'PK\3\4')


def members(blob):
  """Returns where the members of an archive lie.

  Args:
    blob: bytes or memoryview, as `pack` made them.

  Returns:
    list of (start, stop), in the order of the archive.

  Raises:
    ValueError: it is no such archive, or damaged.
  """
  view = memoryview(blob)
  try:
    mark, *_, count, _, start, _ = _END.unpack_from(
        view, len(view) - _END.size)
    if mark != b'PK\5\6':
      raise ValueError('no ZIP archive, or cut off')
    if count == 0xffff or start == 0xffffffff:  # 64-bit numbers stand elsewhere
      return _members_of_large(view)
    found, place = [], start
    for _ in range(count):
      mark, *_, length, name, extra, comment, _, _, _, offset = (
          _ENTRY.unpack_from(view, place))
      if mark != b'PK\1\2' or offset + _LOCAL.size > len(view):
        raise ValueError('its list of files is damaged')
      found.append(_span(view, offset, length))
      place += _ENTRY.size + name + extra + comment
    return found
  except struct.error:
    raise ValueError('no ZIP archive, or cut off') from None


def _span(view, offset, length):
  """Returns (start, stop) of the member whose header is at an offset."""
  mark, *_, name, extra = _LOCAL.unpack_from(view, offset)
  start = offset + _LOCAL.size + name + extra
  if mark != b'PK\3\4' or start + length > len(view):
    raise ValueError('a file of it is damaged')
  return start, start + length


def _members_of_large(view):
  try:
    with zipfile.ZipFile(io.BytesIO(view)) as archive:
      return [_span(view, info.header_offset, info.file_size)
              for info in archive.infolist()]
  except zipfile.BadZipFile as error:
    raise ValueError(str(error)) from None
