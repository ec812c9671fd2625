"""ResNet, ResNeXt and Wide ResNet with torchvision's names, paddings and strides.

He et al. 2015 (arXiv 1512.03385), Xie et al. 2016 (1611.05431), Zagoruyko and
Komodakis 2016 (1605.07146). As in torchvision, a bottleneck's stride stands in its
3x3 convolution. Submodules carry torchvision's names with "_" for ".", so that
`layer1.0.downsample.1.weight` there is `layer1_0/downsample_1/scale` here.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from tljax.models import layers
from tljax.models.pooling import max_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    planes: int
    stride: int = 1
    groups: int = 1
    width_per_group: int = 64
    frozen_statistics: frozenset[str] = frozenset()
    drop_rate: float = 0.0
    dtype: jnp.dtype | None = None
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, running: bool) -> jax.Array:
        """Returns [b, h/stride, w/stride, planes].

        With `running`, BatchNorm normalises with its running statistics. Images skip
        the convolutions, each on its own, at `drop_rate`.
        """
        if self.groups != 1 or self.width_per_group != 64:
            raise ValueError("a basic block has groups 1 and width_per_group 64")
        conv = functools.partial(layers.convolution, dtype=self.dtype)
        norm = functools.partial(
            layers.BatchNorm, running, self.frozen_statistics, dtype=self.dtype
        )
        conv1 = conv(self.planes, 3, self.stride, name="conv1")
        y = norm(name="bn1")(x, conv=conv1, relu=True)
        conv2 = conv(self.planes, 3, name="conv2")
        around = shortcut(x, self.planes, self.stride, conv, norm)
        return join(norm(name="bn2"), conv2, y, around, self.drop_rate)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, four times as wide outside."""

    planes: int
    stride: int = 1
    groups: int = 1
    width_per_group: int = 64
    frozen_statistics: frozenset[str] = frozenset()
    drop_rate: float = 0.0
    dtype: jnp.dtype | None = None
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, running: bool) -> jax.Array:
        """Returns [b, h/stride, w/stride, 4 * planes]; as BasicBlock."""
        conv = functools.partial(layers.convolution, dtype=self.dtype)
        norm = functools.partial(
            layers.BatchNorm, running, self.frozen_statistics, dtype=self.dtype
        )
        inner = int(self.planes * (self.width_per_group / 64.0)) * self.groups
        if inner < self.groups:
            raise ValueError(
                f"{self.planes} planes leave none to each of {self.groups} groups"
            )
        outer = self.planes * self.expansion
        conv1 = conv(inner, 1, name="conv1")
        y = norm(name="bn1")(x, conv=conv1, relu=True)
        conv2 = conv(inner, 3, self.stride, self.groups, name="conv2")
        y = norm(name="bn2")(y, conv=conv2, relu=True)
        conv3 = conv(outer, 1, name="conv3")
        around = shortcut(x, outer, self.stride, conv, norm)
        return join(norm(name="bn3"), conv3, y, around, self.drop_rate)


def shortcut(x, features, stride, conv, norm):
    """Returns `x`, projected where a block changes its shape."""
    if stride == 1 and x.shape[-1] == features:
        return x
    project = conv(features, 1, stride, name="downsample_0")
    return norm(name="downsample_1")(x, conv=project)


def join(norm, conv, y, around, drop_rate):
    """Returns `y`, convolved and normalised, plus what goes around, cut below 0."""
    if drop_rate:
        return nn.relu(layers.drop_rows(norm(y, conv=conv), drop_rate) + around)
    return norm(y, around, conv=conv, relu=True)


