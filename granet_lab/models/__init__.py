"""Networks: plain ``nn.Module``s, built from the shape of an image and the number of classes."""

from granet_lab.models import resnet as resnet
from granet_lab.models import small as small
from granet_lab.models import vgg as vgg
from granet_lab.models.named import MODELS, build, check, factory, model

__all__ = ["MODELS", "build", "check", "factory", "model"]
