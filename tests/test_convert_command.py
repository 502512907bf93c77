"""`vidattn convert`: files to checkpoints, checkpoints to files, the check."""

import jax
import numpy as np
import pytest
import seeded

from input_pipeline import transforms
from vidattn_jax import attention
from vidattn_jax import cli
from vidattn_jax import convert
from vidattn_jax.tools import check_conversion
from vidattn_jax.tools import convert as convert_lib
from vidattn_jax.tools import networks
from vidattn_jax.training import checkpoint
from vidattn_jax.training import initialize

_SIZE = ['--crop-size', '64', '--num-frames', '2']


@pytest.fixture(scope='module')
def weights():
  return seeded.state_dict('torchvision_resnet18')


@pytest.fixture(scope='module')
def file(weights, tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'resnet18.safetensors'
  convert.save_file(path, weights)
  return path


@pytest.fixture(scope='module')
def converted(file, tmp_path_factory):
  """A checkpoint of the whole file."""
  out = tmp_path_factory.mktemp('converted') / 'tsn'
  cli.main(['convert', str(file), '--model=tsn_r18', f'--out={out}', *_SIZE])
  return out


def test_checkpoint_describes_itself(converted, weights):
  variables, description, step = checkpoint.load(converted)
  assert step == 0
  assert description['model']['name'] == 'tsn_r18'
  assert description['model']['num_classes'] == 1000
  assert len(description['classes']) == 1000
  np.testing.assert_array_equal(variables['params']['head']['bias'],
                                weights['fc.bias'])
  assert description['pixels']['crop_size'] == [64, 64]
  assert description['pixels']['resampler'].startswith('Pillow ')
  np.testing.assert_allclose(description['pixels']['mean'],
                             (0.485, 0.456, 0.406))


def test_file_comes_back_bit_equal(converted, weights, tmp_path, capsys):
  for name in ('back.safetensors', 'back.pth'):
    if name.endswith('pth'):
      pytest.importorskip('torch')
    cli.main(['convert', str(converted), f'--out={tmp_path / name}'])
    back = convert.load_file(tmp_path / name)
    assert list(back) == list(weights)
    for key, value in weights.items():
      np.testing.assert_array_equal(back[key], value, err_msg=key)
  cli.main(['convert', str(converted), '--layout=mmaction2',
            f'--out={tmp_path / "other.safetensors"}'])
  assert 'backbone.layer1.0.conv1.conv.weight' in convert.load_file(
      tmp_path / 'other.safetensors')
  assert 'in the layout mmaction2' in capsys.readouterr().out


def test_head_is_dropped_for_other_classes(file, tmp_path, capsys):
  (tmp_path / 'classes.txt').write_text('jump\nrun\n')
  cli.main(['convert', str(file), '--model=tsn_r18', '--num-classes=2',
            f'--classes={tmp_path / "classes.txt"}',
            f'--out={tmp_path / "two"}', *_SIZE])
  variables, description, _ = checkpoint.load(tmp_path / 'two')
  assert description['classes'] == ['jump', 'run']
  kernel = variables['params']['head']['kernel']
  assert kernel.shape == (512, 2) and 0 < np.std(kernel) < 0.01
  assert '2 classes here, 1000 there' in capsys.readouterr().out


def test_images_are_inflated_for_a_3d_network(file, weights, tmp_path, capsys):
  cli.main(['convert', str(file), '--model=r3d_18', '--shortcut=B',
            f'--out={tmp_path / "3d"}', '--crop-size=64', '--num-frames=16'])
  kernel = checkpoint.load(tmp_path / '3d')[0]['params']['backbone'][
      'conv1']['kernel']
  np.testing.assert_allclose(
      kernel.sum(0), weights['conv1.weight'].transpose(2, 3, 1, 0), rtol=1e-5)
  assert 'mean over 7 frames' in capsys.readouterr().out


def test_places_that_cannot_be_written_are_named_before_the_work(
    file, converted, tmp_path):
  (tmp_path / 'taken').write_text('')
  with pytest.raises(SystemExit, match='taken is a file; give a directory'):
    cli.main(['convert', str(file), '--model=tsn_r18',
              f'--out={tmp_path / "taken"}'])
  with pytest.raises(SystemExit, match='back.safetensors cannot be written'):
    cli.main(['convert', str(converted),
              f'--out={tmp_path / "taken" / "back.safetensors"}'])
  # A folder that is not there is made.
  cli.main(['convert', str(converted),
            f'--out={tmp_path / "new" / "back.safetensors"}'])
  assert (tmp_path / 'new' / 'back.safetensors').is_file()


def test_crop_above_the_usual_size_is_enlarged(file, tmp_path):
  cli.main(['convert', str(file), '--model=tsn_r18', '--num-frames=1',
            '--crop-size', '320', '288', f'--out={tmp_path / "out"}'])
  assert checkpoint.load(tmp_path / 'out')[1]['pixels']['resize'] == 320


@pytest.mark.parametrize('flags, message', [
    (['--model=tsn_r18', '--attention=C'], 'not in .* take what fits with'),
    (['--model=tsn_r50'], 'tsn_r50|shapes differ|not in'),
    (['--model=tsn_r1'], 'did you mean tsn_r18'),
    ([], 'either --model=NAME or --config=FILE'),
    (['--model=c3d'], 'weights are of a residual network'),
    (['--model=tsn_r18', '--classes=nix.txt'], 'nix.txt'),
    (['--model=tsn_r18', '--classes=setup.cfg'], 'for the 1000 classes')])
def test_what_does_not_fit_is_answered(file, tmp_path, flags, message):
  with pytest.raises(SystemExit, match=f'(?s)ERROR: .*({message})'):
    cli.main(['convert', str(file), f'--out={tmp_path / "out"}', *flags])
  assert not checkpoint.exists(tmp_path / 'out')


def test_no_checkpoint_is_overwritten(file, converted):
  with pytest.raises(SystemExit, match='holds a checkpoint; give another'):
    cli.main(['convert', str(file), '--model=tsn_r18', f'--out={converted}'])


def test_weights_for_bgr_see_the_same_colours(tmp_path, monkeypatch):
  model, arguments = networks.build(
      {'name': 'tsn_bninception'}, num_classes=3, width=1 / 8,
      crop_size=(32, 32), num_frames=1)
  shape = (1, 1, 32, 32, 3)
  variables = seeded.variables(model, shape)
  state = convert.to_torch(model, variables, 'bninception')
  convert.save_file(tmp_path / 'w.safetensors', state)
  arguments.pop('num_classes')
  convert_lib.to_checkpoint(tmp_path / 'w.safetensors', arguments,
                            tmp_path / 'out', transforms.pixel_recipe,
                            report=lambda text: None)
  taken, description, _ = checkpoint.load(tmp_path / 'out')
  x, apply = seeded.clip(shape), jax.jit(model.apply)
  np.testing.assert_allclose(
      apply(taken, x)['logits'], apply(variables, x[..., ::-1])['logits'],
      rtol=2e-4)
  assert description['pixels']['mean'] == [128 / 255, 117 / 255, 104 / 255]
  # A run that starts from the file has the same. (Drawing fresh weights takes
  # long to compile, and none is left.)
  monkeypatch.setattr(initialize.state, 'init_variables', lambda *_: (
      jax.tree.map(np.zeros_like, variables)))
  started, said = initialize.load_weights(
      str(tmp_path / 'w.safetensors'), model, jax.random.key(0))
  assert 'turned to take RGB' in said
  jax.tree.map(np.testing.assert_array_equal, started['params'],
               taken['params'])
  convert_lib.to_file(tmp_path / 'out', tmp_path / 'back.safetensors',
                      report=lambda text: None)
  back = convert.load_file(tmp_path / 'back.safetensors')
  for name, value in state.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)


