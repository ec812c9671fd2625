"""torchvision's published ImageNet weights of the ResNet family, as facts.

Accuracies are torchvision's own, in per cent, of one centre crop. The eight hexadecimal
digits in a file's name begin its SHA-256. A V1 file came of the simple recipe; a V2 one
of the long one (600 epochs, TrivialAugment, mixup, cutmix, label smoothing, random
erasing, weight average), which is more accurate and less linear in its features.
"""

import functools
import re
from importlib import resources
from typing import NamedTuple

from tljax.data.transforms import IMAGENET, Transform
from tljax.errors import ConfigError, unknown

URL = "https://download.pytorch.org/models"
SIMPLE = "https://github.com/pytorch/vision/tree/main/references/classification#resnet"
RESNEXT = f"{SIMPLE.removesuffix('resnet')}resnext"
WIDE = "https://github.com/pytorch/vision/pull/912#issue-445437439"
ISSUE = "https://github.com/pytorch/vision/issues/3995"
LONG = f"{ISSUE}#new-recipe"
REPEATED = f"{ISSUE}#issuecomment-1013906621"
FIXRES = f"{ISSUE}#new-recipe-with-fixres"
PULL_5935 = "https://github.com/pytorch/vision/pull/5935"


class Entry(NamedTuple):
    """One published file of weights.

    Attributes:
      model: the architecture's name.
      version: the member of torchvision's enum, or that of which it is an older copy.
      file: the file's name, with the beginning of its SHA-256 in it.
      top1, top5: accuracy on ImageNet's validation images, in per cent.
      parameters: how many the model has.
      mebibytes: size of the file, in 2^20 bytes.
      gflops: 10^9 multiply-adds for one image of 224 px.
      resize: pixels of the shorter side before the crop of 224.
      recipe: where the training is described.
      default: whether a bare model name means these weights.
    """

    model: str
    version: str
    file: str
    top1: float
    top5: float
    parameters: int
    mebibytes: float
    gflops: float
    resize: int
    recipe: str
    default: bool = False

    @property
    def hash_prefix(self) -> str:
        """The beginning of the file's SHA-256."""
        return re.search(r"-([0-9a-f]+)\.pth$", self.file)[1]

    @property
    def transform(self) -> Transform:
        """How the images were made on which the accuracy was measured."""
        return IMAGENET._replace(resize=self.resize)

    @property
    def name(self) -> str:
        """The weights as `config.pretrained` writes them."""
        return f"torchvision:{self.model}.{self.version}"


V1, V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
CATALOG = (
    Entry("resnet18", V1, "resnet18-f37072fd.pth", 69.758, 89.078,
          11_689_512, 44.661, 1.814, 256, SIMPLE, default=True),
    Entry("resnet34", V1, "resnet34-b627a593.pth", 73.314, 91.420,
          21_797_672, 83.275, 3.664, 256, SIMPLE, default=True),
    Entry("resnet50", V1, "resnet50-0676ba61.pth", 76.130, 92.862,
          25_557_032, 97.781, 4.089, 256, SIMPLE),
    Entry("resnet50", V2, "resnet50-11ad3fa6.pth", 80.858, 95.434,
          25_557_032, 97.790, 4.089, 232, REPEATED, default=True),
    Entry("resnet101", V1, "resnet101-63fe2227.pth", 77.374, 93.546,
          44_549_160, 170.511, 7.801, 256, SIMPLE),
    Entry("resnet101", V2, "resnet101-cd907fc2.pth", 81.886, 95.780,
          44_549_160, 170.530, 7.801, 232, LONG, default=True),
    Entry("resnet152", V1, "resnet152-394f9c45.pth", 78.312, 94.046,
          60_192_808, 230.434, 11.514, 256, SIMPLE),
    Entry("resnet152", V2, "resnet152-f82ba261.pth", 82.284, 96.002,
          60_192_808, 230.474, 11.514, 232, LONG, default=True),
    Entry("resnext50_32x4d", V1, "resnext50_32x4d-7cdf4587.pth", 77.618, 93.698,
          25_028_904, 95.789, 4.230, 256, RESNEXT),
    Entry("resnext50_32x4d", V2, "resnext50_32x4d-1a0047aa.pth", 81.198, 95.340,
          25_028_904, 95.833, 4.230, 232, LONG, default=True),
    Entry("resnext101_32x8d", V1, "resnext101_32x8d-8ba56ff5.pth", 79.312, 94.526,
          88_791_336, 339.586, 16.414, 256, RESNEXT),
    Entry("resnext101_32x8d", V2, "resnext101_32x8d-110c445d.pth", 82.834, 96.228,
          88_791_336, 339.673, 16.414, 232, FIXRES, default=True),
    Entry("resnext101_64x4d", V1, "resnext101_64x4d-173b62eb.pth", 83.246, 96.454,
          83_455_272, 319.318, 15.460, 232, PULL_5935, default=True),
    Entry("wide_resnet50_2", V1, "wide_resnet50_2-95faca4d.pth", 78.468, 94.086,
          68_883_240, 131.820, 11.398, 256, WIDE),
    Entry("wide_resnet50_2", V2, "wide_resnet50_2-9ba9bcbe.pth", 81.602, 95.758,
          68_883_240, 263.124, 11.398, 232, FIXRES, default=True),
    Entry("wide_resnet101_2", V1, "wide_resnet101_2-32ee1156.pth", 78.848, 94.284,
          126_886_696, 242.896, 22.753, 256, WIDE),
    Entry("wide_resnet101_2", V2, "wide_resnet101_2-d733dc28.pth", 82.510, 96.020,
          126_886_696, 484.747, 22.753, 232, LONG, default=True),
)  # fmt: skip

# The values of V1 in the legacy format, under the names that older programs know.
ALIASES = {
    "resnet18-5c106cde.pth": "resnet18",
    "resnet34-333f7ec4.pth": "resnet34",
    "resnet50-19c8e357.pth": "resnet50",
    "resnet101-5d3b4d8f.pth": "resnet101",
    "resnet152-b121ed2d.pth": "resnet152",
}


@functools.cache
def entries() -> dict[str, Entry]:
    """Returns every name that weights go by, and what it means.

    A model's name is its default weights; MODEL.DEFAULT and MODEL.VERSION, and a file's
    name with or without its suffix, are what they say.
    """
    names = {}
    for entry in CATALOG:
        names[f"{entry.model}.{entry.version}"] = entry
        names[entry.file] = entry
        if entry.default:
            names[entry.model] = names[f"{entry.model}.DEFAULT"] = entry
    for file, model in ALIASES.items():
        names[file] = names[f"{model}.{V1}"]._replace(file=file, default=False)
    short = {name.removesuffix(".pth"): entry for name, entry in names.items()}
    return names | short


def find(name: str) -> Entry:
    """Returns the entry called `name`; raises ConfigError for an unknown one."""
    if name in entries():
        return entries()[name]
    models = list(dict.fromkeys(entry.model for entry in CATALOG))
    versions = [f"{entry.model}.{entry.version}" for entry in CATALOG]
    raise ConfigError(unknown("torchvision weights", name, models + versions))


@functools.cache
def class_names() -> tuple[str, ...]:
    """Returns the names of ImageNet's 1000 classes, in torchvision's order."""
    text = resources.files("tljax.pretrained").joinpath("imagenet_classes.txt")
    return tuple(text.read_text(encoding="utf-8").splitlines())
