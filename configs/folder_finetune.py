"""A pretrained ResNet-50 fine-tuned on a folder of pictures: the classic recipe.

python -m tljax.main --config=configs/folder_finetune.py --workdir=/tmp/pictures
    --config.data.source=folder:PATH

PATH holds train/CLASS/* with val/CLASS/* or test/CLASS/*, or CLASS/* alone.
"""

from tljax.config import (
    Config,
    Data,
    HorizontalFlip,
    Model,
    Optim,
    RandomResizedCrop,
)


def get_config() -> Config:
    """Returns the config."""
    return Config(
        num_epochs=10,
        eval_every=100,
        checkpoint_every=100,
        pretrained="torchvision:resnet50",
        model=Model(name="resnet50"),
        data=Data(
            source="folder:pictures",
            image_size=224,
            batch_size=64,
            augment=(RandomResizedCrop(), HorizontalFlip()),
        ),
        optim=Optim(name="momentum", learning_rate=0.001, momentum=0.9),
    )
