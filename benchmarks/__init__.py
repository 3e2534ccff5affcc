"""Timing of the kernels beside what one would otherwise use; ``selfrecon bench`` runs it.

:mod:`~selfrecon_warp.benchmarks.harness` defines the form of a benchmark; :mod:`~selfrecon_warp.benchmarks.runner` runs
the ``bench_*`` files, through the processes of :mod:`~selfrecon_warp.benchmarks.children`;
:mod:`~selfrecon_warp.benchmarks.report` draws table and plot; :mod:`~selfrecon_warp.benchmarks.scenes` makes the meshes
and fields they share.
"""
