"""Makes what XviD wrote and nobody writes any more: packed B-frames in AVI.

UCF101 and HMDB51 are full of them. A packet holds a P-frame and the B-frame
before it; each run of B-frames ends with an empty placeholder. Presentation
times come out of order then.
"""

import av

_PICTURE = b'\0\0\1\xb6'
# The name of an encoder, whose `p` tells decoders that packets are packed.
_ENCODER = b'\0\0\1\xb2DivX503b1393p'


def pack(source, target):
  """Copies an MPEG-4 video, its B-frames packed; frames stay the same.

  Args:
    source: path of an AVI file with B-frames that are not packed.
    target: path of the new one.
  """
  with av.open(str(source)) as given, av.open(str(target), 'w') as output:
    stream = given.streams.video[0]
    packed = output.add_stream_from_template(stream)
    coded = [bytes(p) for p in given.demux(stream) if p.size]
    place = coded[0].index(_PICTURE)
    coded[0] = coded[0][:place] + _ENCODER + coded[0][place:]
    ticks = (stream.time_base.denominator - 1).bit_length()
    units, hold = [], b''
    for content, following in zip(coded, [*coded[1:], None], strict=True):
      if _kind(content) != 'B':
        units.append(content)
        hold = _placeholder(content, ticks)
      elif _kind(units[-1]) != 'B' and _PICTURE not in units[-1][
          units[-1].index(_PICTURE) + 4:]:
        units[-1] += content
      else:
        units.append(content)
      if _kind(content) == 'B' and (
          following is None or _kind(following) != 'B'):
        units.append(hold)
    for number, content in enumerate(units):
      packet = av.Packet(content)
      packet.stream, packet.time_base = packed, stream.time_base
      packet.pts = packet.dts = number
      packet.is_keyframe = _kind(content) == 'I'
      output.mux(packet)


def _placeholder(content, ticks):
  """Returns a picture that is not coded, at the time of another."""
  place = content.index(_PICTURE) + 4
  bits = ''.join(f'{byte:08b}' for byte in content[place:place + 8])
  time = bits.index('0', 2) + 2  # whole seconds, as ones; a marker
  bits = f'0101{bits[time:time + ticks]}10'
  bits += '0' + '1' * ((-len(bits) - 1) % 8)
  return _PICTURE + int(bits, 2).to_bytes(len(bits) // 8, 'big')


def _kind(content):
  """Returns 'I', 'P', 'B' or 'S' of the first picture in a packet."""
  return 'IPBS'[content[content.index(_PICTURE) + 4] >> 6]
