"""Where one operation has several forms: which of them a platform gets."""

from jax import lax


def by_platform(on_cpu, plain, *args, on_gpu=None):
  """Calls the form that suits the platform that the program is compiled for.

  That may be another one than the program runs on while it is traced.

  Args:
    on_cpu: the form for the CPU, a function of `args`.
    plain: the form for any other platform; it returns the same.
    *args: arrays.
    on_gpu: the form for GPUs; None if theirs is the plain one.

  Returns:
    What the chosen form returns.
  """
  gpu = {} if on_gpu is None else {'cuda': on_gpu, 'rocm': on_gpu}
  return lax.platform_dependent(*args, cpu=on_cpu, default=plain, **gpu)
