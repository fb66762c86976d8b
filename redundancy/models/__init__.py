"""Networks: ResNet v2 with its three pooled layers."""

from redundancy.models.resnet import ResNet, make_model

__all__ = ["ResNet", "make_model"]
