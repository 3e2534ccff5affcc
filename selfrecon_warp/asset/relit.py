"""A textured avatar in the light it was photographed in, whatever its pose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selfrecon_warp.asset.lighting import lit
from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.asset.shadows import reached
from selfrecon_warp.surface.mesh import vertex_normals


def relighting(avatar: RiggedMesh, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """What the texture of an avatar is multiplied by at its vertices, for ``Painter.paint``, shadows included.

    Args:
        avatar: A textured avatar.
        device: Where to compute.

    Returns:
        Takes positions in the capture's world [m], but for a shift, ``[V, 3]``, and gives ``[V, 3]``; ``None`` where
        the avatar knows no light.
    """
    if avatar.light is None or avatar.textured_light is None:
        return None
    light, held, faces = (torch.from_numpy(a).to(device) for a in (avatar.light, avatar.textured_light, avatar.faces))
    lamp = None if avatar.lamp is None or not avatar.lamp.any() else torch.from_numpy(avatar.lamp).to(device)

    def relight(posed: Tensor) -> Tensor:
        normals = vertex_normals(posed, faces)
        shares = 1.0 if lamp is None else reached(lamp[:1], posed[None], faces, posed[None])[0]
        return lit(light, normals, lamp, shares) / held

    return relight
