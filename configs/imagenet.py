"""ImageNet as in the paper's section 4.3: ResNet-101 v2, 120,000 steps of 1,024 images, on a TPU slice.

    redundancy run --config imagenet --workdir gs://bucket/imagenet --config.data_dir=gs://bucket/tfds
    redundancy preflight --config imagenet --topology v5e:4x4

The data set is TFDS's imagenet2012, which must be prepared from the archives of image-net.org.
Assumed, since our copy of the paper's text lost its numbers: steps, batch_size, learning rate, momentum, l2,
augmentation, fractions, trials. Depth, the 5,000 steps of warm-up and "16 Cloud TPUs" are the paper's. Learning rate (0.1
for every 256 images) and the 32 images per BatchNorm statistic follow Goyal et al. 2017. The paper used no label smoothing, and
does not mention bfloat16, in which TPUs of its time computed convolutions.

Not run yet, so there is no expected accuracy. `docs/performance.md` has the results of compiling it for TPU slices.

`:resnet50` is the same with ResNet-50 for 90 epochs (112,603 steps), Goyal et al.'s recipe with cosine decay.
`:fake` is one training of 300 steps on generated images that take no time to read. It shows whether input is the bottleneck:
compare its images_per_second (metrics.jsonl, TensorBoard) with that of a real run. Only `redundancy train` is needed.
`:smoke` runs all stages on a laptop's CPU in a few minutes, on generated images of 64 x 64 pixels; its numbers mean
nothing.
"""

from redundancy.config import check_variant, defaults


def get_config(arg: str = ""):
    check_variant(arg, ("resnet50", "fake", "smoke"))
    config = defaults()
    config.dataset = "imagenet2012"
    config.test_split = "validation"
    config.image_size, config.eval_crop = 224, 0.875
    config.mean, config.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.augmentation = "resized_crop_flip"
    config.form, config.depth, config.widths = "imagenet", 101, (64, 128, 256, 512)
    config.dtype = "bfloat16"
    config.bn_group_size = 32
    config.classifier_init = "normal_0.01"
    config.steps, config.warmup_steps, config.batch_size = 120_000, 5000, 1024
    config.lr_per_256, config.momentum, config.nesterov, config.l2 = 0.1, 0.9, True, 1e-4
    config.eval_batch_size = 1024
    config.embedding_parts = 64
    config.fractions, config.trials = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5), 5
    config.checkpoint_every = 2500
    if arg == "resnet50":
        config.depth, config.epochs, config.warmup_epochs = 50, 90.0, 5.0
    if arg == "fake":
        config.dataset, config.test_split = "generated", "auto"
        config.steps, config.warmup_steps, config.log_every = 300, 30, 50
        config.fractions, config.trials = (0.9,), 1
    if arg == "smoke":
        config.dataset, config.test_split = "generated:4:96:16", "auto"
        config.image_size, config.depth, config.widths = 64, 18, (8, 8, 16, 16)
        config.steps, config.warmup_steps, config.batch_size, config.bn_group_size = 4, 1, 16, 16
        config.eval_batch_size, config.embedding_parts = 16, 2
        config.fractions, config.trials = (0.9,), 1
        config.log_every, config.checkpoint_every = 2, 4
    return config
