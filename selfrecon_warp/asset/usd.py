"""Universal Scene Description with UsdSkel: mesh, skin, material, motion and blend shapes.

Needs usd-core (``pip install 'selfrecon-warp[usd]'``). A ``.usdz`` holds everything; beside ``.usda`` and ``.usdc``
lie the textures. Stage: metres, y up, one time code a frame.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from selfrecon_warp.asset.gltf import linear_colours, quaternions, strongest_weights
from selfrecon_warp.asset.morphs import Morphs
from selfrecon_warp.asset.rigged import RiggedMesh, encoded_image
from selfrecon_warp.errors import ExportError

SUFFIXES = (".usdz", ".usdc", ".usda")


def require_usd() -> None:
    """Refuse early what :func:`write_usd` would refuse for want of usd-core.

    Raises:
        ExportError: usd-core is not installed.
    """
    _pxr()


def write_usd(
    path: Path, rigged: RiggedMesh, *, influences: int = 4, morphs: Morphs | None = None, motion_name: str = "capture"
) -> None:
    """Write a mesh as it stands; its world is taken for one with y up.

    Args:
        path: What to write; the suffix, one of ``SUFFIXES``, decides the kind.
        rigged: The mesh.
        influences: Joints a vertex follows.
        morphs: Offsets that go along with the motion; as many frames as it has.
        motion_name: Of the animation prim.

    Raises:
        ExportError: usd-core is not installed.
    """
    pxr = _pxr()
    if path.suffix != ".usdz":
        _write_stage(pxr, path, path.stem, rigged, influences, morphs, motion_name)
        return
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / f"{path.stem}.usdc"
        _write_stage(pxr, stage, path.stem, rigged, influences, morphs, motion_name)
        if not pxr.UsdUtils.CreateNewUsdzPackage(str(stage), str(path)):
            raise OSError(f"{path.name} cannot be packed")


def _pxr() -> Any:
    try:
        from pxr import Gf, Sdf, Usd, UsdGeom, UsdShade, UsdSkel, UsdUtils, Vt
    except ImportError as error:
        raise ExportError(
            f"USD needs usd-core ({error}); pip install 'selfrecon-warp[usd]' or choose --format glb"
        ) from error
    return SimpleNamespace(
        Gf=Gf, Sdf=Sdf, Usd=Usd, UsdGeom=UsdGeom, UsdShade=UsdShade, UsdSkel=UsdSkel, UsdUtils=UsdUtils, Vt=Vt
    )


def _write_stage(
    pxr: Any, path: Path, stem: str, rigged: RiggedMesh, influences: int, morphs: Morphs | None, motion_name: str
) -> None:
    stage = pxr.Usd.Stage.CreateNew(str(path))
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
    pxr.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(rigged.frame_rate)
    stage.SetFramesPerSecond(rigged.frame_rate)
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(max(rigged.frame_count - 1, 0))
    root = pxr.UsdSkel.Root.Define(stage, "/person")
    stage.SetDefaultPrim(root.GetPrim())
    pxr.UsdGeom.ModelAPI.Apply(root.GetPrim())
    pxr.Usd.ModelAPI(root.GetPrim()).SetKind("component")
    skeleton = _add_skeleton(pxr, stage, rigged)
    mesh = _add_mesh(pxr, stage, rigged)
    _bind_skin(pxr, mesh, skeleton, rigged, influences)
    _add_material(pxr, stage, mesh, rigged, path.parent, stem)
    if morphs is not None:
        _add_blend_shapes(pxr, stage, mesh, morphs)
    if rigged.frame_count:
        animation = _add_motion(pxr, stage, skeleton, rigged, morphs, motion_name)
        binding = pxr.UsdSkel.BindingAPI.Apply(skeleton.GetPrim())
        binding.CreateAnimationSourceRel().SetTargets([animation.GetPath()])
    stage.GetRootLayer().Save()


def joint_paths(rigged: RiggedMesh) -> list[str]:
    """UsdSkel's names of the joints: all ancestors, then the joint, between slashes."""
    paths: list[str] = []
    for name, parent in zip(rigged.joint_names, rigged.parents.tolist(), strict=True):
        paths.append(name if parent < 0 else f"{paths[parent]}/{name}")
    return paths


