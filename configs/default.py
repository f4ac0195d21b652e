"""Every field of a config, with the values of the original: N-pair on Cars196 from ImageNet weights.

The other files in this folder change what they need and nothing else. Any field can be changed on the command
line too: `--config.batch_size=64`, `--config.data.dir=/my/cars`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.seed = 0  # of initial weights, batches and augmentation; a run is a function of it
    config.batch_size = 128  # images; half as many pairs, each of another class
    config.num_steps = 10_000  # updates; the original's README stops here, before the schedule ends
    config.checkpoint_every = 100  # updates; the last update is always saved
    config.keep_checkpoints = 0  # so many of the newest, and the best; 0 keeps all, as the original
    config.log_every = 20  # updates between lines of train/metrics.jsonl
    config.eval_batch_size = 128  # images a device embeds at a time during evaluation
    config.recall_ks = (1, 2, 4, 8)
    config.clustering = True  # measure NMI and F1 too: k-means, slow from thousands of classes on

    config.data = ml_collections.ConfigDict()
    config.data.name = "cars196"  # cars196, cub200_2011, sop, inshop, folder or glyphs
    config.data.dir = "data/cars196"  # the data set's files, unpacked or in their archives; glyphs needs none
    config.data.mirrors = ()  # addresses to download it from, in place of those in symm_jax/data/sources.py
    config.data.cache_dir = "data/cache"  # records and decoded arrays, made once, keyed by their source
    # Where the decoded training images are during training: "always" on every device, "never", or "auto", where they
    # take less than half of the free memory of a GPU.
    config.data.on_device = "auto"
    config.data.crop = True  # crop to the annotated box, where there is one
    config.data.split_seed = 0  # of folder: which half of the classes is for testing
    config.data.validation_classes = 0  # number of classes held out of training; 0 is the paper's protocol
    config.data.validation_seed = -1  # which ones: -1 for the last ones, else drawn with this seed
    config.data.image_size = 227  # side in pixels of what the network sees

    config.augment = ml_collections.ConfigDict()
    config.augment.enlarge = 1.125  # squash to this x image_size before the random window is cut
    config.augment.min_margin = 0.01  # cropped from every edge, as a share of the shorter side
    config.augment.max_margin = 0.05
    config.augment.mirror = True  # left to right, with probability 1/2

    config.model = ml_collections.ConfigDict()
    config.model.name = "googlenet"  # googlenet, efficientnet_lite0, resnet50 or convnet
    config.model.dim = 512  # of the embedding
    # "package" stands for the weights in an installed package, which efficientnet_lite0 has.
    config.model.pretrained = "data/tf_ckpt_from_caffe.mat"  # ImageNet weights; empty trains from scratch
    config.model.mirrors = ()  # addresses to download the weights from, likewise
    config.model.dtype = "float32"  # of the computation
    config.model.param_dtype = "float32"  # of the parameters
    # The backbone's own options, e.g. lrn="reference" (11 channels, the original's) or "caffe" (5 channels).
    config.model.options = ml_collections.ConfigDict({"lrn": "reference"})

    # Summed. name: npair, angular, triplet or lifted_structure; optionally weight (1), synthesis ("symmetric",
    # "interpolated", or {"name": ..., its options}) and the loss's own options, see docs/losses.md.
    config.losses = ({"name": "npair"},)

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.decay_rate = 0.5  # factor, every decay_every steps, until stop_step
    config.optimizer.decay_every = 5_000
    config.optimizer.stop_step = 15_000  # from here on the rate is final_learning_rate
    config.optimizer.final_learning_rate = 1e-5
    config.optimizer.b1 = 0.9  # Adam, in TensorFlow's form
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_penalty = 5e-3  # x sum of 0.5 |w|^2 over all arrays, inside the loss
    config.optimizer.embedding_gradient_scale = 10.0  # before Adam
    config.optimizer.backbone_rate = 1.0  # learning rate of the backbone over that of the embedding layer; 0 freezes it
    config.optimizer.clip_norm = 0.0  # largest norm of one array's gradient; 0 does not clip
    return config
