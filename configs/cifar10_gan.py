"""CIFAR-10 from a class-conditional SNGAN, measured by a classifier trained before.

python -m tljax.main --config=configs/cifar10_gan.py --workdir=DIR

The recipe of Miyato et al. 2018 (arXiv 1802.05957, setting C with hinge loss): five
steps of the discriminator on 64 images each for one of the generator. For FID and KID
under their own names, a file of FID's Inception weights takes the classifier's place:
--config.judge=none --config.gan.judge=inception:PATH.pth --config.gan.num_samples=50000
Not run by its authors: no result is stated here.
"""

from tljax.config import (
    Config,
    Data,
    Gan,
    HorizontalFlip,
    Loss,
    Model,
    Optim,
    RandomCrop,
)


def get_config() -> Config:
    """Returns the config of the GAN, with that of the classifier in it."""
    judge = Config(
        num_epochs=50,
        eval_every=1000,
        checkpoint_every=1000,
        precision="bfloat16",
        model=Model(name="resnet18", stem="small"),
        data=Data(
            source="tfds:cifar10",
            batch_size=256,
            augment=(RandomCrop(), HorizontalFlip()),
        ),
        optim=Optim(
            name="nesterov",
            learning_rate=0.2,
            schedule="cosine",
            warmup_steps=500,
            weight_decay=5e-4,
        ),
        loss=Loss(label_smoothing=0.1),
    )
    return Config(
        task="gan",
        num_steps=100_000,
        log_every=500,
        eval_every=5000,
        checkpoint_every=5000,
        judge=judge,
        model=Model(name="sngan", width=128),
        data=Data(
            source="tfds:cifar10",
            batch_size=320,
            augment=(HorizontalFlip(),),
        ),
        optim=Optim(
            name="adam",
            learning_rate=0.0002,
            b1=0.0,
            b2=0.9,
            schedule="linear",
            ema_decay=0.9999,
        ),
        gan=Gan(
            latent=128,
            loss="hinge",
            spectral_norm=True,
            conditional=True,
            discriminator_steps=5,
            augment=("translation", "cutout"),
            num_samples=10_000,
        ),
    )
