"""Which device a command runs on."""

from __future__ import annotations

import torch

from selfrecon_warp.errors import ConfigError


def select_device(name: str = "auto") -> torch.device:
    """The torch device a user asked for.

    Args:
        name: ``auto`` (the first CUDA device, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: The name is not understood, or this machine or this build of torch has no such device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if name != "cpu" and not (kind == "cuda" and (name == "cuda" or index.isdigit())):
        raise ConfigError(f"--device {name}: must be auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise ConfigError(
            f"--device {name}: the installed torch {torch.__version__} is built without CUDA; "
            "install a CUDA build (https://pytorch.org/get-started) or use --device cpu"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(f"--device {name}: no CUDA device found (check nvidia-smi and the driver); use --device cpu")
    if int(index or 0) >= count:
        raise ConfigError(f"--device {name}: this machine has cuda:0 to cuda:{count - 1}; choose one of them")
    return torch.device("cuda", int(index or 0))
