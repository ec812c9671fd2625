"""CIFAR-10 by a masked autoencoder first, then with labels on a tenth of it.

python -m tljax.main --config=configs/cifar10_resnet_autoencoder.py --workdir=DIR

The recipe of SparK (arXiv 2301.03580) at 32 px: 60 % of the patches of 4 px are hidden,
and the loss is on them alone. `--config.data.train_fraction=1.0` takes all labels. Not
run by its authors: no result is stated here.
"""

from tljax.config import (
    Autoencoder,
    Config,
    Data,
    HorizontalFlip,
    Loss,
    Model,
    Optim,
    RandomCrop,
    RandomResizedCrop,
)


def get_config() -> Config:
    """Returns the config of the classifier, with that of the autoencoder in it."""
    reconstruction = Config(
        task="autoencoder",
        num_epochs=400,
        log_every=200,
        eval_every=2000,
        checkpoint_every=2000,
        precision="bfloat16",
        model=Model(name="resnet_autoencoder", encoder="resnet18", stem="small"),
        data=Data(
            source="tfds:cifar10",
            batch_size=512,
            augment=(RandomResizedCrop(scale=(0.67, 1.0)), HorizontalFlip()),
        ),
        optim=Optim(
            name="adamw",
            learning_rate=0.001,
            b2=0.95,
            weight_decay=0.05,
            schedule="cosine",
            warmup_steps=1000,
            clip_norm=5.0,
        ),
        autoencoder=Autoencoder(mask_ratio=0.6, patch_size=4),
    )
    return Config(
        num_epochs=100,
        log_every=50,
        eval_every=500,
        checkpoint_every=500,
        precision="bfloat16",
        pretrain=reconstruction,
        baseline=True,
        model=Model(name="resnet18", stem="small"),
        data=Data(
            source="tfds:cifar10",
            train_fraction=0.1,
            batch_size=256,
            augment=(RandomCrop(), HorizontalFlip()),
        ),
        optim=Optim(
            name="adamw",
            learning_rate=0.001,
            weight_decay=0.05,
            schedule="cosine",
            warmup_steps=100,
        ),
        loss=Loss(label_smoothing=0.1),
    )
