"""Where one operation has several forms: which of them a platform gets."""

import jax
from jax import lax

from vidattn_jax.ops import per_device

# Platforms that are compiled for where there are none of them.
_absent = set()


def compile_for(name: str):
  """Says that programs will be compiled for a platform that is not here.

  To be called before anything is traced. Without it, where JAX's default
  platform is the CPU only its forms are traced, and forms for TPUs alone only
  where TPUs are the default: choosing later takes time to trace and to compile.
  Programs compute the same without it, but are slower there.

  Args:
    name: such as 'tpu'.
  """
  _absent.add(name)


def may_be_tpu() -> bool:
  """Tells whether what is traced may be compiled for a TPU."""
  return 'tpu' in _absent or jax.default_backend() == 'tpu'


def _is_cpu():
  """Tells whether what is traced will be for CPUs."""
  return not _absent and jax.default_backend() == 'cpu'


def for_cpu_alone() -> bool:
  """Tells whether what is traced is for CPUs that have whole clips.

  For forms that shall leave no trace in what is compiled for other platforms;
  the rest asks `by_platform`.
  """
  return _is_cpu() and not per_device.cut_clips()


def by_platform(on_cpu, plain, *args, on_accelerator=None, on_tpu=None):
  """Calls the form that suits the platform that the program is compiled for.

  That may be another one than the program runs on while it is traced, see
  `compile_for`. Where the mesh cuts clips, every platform gets the plain form.

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
  if for_cpu_alone():
    return on_cpu(*args)
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


def settled(x: jax.Array) -> jax.Array:
  """Has the CPU's compiler keep the shape that an array has.

  It moves reshapes and transposes down a row of operations one by one, through
  all of the program each time. What is fused is not changed by this.

  Args:
    x: what was reshaped, and goes into such a row.

  Returns:
    `x`.
  """
  return lax.optimization_barrier(x) if _is_cpu() else x
