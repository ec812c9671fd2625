"""What the benchmarks that compare with torch share."""


def import_torchvision():
    """Returns torchvision, for which a CPU build of torch lacks two operators."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(operator + signature)
    import torchvision

    return torchvision
