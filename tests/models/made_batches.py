"""Small families of pictures that several models are trained on in tests."""

import torch


class Stripes:
    """Stripes at a phase drawn by the step: a family that a narrow code can hold."""

    def at(self, step):
        draw = torch.Generator().manual_seed(step)
        phase = 6 * torch.rand(16, 1, 1, 1, generator=draw)
        x = 0.5 + 0.4 * torch.sin(torch.arange(16) * 0.8 + phase).expand(16, 1, 16, 16)
        return torch.cat([x, torch.ones_like(x)], 1)

    def condition(self, step):
        return None