class ResNet(nn.Module):
    """A residual network over images of any size and any number of channels.

    Attributes:
      stage_sizes: blocks in layer1..layer4.
      block: `BasicBlock` or `Bottleneck`.
      num_classes: outputs of `fc`; 0 leaves `fc` out and returns the pooled features.
      width: planes of layer1, doubled in each later stage; torchvision's is 64.
      groups, width_per_group: of the 3x3 convolution in a bottleneck.
      stem: "standard" is 7x7 at stride 2 and a max pool; "small" is 3x3 at stride 1
        and no pool, for images of 64 px and less.
      frozen_statistics: names of BatchNorm layers, as layer1_0/bn1, that normalise
        with their running statistics, and leave them alone, in training too.
      dropout: rate at which pooled features are dropped before `fc`, in training.
      stochastic_depth: rate at which an image skips the last block, in training. It
        grows linearly from 0 at the first block, `rate * block / (blocks - 1)`: the
        convention of torchvision's ConvNeXt. Huang et al. 2016 (arXiv 1603.09382)
        begin at `rate / blocks`.
      remat: keep only what goes into each block for the backward pass, and compute the
        rest of it again: less memory for more time. XLA undoes it for CPUs.
      dtype: of the computation, bfloat16 or None for the dtype of the images.
        Parameters, statistics, pooled features and logits are float32.
    """

    stage_sizes: tuple[int, ...]
    block: type[nn.Module]
    num_classes: int = 1000
    width: int = 64
    groups: int = 1
    width_per_group: int = 64
    stem: Literal["standard", "small"] = "standard"
    frozen_statistics: frozenset[str] = frozenset()
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, return_features: bool = False
    ):
        """Returns logits [batch, num_classes] of normalised images [b, h, w, c].

        With `return_features`, returns `(logits, features)`: a dict of the outputs of
        stem, layer1..layer4 ([b, h, w, c]) and pooled ([b, c]). What a caller does not
        use, the compiler leaves out. With `train` and one of the rates above 0, the rng
        "dropout" is needed.
        """
        running = not train
        rates = self.drop_rates(train)

        def begin(self, images: jax.Array) -> dict[str, jax.Array]:
            stem = self.apply_stem(images, running)
            return {"stem": stem, "layer1": self.apply_stage(stem, 1, running, rates)}

        if train:
            features = begin(self, images)
        else:
            pixels = math.prod(images.shape[1:3]) // (1 if self.stem == "small" else 4)
            features = layers.few_at_a_time(begin, self, images, pixels * self.width)
        x = features["layer1"]
        for stage in range(2, len(self.stage_sizes) + 1):
            x = features[f"layer{stage}"] = self.apply_stage(x, stage, running, rates)
        # A sum over hundreds of bfloat16 numbers would lose digits.
        pooled_dtype = jnp.promote_types(x.dtype, jnp.float32)
        x = features["pooled"] = jnp.mean(x, axis=(1, 2), dtype=pooled_dtype)
        if self.num_classes:
            x = layers.drop(x, self.dropout if train else 0.0)
            x = layers.linear(self.num_classes, fan_in=x.shape[-1], name="fc")(x)
        return (x, features) if return_features else x

    def drop_rates(self, train: bool) -> list[float]:
        """Returns the rate at which images skip each block, 0 outside of training."""
        num_blocks = sum(self.stage_sizes)
        last, rate = max(num_blocks - 1, 1), self.stochastic_depth if train else 0.0
        return [rate * block / last for block in range(num_blocks)]

    def apply_stage(self, x, stage: int, running: bool, rates: list[float]):
        """Returns the output of layer1, layer2, ..., of which x is the input."""
        # The second argument of a block, beside itself, is none to differentiate.
        block = nn.remat(self.block, static_argnums=(2,)) if self.remat else self.block
        first = sum(self.stage_sizes[: stage - 1])
        for index in range(self.stage_sizes[stage - 1]):
            x = block(
                planes=self.width * 2 ** (stage - 1),
                stride=2 if stage > 1 and index == 0 else 1,
                groups=self.groups,
                width_per_group=self.width_per_group,
                frozen_statistics=self.frozen_statistics,
                drop_rate=rates[first + index],
                dtype=self.dtype,
                name=f"layer{stage}_{index}",
            )(x, running)
        return x

    def apply_stem(self, images: jax.Array, running: bool) -> jax.Array:
        """Returns [b, h, w, width]; the standard stem leaves a quarter of h and w."""
        if self.stem not in ("standard", "small"):
            raise ValueError(f"stem {self.stem!r} must be 'standard' or 'small'")
        kernel_size, stride = (3, 1) if self.stem == "small" else (7, 2)
        conv = layers.convolution(
            self.width, kernel_size, stride, dtype=self.dtype, name="conv1"
        )
        norm = layers.BatchNorm(
            running, self.frozen_statistics, dtype=self.dtype, name="bn1"
        )
        x = norm(images, conv=conv, relu=True)
        if self.stem == "small":
            return x
        return max_pool(x, 3, 2, 1)


resnet18 = functools.partial(ResNet, (2, 2, 2, 2), BasicBlock)
resnet34 = functools.partial(ResNet, (3, 4, 6, 3), BasicBlock)
resnet50 = functools.partial(ResNet, (3, 4, 6, 3), Bottleneck)
resnet101 = functools.partial(ResNet, (3, 4, 23, 3), Bottleneck)
resnet152 = functools.partial(ResNet, (3, 8, 36, 3), Bottleneck)
resnext50_32x4d = functools.partial(resnet50, groups=32, width_per_group=4)
resnext101_32x8d = functools.partial(resnet101, groups=32, width_per_group=8)
resnext101_64x4d = functools.partial(resnet101, groups=64, width_per_group=4)
wide_resnet50_2 = functools.partial(resnet50, width_per_group=128)
wide_resnet101_2 = functools.partial(resnet101, width_per_group=128)