# --- Beside PyTorch ----------------------------------------------------------


def _check(name, unit=None, **overrides):
  model, arguments = networks.build(
      {'name': name}, num_classes=7, attention=unit, **overrides)
  variables = seeded.variables(model, (1, *model.image_shape))
  return check_conversion.check(arguments, model, variables)


def test_check_finds_equal_what_is_and_different_what_is_not(monkeypatch):
  pytest.importorskip('torch')
  small = {'num_frames': 3, 'crop_size': (40, 40)}
  differences = _check('tsm_r18', 'CinST->STinC', stages=(1,), **small)
  assert list(differences) == ['stage 1', 'stage 2', 'stage 3', 'stage 4',
                               'logits']
  check_conversion.confirm(differences)
  assert '\nstage 1   ' in check_conversion.table(differences)
  from vidattn_jax.ops import temporal_shift
  monkeypatch.setattr(temporal_shift, 'temporal_shift', lambda x: x)
  jax.clear_caches()
  with pytest.raises(ValueError, match='the weights are of another network'):
    check_conversion.confirm(_check('tsm_r18', **small))


def test_check_sees_names_and_axes_and_writes_nothing_if_it_fails(
    file, weights, tmp_path, monkeypatch):
  pytest.importorskip('torch')
  flags = ['convert', str(file), '--model=tsn_r18', '--check', *_SIZE,
           f'--out={tmp_path / "out"}']
  with pytest.raises(SystemExit, match='full width only'):
    cli.main([*flags, '--width=0.5'])
  # Two convolutions of one shape change places on the way in and out.
  from vidattn_jax.convert import layouts
  swap = {'backbone/layer1/block0/conv1': 'backbone/layer1/block0/conv2',
          'backbone/layer1/block0/conv2': 'backbone/layer1/block0/conv1'}
  right = layouts.torch_name

  def wrong(path, layout):
    module, _, leaf = path.rpartition('/')
    return right(f'{swap.get(module, module)}/{leaf}', layout)

  monkeypatch.setattr(layouts, 'torch_name', wrong)
  with pytest.raises(SystemExit, match='weights are of another network'):
    cli.main(flags)
  assert not (tmp_path / 'out').exists()


