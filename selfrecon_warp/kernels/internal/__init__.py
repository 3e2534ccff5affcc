"""Kernels and device functions behind the operations of :mod:`selfrecon_warp.kernels`.

Nothing here is an operation of its own: reference, test and benchmark are those of the operations that use it.
"""
