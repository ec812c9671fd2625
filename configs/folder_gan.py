"""A folder of pictures from a GAN of 64 px, measured by a ResNet-18 fine-tuned on them.

python -m tljax.main --config=configs/folder_gan.py --workdir=DIR
    --config.data.source=folder:PATH --config.judge.data.source=folder:PATH

With hundreds of pictures rather than millions: differentiable augmentation (Zhao et al.
2020, arXiv 2006.10738) and R1 keep the discriminator from learning them by heart.
"""

from tljax.config import (
    Config,
    Data,
    Gan,
    HorizontalFlip,
    Model,
    Optim,
    RandomResizedCrop,
)


def get_config() -> Config:
    """Returns the config of the GAN, with that of the classifier in it."""
    judge = Config(
        num_epochs=10,
        eval_every=100,
        checkpoint_every=100,
        pretrained="torchvision:resnet18",
        model=Model(name="resnet18"),
        data=Data(
            source="folder:pictures",
            image_size=64,
            batch_size=64,
            augment=(RandomResizedCrop(), HorizontalFlip()),
        ),
        optim=Optim(name="momentum", learning_rate=0.005, schedule="cosine"),
    )
    return Config(
        task="gan",
        num_steps=50_000,
        log_every=500,
        eval_every=2500,
        checkpoint_every=2500,
        judge=judge,
        model=Model(name="sngan", width=64),
        data=Data(
            source="folder:pictures",
            image_size=64,
            batch_size=64,
            augment=(HorizontalFlip(),),
        ),
        optim=Optim(
            name="adam", learning_rate=0.0002, b1=0.0, b2=0.99, ema_decay=0.999
        ),
        gan=Gan(
            latent=128,
            loss="non_saturating",
            r1=1.0,
            augment=("color", "translation", "cutout"),
            num_samples=2000,
        ),
    )
