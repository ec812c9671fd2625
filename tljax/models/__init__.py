"""Models by name. This package imports nothing else of tljax."""

import difflib

from flax import linen as nn

from tljax.models import autoencoder, gan, resnet, resnet_autoencoder

MODELS = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnext50_32x4d": resnet.resnext50_32x4d,
    "resnext101_32x8d": resnet.resnext101_32x8d,
    "resnext101_64x4d": resnet.resnext101_64x4d,
    "wide_resnet50_2": resnet.wide_resnet50_2,
    "wide_resnet101_2": resnet.wide_resnet101_2,
}
# These take the shape of the images in place of a number of classes.
AUTOENCODERS = {
    "tied_autoencoder": autoencoder.TiedAutoencoder,
    "conv_autoencoder": autoencoder.ConvAutoencoder,
    "resnet_autoencoder": resnet_autoencoder.ResNetAutoencoder,
}
GANS = {
    "dense_gan": gan.dense_gan,
    "dcgan": gan.dcgan,
    "sngan": gan.sngan,
    "resnet_gan": gan.resnet_gan,
}


def create(name: str, **options) -> nn.Module:
    """Returns the model called `name`, e.g. `create("resnet50", num_classes=10)`.

    Options are the attributes of the module. Raises ValueError for an unknown name.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown model {name!r}{hint}; one of {', '.join(MODELS)}")
    return MODELS[name](**options)
