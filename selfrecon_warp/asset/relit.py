"""A textured avatar in the light it was photographed in, whatever its pose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.asset.animate import painter_of
from selfrecon_warp.asset.lighting import lit
from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.asset.shadows import reached
from selfrecon_warp.capture.camera import Camera
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


def pictures_in_its_light(avatar: RiggedMesh, camera: Camera, device: torch.device) -> Callable[[Tensor], np.ndarray]:
    """Pictures of a textured avatar over white, as the capture's camera would take them.

    Args:
        avatar: A textured avatar; where it knows no light, its texture is drawn as it is.
        camera: Its size is the pictures'.
        device: Where to compute.

    Returns:
        Takes positions in the capture's world [m], ``[V, 3]``, and gives RGB ``[H, W, 3]`` uint8.
    """
    painter, relight = painter_of(avatar, device), relighting(avatar, device)
    return lambda posed: painter.picture(posed, camera, light=None if relight is None else relight(posed))
