"""One phone video of a person turning around in, a clothed, rigged avatar out.

The pipeline, in data order: :mod:`~selfrecon_warp.capture` reads images, masks, normals, camera and body poses;
:mod:`~selfrecon_warp.model` holds what is learned (canonical signed-distance field, offset and skinning, appearance);
:mod:`~selfrecon_warp.surface` carries it to pixels (extraction, rasterisation, ray intersection);
:mod:`~selfrecon_warp.train` fits it; :mod:`~selfrecon_warp.view` shows and exports it. The operations that cost the
time are NVIDIA Warp kernels in :mod:`~selfrecon_warp.kernels`.
"""

__version__ = "0.1.0"
