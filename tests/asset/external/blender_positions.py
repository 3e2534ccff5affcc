"""Runs inside Blender: world positions of an imported file's skinned mesh in some frames, y up, as an npz file.

``blender --background --python blender_positions.py -- FILE OUT.npz RATE FRAME ...``
"""

import sys

import bpy
import numpy as np

if not hasattr(np, "bool"):
    # Blender 3.4 of Debian 12 asks for a name that the NumPy 1.24 beside it has dropped.
    setattr(np, "bool", np.bool_)  # noqa: B010

source, target, rate, *frames = sys.argv[sys.argv.index("--") + 1 :]
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.fps = round(float(rate))
if source.endswith(".fbx"):
    bpy.ops.import_scene.fbx(filepath=source, anim_offset=0.0)
else:
    bpy.ops.import_scene.gltf(filepath=source)
(body,) = [thing for thing in bpy.data.objects if thing.type == "MESH" and thing.vertex_groups]
found = {"bones": np.array([bone.name for bone in next(iter(bpy.data.armatures)).bones])}
found["images"] = np.array([image.size for image in bpy.data.images])
for frame in frames:
    scene.frame_set(int(frame))
    evaluated = body.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = evaluated.to_mesh()
    points = np.zeros(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", points)
    world = np.array(evaluated.matrix_world)
    x, y, z = (points.reshape(-1, 3) @ world[:3, :3].T + world[:3, 3]).T
    found[frame] = np.stack((x, z, -y), 1)  # Blender's z is up
np.savez(target, **found)