def _add_skeleton(pxr: Any, stage: Any, rigged: RiggedMesh) -> Any:
    skeleton = pxr.UsdSkel.Skeleton.Define(stage, "/person/skeleton")
    skeleton.CreateJointsAttr(joint_paths(rigged))
    skeleton.CreateBindTransformsAttr(_matrices(pxr, rigged.bind))
    skeleton.CreateRestTransformsAttr(_matrices(pxr, rigged.bind_local))
    return skeleton


def _matrices(pxr: Any, transforms: np.ndarray) -> Any:
    """Transforms of column vectors as USD's, of row vectors."""
    return pxr.Vt.Matrix4dArray([pxr.Gf.Matrix4d(*matrix.T.ravel().tolist()) for matrix in transforms])


def _add_mesh(pxr: Any, stage: Any, rigged: RiggedMesh) -> Any:
    mesh = pxr.UsdGeom.Mesh.Define(stage, "/person/mesh")
    tokens = pxr.UsdGeom.Tokens
    mesh.CreatePointsAttr(_vec3s(pxr, rigged.vertices))
    mesh.CreateFaceVertexCountsAttr(pxr.Vt.IntArray.FromNumpy(np.full(len(rigged.faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(pxr.Vt.IntArray.FromNumpy(rigged.faces.ravel().astype(np.int32)))
    mesh.CreateSubdivisionSchemeAttr(tokens.none)
    mesh.CreateNormalsAttr(_vec3s(pxr, rigged.normals))
    mesh.SetNormalsInterpolation(tokens.vertex)
    mesh.CreateExtentAttr(_vec3s(pxr, np.stack((rigged.vertices.min(0), rigged.vertices.max(0)))))
    primvars = pxr.UsdGeom.PrimvarsAPI(mesh)
    if rigged.texcoords is not None and rigged.face_texcoords is not None:
        upward = np.stack((rigged.texcoords[:, 0], 1.0 - rigged.texcoords[:, 1]), 1).astype(np.float32)
        st = primvars.CreatePrimvar("st", pxr.Sdf.ValueTypeNames.TexCoord2fArray, tokens.faceVarying)
        st.Set(pxr.Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(upward)))
        st.SetIndices(pxr.Vt.IntArray.FromNumpy(rigged.face_texcoords.ravel().astype(np.int32)))
    if rigged.texture is None and rigged.vertex_colours is not None:
        colour = primvars.CreatePrimvar("displayColor", pxr.Sdf.ValueTypeNames.Color3fArray, tokens.vertex)
        colour.Set(_vec3s(pxr, linear_colours(rigged.vertex_colours)))
    return mesh


def _bind_skin(pxr: Any, mesh: Any, skeleton: Any, rigged: RiggedMesh, influences: int) -> None:
    joints, weights = strongest_weights(rigged.weights, influences)
    binding = pxr.UsdSkel.BindingAPI.Apply(mesh.GetPrim())
    binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
    indices = binding.CreateJointIndicesPrimvar(False, influences)
    indices.Set(pxr.Vt.IntArray.FromNumpy(joints.ravel().astype(np.int32)))
    binding.CreateJointWeightsPrimvar(False, influences).Set(pxr.Vt.FloatArray.FromNumpy(weights.ravel()))
    binding.CreateGeomBindTransformAttr(pxr.Gf.Matrix4d(1.0))


def _add_material(pxr: Any, stage: Any, mesh: Any, rigged: RiggedMesh, folder: Path, stem: str) -> None:
    types, shade = pxr.Sdf.ValueTypeNames, pxr.UsdShade
    material = shade.Material.Define(stage, "/person/material")
    surface = shade.Shader.Define(stage, "/person/material/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", types.Float).Set(0.9)
    surface.CreateInput("metallic", types.Float).Set(0.0)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    diffuse = surface.CreateInput("diffuseColor", types.Color3f)
    if rigged.texture is not None:
        image = _write_image(folder / f"{stem}_texture.jpg", rigged.texture)
        reader = _add_reader(pxr, stage, "base_colour", image, "sRGB")
        diffuse.ConnectToSource(reader.ConnectableAPI(), "rgb")
    elif rigged.vertex_colours is not None:
        reader = shade.Shader.Define(stage, "/person/material/vertex_colours")
        reader.CreateIdAttr("UsdPrimvarReader_float3")
        reader.CreateInput("varname", types.String).Set("displayColor")
        reader.CreateOutput("result", types.Float3)
        diffuse.ConnectToSource(reader.ConnectableAPI(), "result")
    if rigged.normal_map is not None:
        image = _write_image(folder / f"{stem}_normal_map.png", rigged.normal_map)
        reader = _add_reader(pxr, stage, "normals", image, "raw")
        reader.CreateInput("scale", types.Float4).Set(pxr.Gf.Vec4f(2, 2, 2, 1))
        reader.CreateInput("bias", types.Float4).Set(pxr.Gf.Vec4f(-1, -1, -1, 0))
        surface.CreateInput("normal", types.Normal3f).ConnectToSource(reader.ConnectableAPI(), "rgb")
    shade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)


def _add_reader(pxr: Any, stage: Any, name: str, image: str, space: str) -> Any:
    """A texture that is looked up at the mesh's texture coordinates."""
    types = pxr.Sdf.ValueTypeNames
    coordinates = pxr.UsdShade.Shader.Define(stage, f"/person/material/{name}_coordinates")
    coordinates.CreateIdAttr("UsdPrimvarReader_float2")
    coordinates.CreateInput("varname", types.String).Set("st")
    coordinates.CreateOutput("result", types.Float2)
    reader = pxr.UsdShade.Shader.Define(stage, f"/person/material/{name}")
    reader.CreateIdAttr("UsdUVTexture")
    reader.CreateInput("file", types.Asset).Set(image)
    reader.CreateInput("sourceColorSpace", types.Token).Set(space)
    for side in ("wrapS", "wrapT"):
        reader.CreateInput(side, types.Token).Set("clamp")
    reader.CreateInput("st", types.Float2).ConnectToSource(coordinates.ConnectableAPI(), "result")
    reader.CreateOutput("rgb", types.Float3)
    return reader


def _write_image(path: Path, rgb: np.ndarray) -> str:
    path.write_bytes(encoded_image(rgb, path.suffix))
    return f"./{path.name}"


def _add_blend_shapes(pxr: Any, stage: Any, mesh: Any, morphs: Morphs) -> None:
    names = [f"offset_{k}" for k in range(len(morphs.offsets))]
    paths = []
    for name, offset in zip(names, morphs.offsets, strict=True):
        shape = pxr.UsdSkel.BlendShape.Define(stage, f"/person/mesh/{name}")
        shape.CreateOffsetsAttr(_vec3s(pxr, offset))
        paths.append(shape.GetPath())
    binding = pxr.UsdSkel.BindingAPI(mesh.GetPrim())
    binding.CreateBlendShapesAttr(names)
    binding.CreateBlendShapeTargetsRel().SetTargets(paths)


def _add_motion(
    pxr: Any, stage: Any, skeleton: Any, rigged: RiggedMesh, morphs: Morphs | None, motion_name: str
) -> Any:
    animation = pxr.UsdSkel.Animation.Define(stage, skeleton.GetPath().AppendChild(motion_name))
    animation.CreateJointsAttr(joint_paths(rigged))
    count = len(rigged.parents)
    animation.CreateScalesAttr(pxr.Vt.Vec3hArray(count, pxr.Gf.Vec3h(1, 1, 1)))
    turns, moves = animation.CreateRotationsAttr(), animation.CreateTranslationsAttr()
    offsets = np.broadcast_to(rigged.offsets, (rigged.frame_count, count, 3)).copy()
    offsets[:, 0] += rigged.trans
    for frame, (turned, placed) in enumerate(zip(quaternions(rigged), offsets, strict=True)):
        values = [pxr.Gf.Quatf(float(w), float(x), float(y), float(z)) for x, y, z, w in turned]
        turns.Set(pxr.Vt.QuatfArray(values), frame)
        moves.Set(_vec3s(pxr, placed), frame)
    if morphs is not None:
        animation.CreateBlendShapesAttr([f"offset_{k}" for k in range(len(morphs.offsets))])
        weights = animation.CreateBlendShapeWeightsAttr()
        for frame, row in enumerate(morphs.weights):
            weights.Set(pxr.Vt.FloatArray.FromNumpy(np.ascontiguousarray(row)), frame)
    return animation


def _vec3s(pxr: Any, values: np.ndarray) -> Any:
    return pxr.Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(values, np.float32))
