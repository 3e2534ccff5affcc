"""Runs inside Blender: ``blender --background --python blender_to_fbx.py -- IN.glb OUT.fbx FRAMES RATE``."""

import sys
from pathlib import Path

import bpy
import numpy as np

if not hasattr(np, "bool"):
    # Blender 3.4 of Debian 12 asks for a name that the NumPy 1.24 beside it has dropped.
    setattr(np, "bool", np.bool_)  # noqa: B010

source, target, frames, rate = sys.argv[sys.argv.index("--") + 1 :]
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.fps = max(round(float(rate)), 1)
scene.render.fps_base = scene.render.fps / float(rate)
bpy.ops.import_scene.gltf(filepath=source)
for number, image in enumerate(bpy.data.images):
    # The exporter tells textures apart by their files, which images inside a GLB file do not have.
    suffix = ".jpg" if image.file_format == "JPEG" else ".png"
    file = Path(source).with_name(f"texture_{number}{suffix}")
    file.write_bytes(image.packed_file.data)
    image.filepath = str(file)
scene.frame_start, scene.frame_end = 0, int(frames) - 1
bpy.ops.export_scene.fbx(
    filepath=target,
    object_types={"ARMATURE", "MESH"},
    add_leaf_bones=False,
    bake_anim_use_all_actions=False,
    bake_anim_use_nla_strips=False,
    bake_anim_simplify_factor=0.0,
    path_mode="COPY",
    embed_textures=True,
)
