"""What an attention unit costs in a train step: time and compilation.

python -m benchmarks.attention_cost --model=tsm_r50 --crop=112 --batch=2

Both networks run in one process, turn by turn; the ratio is of medians, and the
spread is of the ratios of single turns.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from vidattn_jax.models import get_model


def main(argv=None):
  """Runs the benchmark and prints one line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', default='tsm_r50')
  parser.add_argument('--attention', default='CinST->STinC')
  parser.add_argument('--width', type=float, default=1.0)
  parser.add_argument('--crop', type=int, default=112)
  parser.add_argument('--frames', type=int, default=8)
  parser.add_argument('--batch', type=int, default=2)
  parser.add_argument('--turns', type=int, default=7)
  arguments = parser.parse_args(argv)

  steps, compile_seconds = [], []
  for attention in (None, arguments.attention):
    step, seconds = _compiled(arguments, attention)
    steps.append(step)
    compile_seconds.append(seconds)
  times = np.asarray([[_timed(step) for step in steps]
                      for _ in range(arguments.turns)])
  plain, unit = np.median(times, axis=0)
  ratios = times[:, 1] / times[:, 0]
  print(f'{arguments.model} width {arguments.width:g}, '
        f'{arguments.frames}x{arguments.crop}x{arguments.crop}, batch '
        f'{arguments.batch}, {jax.devices()[0].platform}: plain '
        f'{1e3 * plain:.0f} ms, {arguments.attention} {1e3 * unit:.0f} ms, '
        f'{unit / plain:.2f}x ({ratios.min():.2f} to {ratios.max():.2f}); '
        f'compile {compile_seconds[0]:.0f} s and {compile_seconds[1]:.0f} s')


def _compiled(arguments, attention):
  """Returns a train step without arguments, and its compile time in s."""
  model = get_model(arguments.model, num_classes=174, width=arguments.width,
                    num_frames=arguments.frames, crop_size=arguments.crop,
                    attention=attention)
  shape = (arguments.batch, *model.image_shape)
  rng = np.random.default_rng(0)
  video = jnp.asarray(rng.standard_normal(shape), jnp.float32)
  label = jnp.arange(arguments.batch)
  shapes = jax.eval_shape(model.init, jax.random.key(0), video)
  variables = jax.tree.map(
      lambda s: jnp.asarray(0.05 * rng.standard_normal(s.shape), s.dtype),
      shapes)
  variables['batch_stats'] = jax.tree.map(jnp.ones_like,
                                          variables['batch_stats'])

  def step(variables, video, label):
    def loss(params):
      outputs, updated = model.apply(
          {**variables, 'params': params}, video, train=True,
          mutable=['batch_stats'], rngs={'dropout': jax.random.key(1)})
      log_p = jax.nn.log_softmax(outputs['logits'])
      return -jnp.take_along_axis(log_p, label[:, None], 1).mean(), updated

    (_, updated), grads = jax.value_and_grad(loss, has_aux=True)(
        variables['params'])
    params = jax.tree.map(lambda p, g: p - 1e-9 * g, variables['params'], grads)
    return {'params': params, **updated}

  start = time.perf_counter()
  compiled = jax.jit(step).lower(variables, video, label).compile()
  seconds = time.perf_counter() - start
  jax.block_until_ready(compiled(variables, video, label))
  return lambda: compiled(variables, video, label), seconds


def _timed(step):
  start = time.perf_counter()
  jax.block_until_ready(step())
  return time.perf_counter() - start


if __name__ == '__main__':
  main()
