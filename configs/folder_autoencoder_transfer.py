"""A folder of pictures without labels first, then with them: ResNet-50, masked.

python -m tljax.main --config=configs/folder_autoencoder_transfer.py --workdir=DIR
    --config.data.source=folder:LABELLED --config.pretrain.data.source=folder:ALL

ALL may hold far more pictures than LABELLED, in one class folder or many. The recipe is
SparK's (arXiv 2301.03580): 60 % of the patches of 32 px are hidden. From weights of
ImageNet, configs/folder_finetune.py goes further with few pictures.
"""

from tljax.config import (
    Autoencoder,
    Config,
    Data,
    HorizontalFlip,
    Loss,
    Model,
    Optim,
    RandomResizedCrop,
)


def get_config() -> Config:
    """Returns the config of the classifier, with that of the autoencoder in it."""
    reconstruction = Config(
        task="autoencoder",
        num_epochs=200,
        eval_every=1000,
        checkpoint_every=1000,
        precision="bfloat16",
        model=Model(name="resnet_autoencoder", encoder="resnet50"),
        data=Data(
            source="folder:pictures",
            image_size=224,
            batch_size=128,
            augment=(RandomResizedCrop(scale=(0.67, 1.0)), HorizontalFlip()),
        ),
        optim=Optim(
            name="adamw",
            learning_rate=0.0005,
            b2=0.95,
            weight_decay=0.05,
            schedule="cosine",
            clip_norm=5.0,
        ),
        autoencoder=Autoencoder(mask_ratio=0.6, patch_size=32),
    )
    return Config(
        num_epochs=50,
        eval_every=100,
        checkpoint_every=100,
        precision="bfloat16",
        pretrain=reconstruction,
        model=Model(name="resnet50"),
        data=Data(
            source="folder:pictures",
            image_size=224,
            batch_size=64,
            augment=(RandomResizedCrop(), HorizontalFlip()),
        ),
        optim=Optim(
            name="adamw", learning_rate=0.0005, weight_decay=0.05, schedule="cosine"
        ),
        loss=Loss(label_smoothing=0.1),
    )
