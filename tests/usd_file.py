"""What Universal Scene Description's own library makes of a file."""

from pathlib import Path

import numpy as np
from pxr import Usd, UsdGeom, UsdSkel, Vt


class Stage:
    """An opened stage with one skinned mesh."""

    def __init__(self, path: Path) -> None:
        self.stage = Usd.Stage.Open(str(path))
        self.root = self.stage.GetDefaultPrim()
        self.mesh = UsdGeom.Mesh(self.stage.GetPrimAtPath("/person/mesh"))
        cache = UsdSkel.Cache()
        cache.Populate(UsdSkel.Root(self.root), Usd.PrimDefaultPredicate)
        self.skeleton = cache.GetSkelQuery(UsdSkel.Skeleton(self.stage.GetPrimAtPath("/person/skeleton")))
        self.skin = cache.GetSkinningQuery(self.mesh.GetPrim())
        assert self.skeleton
        assert self.skin

    def points(self) -> np.ndarray:
        return np.array(self.mesh.GetPointsAttr().Get())

    def posed(self, frame: int) -> np.ndarray:
        """Blend shapes, then linear blend skinning, both by UsdSkel, ``[V, 3]``."""
        points = Vt.Vec3fArray.FromNumpy(self.points())
        if self.skin.HasBlendShapes():
            query = UsdSkel.BlendShapeQuery(UsdSkel.BindingAPI(self.mesh.GetPrim()))
            weights = self.skeleton.GetAnimQuery().ComputeBlendShapeWeights(frame)
            shapes = query.ComputeSubShapeWeights(weights)
            offsets = query.ComputeBlendShapePointIndices(), query.ComputeSubShapePointOffsets()
            assert query.ComputeDeformedPoints(*shapes, *offsets, points)
        assert self.skin.ComputeSkinnedPoints(self.skeleton.ComputeSkinningTransforms(frame), points, frame)
        return np.array(points)
