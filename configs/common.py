"""Every configuration key once, with its default and its meaning.

A shipped configuration is another file of `configs/`: it calls `get_config()`
from here and changes what differs. The result is locked: a key that does not
stand here cannot be set, neither in a file nor on the command line. Lengths
are in epochs and clips, never in steps, so that another batch size or data
set needs no other change.
"""

import ml_collections
from ml_collections import config_dict


def get_config():
  """Returns the defaults, locked."""
  config = ml_collections.ConfigDict()

  # Seed of the initial weights, of dropout, and of the order and augmentation
  # of the training clips.
  config.seed = 0
  # Where training starts: '' (random weights), a `.pth`, `.pt` or
  # `.safetensors` file in a published layout, or a checkpoint directory. A
  # head with another number of classes is left fresh, and said so. A detector
  # may start from a network of its backbone.
  config.init_from = ''

  # --- The network -----------------------------------------------------------
  config.model = model = ml_collections.ConfigDict()
  # A name that `vidattn_jax.models.get_model` knows: tsn_r50, tsm_r18, ...
  model.name = 'tsn_r50'
  # Number of classes; 0 takes it from the data set.
  model.num_classes = config_dict.FieldReference(0, field_type=object)
  # Frames per clip.
  model.num_frames = 8
  # Height and width of the clip that the network sees in training, pixels.
  model.crop_size = (224, 224)
  # Attention unit in the paper's spelling ('C', 'CinST->STinC', ...) or ''.
  model.attention = ''
  # Options of that unit, by name.
  model.attention_options = ml_collections.ConfigDict()
  # Stages (from 1) whose blocks get the unit; () for those of its paper.
  # Where in a block, and in which blocks: `model.options.position`,
  # `model.options.blocks`.
  model.stages = ()
  # Multiplier of every layer's width; below 1 for tests and small machines.
  model.width = 1.0
  # Type of activations: 'float32' or 'bfloat16'. Weights, statistics, logits
  # and losses are float32 always.
  model.dtype = 'float32'
  # Share of the features that dropout zeroes before the classifier.
  model.dropout = 0.5
  # Further options of the model's constructor, by name.
  model.options = ml_collections.ConfigDict()

  # --- The data --------------------------------------------------------------
  config.data = data = ml_collections.ConfigDict()
  # The data set's name in reports.
  data.name = ''
  # Directory that holds the videos. With no lists below: either
  # `train/<class>/<video>` and `val/<class>/<video>` (`test` and `validation`
  # are other names of `val`), or `<class>/<video>`, from which `eval_fraction`
  # of each class is held out.
  data.root = ''
  # Lists of the training and evaluation videos: a text file with lines
  # `path label` or `path num_frames label`, or a CSV file with a header.
  # Paths are relative to `root`. '' takes the folders of `root`.
  data.train_list = ''
  data.eval_list = ''
  # CSV files: columns of path, label, frame count ('' if none) and split ('' if
  # none), and the values of the split column for training and evaluation,
  # separated by commas. Several heads take `csv_labels` in place of
  # `csv_label`: {head: column}, such as {'verb': 'verb', 'noun': 'noun'}.
  data.csv_path = 'path'
  data.csv_label = 'label'
  data.csv_labels = ml_collections.ConfigDict()
  data.csv_frames = ''
  data.csv_split = ''
  data.csv_train = 'train'
  data.csv_eval = 'val'
  # CSV files that list segments of longer videos: columns of the first frame
  # of a segment and of the first after it ('' if none), and their unit:
  # 'frames' (from 0) or 'seconds'.
  data.csv_start = ''
  data.csv_stop = ''
  data.csv_unit = 'frames'
  # File with one class name a line, in the order of the labels; '' takes the
  # sorted folder names or label names. Several heads take {head: file}.
  data.classes = ''
  data.head_classes = ml_collections.ConfigDict()
  # 'single': a video has one class (of each head). 'multi': any number of them,
  # none, too; in lists they are parted by `label_separator`.
  data.labels = 'single'
  data.label_separator = ';'
  # A training video without a label: 'fail' (the run refuses to start) or
  # 'skip' (it is left out, counted and named). (With 'multi' it is one that
  # has none of the classes.)
  data.missing_labels = 'fail'
  # Share of each class held out for evaluation when `root` has no split.
  data.eval_fraction = 0.2
  # File names of frame folders, by frame number; the first frame's number.
  data.frame_template = '{:05d}.jpg'
  data.first_frame = 1
  # How the length and health of each video file become known before training:
  # 'decode' decodes every file once (true lengths, damage found), 'header'
  # opens it and counts packets (fast, trusts the container).
  data.index = 'decode'
  # File that keeps what was found, so that the next run asks only new or
  # changed files; '' keeps it in the workdir.
  data.index_file = ''
  # What a video that cannot be read means: 'skip' leaves it out, counts and
  # names it, unless more than `max_bad_fraction` of all are so: then the run
  # refuses to start or to go on. 'fail' allows none. No other video ever takes
  # its place.
  data.bad_videos = 'skip'
  data.max_bad_fraction = 0.05
  # Apply the rotation that a video file asks for.
  data.rotate = True
  # Which frames are numbered: 'ordinal' (each that decodes, in turn) or 'time'
  # (those seen at a constant rate; differs for variable rates only), and that
  # rate in frames per second; 0 takes the average rate of each video.
  data.frames_by = 'ordinal'
  data.frame_rate = 0.0
  # Seconds that decoding a clip may take (before training, each frame), and
  # height times width that a frame may have, before a video counts as bad.
  data.decode_seconds = 60.0
  data.max_pixels = 36_000_000
  # Keep every video's decoded and resized frames in memory (small sets only):
  # True or False. With worker processes each keeps its own.
  data.cache_frames = False
  # Frames of a training clip: 'segment' (one random frame of each of
  # num_frames equal pieces) or 'dense' (random start, stride
  # `dense_span // num_frames`).
  data.sampling = 'segment'
  data.dense_span = 64
  # Videos shorter than a clip needs (num_frames of them, or with 'dense' the
  # stride times num_frames - 1, and 1): 'published' (segments: the first frame
  # alone in training, spread over the clip in evaluation; dense: looped),
  # 'loop' (again from the start), 'hold' (the last frame stays) or 'fail' (the
  # run refuses to start, and names them).
  data.short_clips = 'published'
  # Size to which a frame is brought before it is cropped: short side in
  # pixels, or (height, width).
  data.resize = config_dict.FieldReference(256, field_type=object)
  # What resizes frames: 'swscale', or 'pillow', as the published codes, in
  # three to four times the time. They differ by one level, at edges by more.
  data.resampler = 'swscale'
  # Training crop: 'multiscale' (one of `crop_scales` for each side, at one of
  # 13 fixed places, resized to the crop size), 'corner' (one of `crop_scales`
  # for both sides, at a corner or the centre, resized to the crop size),
  # 'random' (a place, no scaling) or 'center'.
  data.crop = 'multiscale'
  data.crop_scales = (1.0, 0.875, 0.75, 0.66)
  # Probability of a horizontal flip in training, and pairs of class names that
  # a flip turns into each other.
  data.flip = 0.5
  data.flip_pairs = ()
  # Brightness, contrast and saturation of each training clip are multiplied by
  # numbers from 1 less this to 1 plus this; 0 for none.
  data.color_jitter = 0.0
  # As what training clips go to the device: 'rgb', or 'yuv', as most videos
  # hold them: brightness at full size, colour at half of it, and RGB made on
  # the device. That takes half the bytes, and a little less time of those that
  # decode; pixels differ a little. Evaluation sees RGB either way.
  data.transfer = 'rgb'
  # What the network sees: 'rgb', or 'flow' (optical flow).
  data.modality = 'rgb'
  # Directory of the flow that `vidattn flow` has stored, by the videos' names.
  # '' computes it on the device from the cropped frames, in every step, and
  # drops videos of fewer frames than `data.flow_stack` + 1; of stored flow two
  # frames are enough.
  data.flow_root = ''
  # Displacement in pixels that becomes 255; stored flow must have the same.
  data.flow_bound = 20.0
  # Size to which frames were brought before their flow was stored, as `vidattn
  # flow --size` has it: short side in pixels, or (height, width); 0 for the
  # videos' own. Stored flow must have the same.
  data.flow_size = config_dict.FieldReference(0, field_type=object)
  # Consecutive fields of flow at each of `model.num_frames` places, x and y
  # of each as channels: usually 5 for 2D networks, 1 for 3D networks.
  data.flow_stack = 5
  # Edits of temporal attention, as `vidattn edit` keeps them
  # (WORKDIR/attention/edits.jsonl): training draws the attention towards them.
  # '' for none. Whether videos that nobody edited are left out.
  data.edits = ''
  data.edited_only = False
  # Mean and standard deviation of the channels on [0, 1], RGB; one number is
  # that of all channels. Flow takes (128 / 255,) and, as two-stream networks
  # do not divide, (1 / 255,).
  data.mean = (0.485, 0.456, 0.406)
  data.std = (0.229, 0.224, 0.225)
  # Worker processes that decode; 0 uses threads of the main process.
  data.workers = 0
  # Threads that decode in each process, and batches that wait for the trainer.
  data.threads = 2
  data.prefetch = 4

  # --- Untrimmed videos, for networks that find segments (scnn, rc3d) --------
  config.detection = detection = ml_collections.ConfigDict()
  # True segments: a JSON file in the layout of ActivityNet, a CSV table
  # (docs/data.md), or a folder of THUMOS'14; itself or below `data.root`, where
  # the videos lie in any folder, by their names; '' for networks that classify
  # clips. Subsets to train and to evaluate on.
  detection.annotations = ''
  detection.train_subset = 'training'
  detection.eval_subset = 'validation'
  # Files of the same kinds that annotate further videos to train on, such as a
  # CSV table of trimmed ones; their classes are some of the above.
  detection.more_annotations = ()
  # S-CNN: lengths of the windows, in frames at `data.frame_rate`, and the share
  # that neighbours of one length have in common. `model.num_frames` are taken
  # evenly from each.
  detection.windows = (16, 32, 64, 128, 256, 512)
  detection.window_overlap = 0.75
  # Windows that overlap an action by more than this are trained as its class,
  # those that overlap none by as much as `background_below` as background. For
  # each of the first so many of the second are drawn, `near_background` of them
  # from those that touch an action.
  detection.action_above = 0.5
  detection.background_below = 0.3
  detection.background = 1.0
  detection.near_background = 0.5
  # Factor of the overlap loss; with 0 the localisation network is trained as
  # the paper's classification network. Factor of background in the loss of that
  # network, which has one class for it beside those of actions.
  detection.overlap_weight = 1.0
  detection.background_weight = 1.0
  # The score of a window is that of its class; or, if this is set, times the
  # proposal network's probability of an action.
  detection.weigh_action = False
  # R-C3D: frames from one buffer of `model.num_frames` to the next. In training
  # segments count of which so many frames, and so much, is inside of a buffer,
  # and buffers without such a segment are left out, but for as many, drawn anew
  # in each pass, as `empty_buffers` times the others. True segments that a
  # buffer may have; sets are padded to as many.
  detection.buffer_step = 192
  detection.least_frames = 3
  detection.least_inside = 0.7
  detection.empty_buffers = 0.0
  detection.max_segments = 20
  # Training windows of actions, and buffers, move at random by up to this share
  # of the step to the next one.
  detection.shift = 0.0

  # --- Training --------------------------------------------------------------
  # Clips per step over all devices.
  config.batch_size = 32
  config.num_epochs = 50.0
  # Parts of a batch whose gradients are computed one after the other and
  # averaged; BatchNorm sees each part alone.
  config.accumulate_steps = 1
  # What the backward pass computes again instead of keeping it, so that more
  # clips fit the memory: '' (nothing), 'units' (attention units, from their
  # input), 'convolutions' (all in a block of the backbone but its convolutions,
  # whose results are kept) or 'blocks' (whole blocks, from their input).
  config.remat = ''

  config.optimizer = optimizer = ml_collections.ConfigDict()
  # SGD with torch's rules: weight decay enters the gradient before momentum.
  optimizer.momentum = 0.9
  optimizer.dampening = 0.0
  optimizer.nesterov = False
  # Decay of convolution and linear weights. Biases and BatchNorm have none.
  optimizer.weight_decay = 1e-4
  # Learning-rate multipliers of biases, of the classifier's weights, of the
  # attention units, and of the widths of sparse attention's Gaussians (in
  # `three_branch`).
  optimizer.bias_lr = 2.0
  optimizer.head_lr = 1.0
  optimizer.attention_lr = 1.0
  optimizer.width_lr = 1.0
  # Further multipliers: pairs of a prefix of parameters' names and a number,
  # such as (('backbone/conv1', 5.0),).
  optimizer.lr_multipliers = ()
  # Largest norm of the whole gradient; 0 for no limit.
  optimizer.clip_norm = 20.0

  config.schedule = schedule = ml_collections.ConfigDict()
  # Learning rate at `base_batch_size` clips a step, or at any batch size if
  # that is 0 (otherwise it scales linearly).
  schedule.learning_rate = 0.01
  schedule.base_batch_size = 0
  # 'step' (times `factor` at each of `milestones`), 'cosine' (to
  # `final_learning_rate`), or 'plateau' (times `factor` after `patience`
  # evaluations whose loss has not fallen).
  schedule.name = 'step'
  schedule.milestones = (20.0, 40.0)
  schedule.factor = 0.1
  schedule.final_learning_rate = 0.0
  schedule.patience = 10
  # Epochs of linear warm-up from zero (so the very first step moves nothing).
  schedule.warmup_epochs = 0.0

  # Probability mass that label smoothing spreads over all classes.
  config.label_smoothing = 0.0
  # Beta distribution of mixup and cutmix over whole clips; 0 for none. With
  # both, a fair coin chooses at each step.
  config.mixup_alpha = 0.0
  config.cutmix_alpha = 0.0
  # Factor of the loss that draws temporal attention towards `data.edits`.
  config.temporal_weight = 10.0
  # A 3D network that sees frames learns from one that sees flow: workdir, or
  # checkpoint's folder, of the second; '' for none. Factor of the squared error
  # of their pooled features. 'mars': it and the cross-entropy train all;
  # 'mers': it trains all but the classifier, the cross-entropy that alone.
  config.distill = distill = ml_collections.ConfigDict()
  distill.teacher = ''
  distill.weight = 50.0
  distill.how = 'mars'
  # Decay of the moving average of the weights that is evaluated; 0 for none.
  config.ema_decay = 0.0
  # Parameters that stay as they are: prefixes of their names, such as
  # ('backbone/conv1', 'backbone/layer1'); their BatchNorm uses its running
  # statistics. '-attention' beside them leaves out, and trains, the attention
  # units that lie in what is frozen.
  config.freeze = ()
  # Over what BatchNorm takes its statistics in training: 'global' (the clips of
  # all devices) or 'replica' (those of each device alone, as most published
  # PyTorch codes; running statistics are the mean over devices).
  config.batch_norm = 'global'
  # True: every BatchNorm of the backbone but the first uses, and keeps, its
  # running statistics; attention units' BatchNorm goes on learning.
  config.partial_bn = False

  # --- Evaluation ------------------------------------------------------------
  config.eval = evaluation = ml_collections.ConfigDict()
  # Epochs between evaluations in training (one always follows the last step).
  evaluation.every_epochs = 1.0
  # Videos per step over all devices, and views per pass through the network
  # and device; the scores do not depend on either.
  evaluation.batch_size = 8
  evaluation.views_per_pass = 8
  # Frames per clip; 0 takes `model.num_frames`. (25 single frames of a TSN are
  # one clip of 25.)
  evaluation.num_frames = 0
  # Clips per video and how they lie: 'segment' (1: centres of the pieces; 2:
  # centres, then starts; more: evenly spaced between two starts) or 'dense'
  # (stride `data.dense_span // num_frames`, evenly spaced starts). Or all clips
  # of consecutive frames that do not overlap, `clips` of them read at a time:
  # 'consecutive' (the last one repeated until it is long enough, as in the test
  # of 3D-ResNets) or 'consecutive_whole' (what remains is dropped, as in that
  # of MARS).
  evaluation.sampling = 'segment'
  evaluation.clips = 1
  # Size to which a frame is brought in evaluation, as `data.resize`; 0 takes
  # that.
  evaluation.resize = config_dict.FieldReference(0, field_type=object)
  # Crops per frame: 1 (centre), 3 (left, right, centre), 5 (corners and
  # centre) or 10 (those and their flips).
  evaluation.crops = 1
  # Height and width of the crops; (0, 0) takes `model.crop_size`.
  evaluation.crop_size = (0, 0)
  # What is averaged over the views of a video: 'logits' or 'probabilities'.
  evaluation.average = 'logits'
  # ST-ABN looks where it would not: 1 minus its spatial attention.
  evaluation.invert_spatial = False
  # `--mode=evaluate` also writes what the attention of ST-ABN is, in every
  # video of training and evaluation, for `vidattn edit`.
  evaluation.collect_attention = False
  # Networks that find segments: the rule and the overlaps that detections are
  # judged by (see `vidattn evaluate-detections`), which of the overlaps has the
  # main figure, the margin of the suppression before (-1 for none), how many
  # test videos of THUMOS'14 count (213, 212 or 210; 0 for all there are), and
  # whether what touches ambiguous segments is judged as the rest is.
  evaluation.rule = 'thumos14'
  evaluation.thresholds = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
  evaluation.main_threshold = 0.5
  evaluation.nms_margin = 0.1
  evaluation.thumos14_videos = 0
  evaluation.count_ambiguous = False
  # S-CNN: windows whose probability of an action is lower are no proposals;
  # whether scores are multiplied by how often actions of a class are about as
  # long as the window in the training set.
  evaluation.least_action = 0.7
  evaluation.length_prior = True
  # Which checkpoint `--mode=evaluate` restores: 'best', 'latest' or a step.
  evaluation.checkpoint = 'best'

  # --- Checkpoints, logs, devices --------------------------------------------
  config.checkpoint = checkpoint = ml_collections.ConfigDict()
  # Epochs between checkpoints; the last step is always kept. More often
  # than evaluations is fine.
  checkpoint.every_epochs = 1.0
  # Newest checkpoints kept beside the best one.
  checkpoint.keep = 2
  # Steps between lines of the training log.
  config.log_every_steps = 10
  # Devices: number along the axis `data`, over which clips are spread; -1 takes
  # all.
  config.mesh = mesh = ml_collections.ConfigDict()
  mesh.data = -1
  # Devices that share each clip: pieces into which its frames, or its rows, are
  # cut, for clips of which one alone is too much for a device; one of both. The
  # last stages, whose maps are small, are computed by each of these devices.
  mesh.time = 1
  mesh.height = 1
  # Shard parameters and optimiser state over `data` as well.
  mesh.shard_parameters = False
  # Directory of compiled programs, so that the next start is quick; '' for
  # none. Seed, learning rate, schedule and number of videos are not compiled
  # in: runs that differ in these alone share their programs.
  config.compile_cache = '~/.cache/vidattn_jax/xla'

  return config.lock()
