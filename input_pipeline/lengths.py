"""Whether videos are long enough for the clips that are taken of them."""

from absl import logging

from input_pipeline import sampling


def policy_of(recipe):
  """Returns what fills up the clips of a short video, see `sampling.SHORT`.

  Args:
    recipe: what `transforms.pixel_recipe` returned.
  """
  # Recipes of older checkpoints do not tell it.
  return recipe.get('short_clips', 'published')


def frames_needed(recipe):
  """Returns the frames that a video needs if no clip shall repeat any.

  Args:
    recipe: what `transforms.pixel_recipe` returned.
  """
  needed = sampling.places_needed(
      recipe['sampling'], recipe['num_frames'], recipe['dense_span'])
  return needed + recipe['flow']['stack'] if recipe.get('flow') else needed


def fewest_frames(recipe):
  """Returns the frames of the shortest video that a recipe takes."""
  if policy_of(recipe) == 'fail':
    return frames_needed(recipe)
  # Flow leads from one frame to the next.
  return 2 if recipe.get('flow') else 1


def check_lengths(records, config, recipe, split):
  """Counts the videos that are shorter than a clip, and names the first.

  Args:
    records: `sources.Record`s.
    config: the whole configuration.
    recipe: what `transforms.pixel_recipe` returned.
    split: 'train' or 'eval'.

  Returns:
    int, how many there are.

  Raises:
    ValueError: there are some, and `data.short_clips` is 'fail'.
  """
  if split == 'train':
    recipe = {**recipe, 'sampling': config.data.sampling,
              'num_frames': config.model.num_frames}
  needed = frames_needed(recipe)
  short = [r for r in records if r.num_frames < needed]
  if not short:
    return 0
  sentence = (
      f'{len(short)} of {len(records)} videos for {split} are shorter than the '
      f'{needed} frames that a clip needs, such as {short[0].name} with '
      f'{short[0].num_frames}')
  policy = config.data.short_clips
  if policy == 'fail':
    raise ValueError(f"{sentence}; data.short_clips='fail' allows none: choose "
                     "'loop', 'hold' or 'published', or leave them out")
  logging.warning('%s; data.short_clips=%r fills their clips up', sentence,
                  policy)
  return len(short)
