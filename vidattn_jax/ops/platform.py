"""Where one operation has several forms: which of them a platform gets."""

from jax import lax


def by_platform(on_cpu, plain, *args, on_accelerator=None):
  """Calls the form that suits the platform that the program is compiled for.

  That may be another one than the program runs on while it is traced.

  Args:
    on_cpu: the form for the CPU, a function of `args`.
    plain: the form for any other platform; it returns the same.
    *args: arrays.
    on_accelerator: the form for GPUs and TPUs; None if theirs is the plain
      one.

  Returns:
    What the chosen form returns.
  """
  forms = {'cpu': on_cpu}
  if on_accelerator is not None:
    forms |= dict.fromkeys(('cuda', 'rocm', 'tpu'), on_accelerator)
  return lax.platform_dependent(*args, **forms, default=plain)
