"""Every field of a config, with the values of the original: N-pair on Cars196 from ImageNet weights.

The other files in this folder change some fields and nothing else. The command line can change any field:
`--config.batch_size=64`, `--config.data.dir=/my/cars`. symm_jax/run/config_fields.py has the same fields with their
types, and refuses every other field.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.seed = 0  # seed of initial weights, batches and augmentation
    config.batch_size = 128  # images, two per pair
    # Images per device that the network sees at a time. 0: all. Fewer need less memory and a third more time; the
    # update is that of the whole batch.
    config.micro_batch = 0
    config.num_steps = 10_000  # updates; the original's README stops here, before its schedule ends
    config.checkpoint_every = 100  # updates; the last update is always saved
    config.keep_checkpoints = 0  # newest checkpoints to keep, with the best that is known; 0 keeps all
    config.log_every = 20  # updates between lines of train/metrics.jsonl
    config.eval_batch_size = 128  # images per device and batch in evaluation
    config.recall_ks = (1, 2, 4, 8)
    config.clustering = True  # also measure NMI and F1 by k-means, which is slow for thousands of classes

    config.data = ml_collections.ConfigDict()
    config.data.name = "cars196"  # cars196, cub200_2011, sop, inshop, folder or glyphs
    config.data.dir = "data/cars196"  # folder of the data set's files, unpacked or in archives; glyphs needs none
    config.data.mirrors = ()  # URLs to download it from, instead of those in symm_jax/data/sources.py
    config.data.cache_dir = "data/cache"  # folder for records and decoded arrays, which are made once
    # Whether the decoded training images are in device memory: "always", "never", or "auto", if they take less than
    # half of the free memory of a GPU.
    config.data.on_device = "auto"
    config.data.crop = True  # crop to the annotated bounding box, if there is one
    config.data.split_seed = 0  # for folder: which half of the classes is for testing
    # Whether one picture may be in several classes, or in training and in test. False stops with a list of them.
    config.data.accept_duplicates = False
    config.data.validation_classes = 0  # number of classes held out of training; 0 is the paper's protocol
    config.data.validation_seed = -1  # which ones: -1 for the last ones, else drawn with this seed
    # Images of each class in a batch, an even number or 1. 2: each pair is of another class. Classes with fewer images
    # are left out.
    # 1: batches of shuffled epochs, for proxy losses and batch losses; an epoch's last incomplete batch is left out.
    config.data.images_per_class = 2
    config.data.image_size = 227  # side in pixels of what the network sees

    config.augment = ml_collections.ConfigDict()
    config.augment.enlarge = 1.125  # resize to this x image_size before the random crop
    config.augment.min_margin = 0.01  # cropped from every edge, as a fraction of the shorter side
    config.augment.max_margin = 0.05
    config.augment.mirror = True  # horizontal flip with probability 1/2

    config.model = ml_collections.ConfigDict()
    config.model.name = "googlenet"  # googlenet, efficientnet_lite0, resnet50 or convnet
    config.model.dim = 512  # embedding dimension
    # A file, or "package" for the weights in an installed package, which efficientnet_lite0 has.
    config.model.pretrained = "data/tf_ckpt_from_caffe.mat"  # ImageNet weights; empty trains from scratch
    config.model.mirrors = ()  # URLs to download the weights from
    config.model.dtype = "float32"  # dtype of the computation
    config.model.param_dtype = "float32"  # dtype of the parameters
    # The backbone's own options, e.g. lrn="reference" (11 channels, the original's) or "caffe" (5 channels).
    config.model.options = ml_collections.ConfigDict({"lrn": "reference"})

    # Summed. name: npair, angular, triplet, lifted_structure, contrastive, multi_similarity, supcon, ntxent, circle,
    # margin, smooth_ap, recall_at_k, or a proxy loss of docs/proxy_losses.md; optionally weight (1), synthesis and the
    # loss's own options, see docs/losses.md. synthesis is "symmetric" or "interpolated", for a batch loss also "simix"
    # or "metrix", for a proxy loss "proxy_synthesis" or "memvir", or {"name": ..., its options}. memvir has the options
    # steps, gap and warm_up: first steps that are not kept. Batch losses take queue (images of past steps that are
    # kept) and warm_up.
    config.losses = ({"name": "npair"},)

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.decay_rate = 0.5  # factor, every decay_every steps, until stop_step
    config.optimizer.decay_every = 5_000
    config.optimizer.stop_step = 15_000  # from here on the learning rate is final_learning_rate
    config.optimizer.final_learning_rate = 1e-5
    config.optimizer.b1 = 0.9  # Adam, in TensorFlow's form
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_penalty = 5e-3  # x sum of 0.5 |w|^2 over all arrays, inside the loss
    config.optimizer.embedding_gradient_scale = 10.0  # before Adam
    config.optimizer.backbone_rate = 1.0  # factor on the backbone's learning rate; 0 freezes it
    config.optimizer.proxy_rate = 100.0  # factor on the learning rate of the proxies, for losses that have them
    config.optimizer.clip_norm = 0.0  # largest norm of one array's gradient; 0 does not clip
    return config
