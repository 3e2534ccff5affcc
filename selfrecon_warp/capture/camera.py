"""One pinhole camera for a whole capture, with intrinsics and pose that can be optimised.

Conventions. ``quat`` turns camera directions into world directions: ``p_camera = p_world @ R + T`` and the camera sits
at ``-R T``. Camera axes are x left, y up, z forward. Integer coordinates are pixel centres, u grows to the right and v
downwards: ``u = cx - fx X/Z``, ``v = cy - fy Y/Z``. No lens distortion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from selfrecon_warp.errors import CaptureError
from selfrecon_warp.model.rotation import rotation_from_quaternion

PARAMETERS = ("focal", "principal", "quat", "T")


class Camera(nn.Module):
    """Pinhole camera; its four parameters are fixed until named in ``optimise``.

    Args:
        focal: (fx, fy) [px].
        principal: (cx, cy) [px].
        quat: Camera-to-world rotation (w, x, y, z), any non-zero length.
        T: World-to-camera translation in camera axes [m].
        height: Image height [px].
        width: Image width [px].
        optimise: Names among ``focal``, ``principal``, ``quat``, ``T`` that get gradients.
    """

    focal: nn.Parameter
    principal: nn.Parameter
    quat: nn.Parameter
    T: nn.Parameter

    def __init__(
        self,
        focal: Sequence[float],
        principal: Sequence[float],
        quat: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
        T: Sequence[float] = (0.0, 0.0, 0.0),
        *,
        height: int,
        width: int,
        optimise: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for name, values in zip(PARAMETERS, (focal, principal, quat, T), strict=True):
            parameter = nn.Parameter(torch.tensor([float(value) for value in values]), requires_grad=False)
            self.register_parameter(name, parameter)
        self.height, self.width = int(height), int(width)
        self.optimise(*optimise)

    def optimise(self, *names: str) -> list[nn.Parameter]:
        """Let exactly the named parameters receive gradients and return them.

        Raises:
            ValueError: A name is none of ``focal``, ``principal``, ``quat``, ``T``.
        """
        unknown = set(names) - set(PARAMETERS)
        if unknown:
            raise ValueError(f"camera parameters are {', '.join(PARAMETERS)}, got {', '.join(sorted(unknown))}")
        for name in PARAMETERS:
            getattr(self, name).requires_grad_(name in names)
        return [getattr(self, name) for name in names]

    def rotation(self) -> Tensor:
        """Camera-to-world rotation, ``[3, 3]``."""
        return rotation_from_quaternion(self.quat)

    def centre(self) -> Tensor:
        """Camera position in the world [m], ``[3]``."""
        return -(self.rotation() @ self.T)

    def project(self, points_world: Tensor) -> Tensor:
        """Project world points into the image.

        Args:
            points_world: Positions [m], ``[..., 3]``.

        Returns:
            (u, v, z), ``[..., 3]``: pixel coordinates and camera-forward depth [m]; differentiable in the points and
            in every camera parameter. Points at or behind the camera have z <= 0 and meaningless u, v.
        """
        dtype = points_world.dtype
        x, y, z = (points_world @ self.rotation().to(dtype) + self.T.to(dtype)).unbind(-1)
        (fx, fy), (cx, cy) = self.focal.to(dtype).unbind(), self.principal.to(dtype).unbind()
        divisor = torch.where(z.abs() < 1e-6, torch.full_like(z, 1e-6), z)
        return torch.stack((cx - fx * x / divisor, cy - fy * y / divisor, z), -1)

    def rays(self, pixels: Tensor) -> Tensor:
        """Viewing directions through pixels.

        Args:
            pixels: (u, v) [px], ``[..., 2]``; integers are pixel centres.

        Returns:
            Unit directions in the world, ``[..., 3]``, in the camera's precision or the pixels' if floating;
            differentiable in the camera and the pixels.
        """
        dtype = pixels.dtype if pixels.is_floating_point() else self.focal.dtype
        slopes = (self.principal.to(dtype) - pixels.to(dtype)) / self.focal.to(dtype)
        directions = torch.cat((slopes, torch.ones_like(slopes[..., :1])), -1)
        return torch.nn.functional.normalize(directions, dim=-1) @ self.rotation().to(dtype).T

    def angular_tolerance(self) -> float:
        """Smallest angle [rad] that half a pixel subtends at the middle of the four image borders."""
        angles = []
        for focal, centre, size in zip(
            self.focal.tolist(), self.principal.tolist(), (self.width, self.height), strict=True
        ):
            for border, inward in ((0.0, 0.5), (size - 1.0, size - 1.5)):
                angles.append(abs(math.atan((border - centre) / focal) - math.atan((inward - centre) / focal)))
        return min(angles)

    def resized(self, height: int, width: int) -> Camera:
        """The same camera for images resampled to another size (pixel areas aligned, as ``cv2.INTER_AREA`` does)."""
        scale = np.array([width / self.width, height / self.height])
        focal = self.focal.detach().double().cpu().numpy() * scale
        principal = (self.principal.detach().double().cpu().numpy() + 0.5) * scale - 0.5
        return Camera(
            focal.tolist(), principal.tolist(), self.quat.tolist(), self.T.tolist(), height=height, width=width
        )

    def extra_repr(self) -> str:
        """One line for ``print(camera)``."""
        return f"{self.width}x{self.height} px, focal {self.focal.tolist()}, principal {self.principal.tolist()}"


def read_camera(path: Path, height: int, width: int) -> Camera:
    """Read ``camera.npz`` of the reference layout: scalars fx, fy, cx, cy [px], quat (4), T (3) [m].

    Args:
        path: The file.
        height: Image height [px].
        width: Image width [px].

    Raises:
        CaptureError: Missing or unreadable file, missing key, wrong shape, NaN, focal length not positive.
    """
    arrays = read_arrays(path, required=("fx", "fy", "cx", "cy", "quat", "T"))
    values = {}
    for name, size in (("fx", 1), ("fy", 1), ("cx", 1), ("cy", 1), ("quat", 4), ("T", 3)):
        array = arrays[name]
        if array.size != size or array.dtype.kind not in "fiu":
            raise CaptureError(f"{path}: {name} must be {size} number(s), got {array.dtype} of shape {array.shape}")
        values[name] = array.astype(np.float64).reshape(-1)
        if not np.isfinite(values[name]).all():
            raise CaptureError(f"{path}: {name} holds NaN or infinity; write the camera again")
    focal = [float(values["fx"][0]), float(values["fy"][0])]
    if min(focal) <= 0:
        raise CaptureError(f"{path}: fx and fy must be positive focal lengths in pixels, got {focal}")
    if np.linalg.norm(values["quat"]) < 1e-6:
        raise CaptureError(f"{path}: quat must be a rotation (w, x, y, z), got {values['quat'].tolist()}")
    principal = [float(values["cx"][0]), float(values["cy"][0])]
    return Camera(focal, principal, values["quat"].tolist(), values["T"].tolist(), height=height, width=width)


def write_camera(path: Path, camera: Camera) -> None:
    """Write ``camera.npz`` of the reference layout."""
    (fx, fy), (cx, cy) = camera.focal.detach().double().tolist(), camera.principal.detach().double().tolist()
    quat, T = camera.quat.detach().double().cpu().numpy(), camera.T.detach().double().cpu().numpy()
    np.savez(path, fx=fx, fy=fy, cx=cx, cy=cy, quat=quat, T=T)


def read_arrays(path: Path, required: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read every array of an .npz file, never unpickling anything.

    Raises:
        CaptureError: Missing, damaged, or pickled content, or a required key is absent.
    """
    if not path.is_file():
        raise CaptureError(f"{path} is missing; a capture needs it (see the capture layout in the README)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise CaptureError(
                f"{path} holds Python objects, which are never loaded; save plain arrays and strings with numpy.savez"
            ) from error
        raise CaptureError(f"{path} is damaged or no .npz file: {error}") from error
    except Exception as error:  # zip, zlib and I/O errors of a damaged archive have no common base
        raise CaptureError(f"{path} is damaged or no .npz file: {error}") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise CaptureError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}")
    return arrays
