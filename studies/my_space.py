"""A complete space of one's own: hwnas run study.yaml --allow-code studies/my_space.py (space.use: tiny_cnn)."""

from torch import nn

from hwnas.spaces import Chooser, space


@space(input_shape=(1, 8, 8), num_classes=10)
def tiny_cnn(choose: Chooser) -> nn.Module:
    """Up to three convolutions and a classifier."""
    layers: list[nn.Module] = []
    channels = 1
    for i in range(1, choose.integer("depth", 1, 3) + 1):
        width = choose.one_of(f"layer{i}.width", [8, 16, 32])
        kernel = choose.one_of(f"layer{i}.kernel", [3, 5])
        layers += [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    if choose.flag("pool"):
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10)]
    else:
        layers += [nn.Flatten(), nn.Linear(64 * channels, 10)]
    return nn.Sequential(*layers)
