"""Declares two operators that torchvision's import asks for and CPU builds lack."""

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    LIBRARY.define(
        f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
