"""The training program of a configuration, and the shapes that it takes.

The trainer runs it; `tools/compile.py` compiles it for chips that are not
there. Both take it from here, so that what is compiled is what runs.
"""

import functools

import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.backbones import remat
from vidattn_jax.models import recognizer
from vidattn_jax.ops import per_device
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib


def check(config, mesh, model):
  """Checks what the train step asks of a network.

  Args:
    config: the run's configuration.
    mesh: the mesh.
    model: the network.

  Raises:
    ValueError: a value is wrong; one sentence names it.
  """
  if config.remat:
    names.check_name('value of config.remat', config.remat, remat.KINDS[1:])
  computes_flow = config.distill.teacher or (
      config.data.modality == 'flow' and not config.data.flow_root)
  if mesh.size > mesh.shape['data'] and (
      type(model) is not recognizer.Recognizer or computes_flow):
    raise ValueError(
        'config.mesh.time and config.mesh.height are for networks of one '
        'backbone, on frames or stored flow, without a teacher; '
        f'{config.model.name} on {config.data.modality} takes whole clips '
        'here: leave them 1.')


def initializer(config, mesh, model):
  """Returns what makes the first state, and how that lies on the mesh.

  Args:
    config: the run's configuration.
    mesh: the mesh.
    model: the network.

  Returns:
    (jitted function from the data of a key to the state, tree of shapes, tree
    of shardings).
  """

  @functools.partial(per_device.on_mesh, mesh)
  def create(key):
    variables = state_lib.init_variables(model, jax.random.wrap_key_data(key))
    return state_lib.create_state(variables, config)

  # Shapes first: nothing is stored twice, and every leaf is made where it will
  # lie. Both are asked of one function, so that it is traced once.
  shapes = jax.eval_shape(create, state_lib.key_data(config.seed))
  shardings = sharding.state_sharding(mesh, shapes,
                                      config.mesh.shard_parameters)
  return jax.jit(create, out_shardings=shardings), shapes, shardings


def train_step(config, mesh, model, num_classes, shardings, see=None):
  """Returns the jitted train step; see `state.make_train_step`.

  Args:
    config: the run's configuration.
    mesh: the mesh.
    model: the network.
    num_classes: number of classes, or {head: number}.
    shardings: those of the state, which is donated.
    see: what a teacher sees, see there.
  """
  step = state_lib.make_train_step(model, config, num_classes, see, mesh)
  return jax.jit(
      per_device.on_mesh(mesh, step),
      donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))


def train_step_arguments(config, mesh, model, num_classes, shapes, shardings):
  """Returns the shapes, with their shardings, of a train step's arguments.

  Args:
    config: the run's configuration.
    mesh: the mesh.
    model: the network.
    num_classes: see `train_step`.
    shapes: those of the state.
    shardings: how it lies on the mesh.

  Returns:
    (state, batch, key, learning rate), as `state.make_train_step` has them;
    without edited attention.
  """

  def placed(shape, dtype, where):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  state = jax.tree.map(lambda s, where: placed(s.shape, s.dtype, where),
                       shapes, shardings)
  clips, whole = config.batch_size, sharding.replicated(mesh)
  split = sharding.batch_sharding(mesh)
  frames, *frame, channels = model.image_shape
  if config.data.modality == 'flow' and not config.data.flow_root:
    # The frames from which the step computes the flow.
    frames, channels = frames * (config.data.flow_stack + 1), 3
  label = (clips,)
  if hasattr(num_classes, 'keys'):
    label = (clips, len(num_classes))
  elif config.data.labels == 'multi':
    label = (clips, num_classes)
  batch = {'label': placed(label, jnp.int32, split),
           'mask': placed((clips,), jnp.float32, split)}
  pixels = {'video': (*frame, channels)}
  if config.data.transfer == 'yuv':
    # As `pixels.from_yuv` takes it.
    pixels = {'video': (*frame, 1),
              'chroma': (*(side // 2 for side in frame), 2)}
    batch['color'] = placed((clips, 3, 4), jnp.float32, split)
  for name, shape in pixels.items():
    shape = (clips, frames, *shape)
    batch[name] = placed(shape, jnp.uint8, sharding.clip_sharding(mesh, shape))
  key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
  return (state, batch, placed(key.shape, key.dtype, whole),
          placed((), jnp.float32, whole))