@pytest.mark.slow
@pytest.mark.parametrize('unit', attention.ATTENTION)
def test_every_unit_equals_its_formula_in_pytorch(unit):
  pytest.importorskip('torch')
  check_conversion.confirm(_check(
      'tsn_r18', unit, num_frames=4, crop_size=(64, 64)))
  check_conversion.confirm(_check(
      'r3d_18', unit, num_frames=8, crop_size=(48, 48)))


@pytest.mark.slow
@pytest.mark.parametrize('name, sizes', [
    ('tsn_r50', (2, 48)), ('r3d_50', (8, 48)), ('resnext3d_101', (8, 48)),
    ('slow_r50', (3, 48)), ('c3d', (16, 112)), ('p3d_199', (16, 64)),
    ('tsn_bninception', (2, 64)), ('tsn_se_bninception', (2, 64)),
    ('tstam', (3, 64)), ('st_abn_r50', (4, 64))])
def test_every_kind_of_network_equals_pytorch(name, sizes):
  pytest.importorskip('torch')
  check_conversion.confirm(_check(
      name, num_frames=sizes[0], crop_size=(sizes[1],) * 2))


def test_check_says_what_it_does_not_know():
  pytest.importorskip('torch')
  for name, overrides, message in (
      ('tsn_r18', {'width': 0.5}, 'full width only'),
      ('tstam', {'backbone': 'tsn_r18'}, 'on its own backbone only'),
      ('c3d', {'unit': 'C', 'crop_size': (32, 32)}, 'residual blocks of'),
      ('tsn_r18', {'unit': 'C', 'crop_size': (40, 40),
                   'attention_options': {'near_identity': True}},
       'near_identity')):
    with pytest.raises(ValueError, match=message):
      _check(name, **overrides)
