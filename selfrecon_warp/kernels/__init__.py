"""The Warp layer, a library of its own: torch tensors in, torch tensors out; ``docs/kernels.md`` is its guide.

Importing this package initialises Warp once; nothing else runs at import. Every operation works on CPU and CUDA
tensors, in float32 and float64, launches on the stream that owns its inputs, states its order of differentiability and
names the argument when one is wrong.
"""

import warp as wp

wp.config.log_level = wp.LOG_WARNING
wp.init()

OPERATIONS = {
    "rasterize": ("rasterize", "visible_faces", "pixel_barycentrics", "interpolate"),
    "rasterize_layers": ("rasterize_layers",),
    "paint": ("paint_texture", "paint_vertices"),
    "silhouette": ("antialiased_silhouette", "blended_silhouette", "splatted_silhouette"),
    "best_views": ("best_views",),
    "contour": ("mesh_edges", "silhouette_edges", "contour_edges", "contour_points", "nearest_contour"),
    "splat": ("splat_points", "splat_lists"),
    "compositing": ("composite_alpha", "composite_weighted"),
    "mesh": ("face_normals", "face_areas", "vertex_normals", "edge_lengths"),
    "mesh_losses": ("loss_edge_length", "loss_normal_consistency"),
    "laplacian": ("laplacian_uniform", "laplacian_cotangent", "loss_laplacian"),
    "topology": ("mesh_topology",),
    "neighbours": ("nearest_neighbours", "chamfer_distance"),
    "closest_point": ("closest_point",),
    "point_mesh": ("point_mesh_distance", "mesh_point_distance", "loss_point_mesh", "loss_point_edges"),
    "marching_cubes": ("marching_cubes",),
    "sparse_grid": ("evaluate_sparse",),
    "skinning": ("skin_points", "skin_points_jacobian"),
    "inverse_skinning": ("unskin_points", "unskin_points_in_volume"),
    "weight_field": ("build_weight_field",),
    "grid_sample": ("grid_sample", "grid_sample_jacobian"),
    "encode": ("encode_grid", "encode_grid_jacobian"),
    "intersection": ("ray_step", "implicit_gradient"),
    "small_matrices": ("inverse_3x3", "singular_values_3x3"),
}
"""The public functions by the module that holds them; whatever else a module has serves these."""
