"""Where one operation has several forms: which of them a platform gets."""

import jax
from jax import lax

from vidattn_jax.ops import per_device

# Platforms that are compiled for where there are none of them.
_absent = set()


def compile_for(name: str):
  """Says that programs will be compiled for a platform that is not here.

  To be called before anything is traced. Without it, forms for TPUs alone are
  not traced where there is no TPU, which takes time; programs are the same
  without them, but slower there.

  Args:
    name: such as 'tpu'.
  """
  _absent.add(name)


def may_be_tpu() -> bool:
  """Tells whether what is traced may be compiled for a TPU."""
  return 'tpu' in _absent or jax.default_backend() == 'tpu'


def by_platform(on_cpu, plain, *args, on_accelerator=None, on_tpu=None):
  """Calls the form that suits the platform that the program is compiled for.

  That may be another one than the program runs on while it is traced. Where the
  mesh cuts clips, every platform gets the plain form.

  Args:
    on_cpu: the form for the CPU, a function of `args`.
    plain: the form for any other platform; it returns the same.
    *args: arrays.
    on_accelerator: the form for GPUs and TPUs; None if theirs is the plain
      one.
    on_tpu: the form for TPUs, if it is another one than that.

  Returns:
    What the chosen form returns.
  """
  if per_device.cut_clips():
    # XLA cuts the operation as well, and the plain form is what it knows.
    return plain(*args)
  forms = {} if on_cpu is plain else {'cpu': on_cpu}
  if on_accelerator is not None:
    forms |= dict.fromkeys(('cuda', 'rocm', 'tpu'), on_accelerator)
  if on_tpu is not None and may_be_tpu():
    forms['tpu'] = on_tpu
  if not forms:
    return plain(*args)
  return lax.platform_dependent(*args, **forms, default=plain)
