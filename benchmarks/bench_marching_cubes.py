"""From a signed distance, or its values on a lattice, to a mesh; a body of capsules on the lattices of the schedule.

"extraction" is the whole way: ours asks for the values it needs, PyTorch3D needs all of them, and scikit-image gets
them for nothing. "values given" leaves the values out on every side; "cells given" leaves out the search for the
crossed cells too and takes the gradient from the vertices to the values along. The reference goes from cell to cell in
Python. The lattice of values that an implementation is given is not part of its peak memory.
"""

from functools import cache

import torch

from selfrecon_warp.benchmarks.bench_sparse_grid import fewest_queries, queries_alone, resolution
from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Bound, Case, Only, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import LATTICES, body_distance, box, dense_field
from selfrecon_warp.kernels import marching_cubes as warp_op
from selfrecon_warp.kernels.reference import marching_cubes as reference
from selfrecon_warp.kernels.sparse_grid import GridWorkspace, evaluate_sparse

WAYS = {"extraction": (FORWARD,), "values given": (FORWARD,), "cells given": (FORWARD, BACKWARD)}


def case(lattice: str, way: str) -> Case:
    X, Y, Z = LATTICES[lattice]
    skip = [] if (lattice, way) == ("quick", "cells given") else ["torch"]
    skip += ["pytorch3d", "scikit-image"] if way == "cells given" else []
    return Case(
        f"{X}x{Y}x{Z}, {way}",
        {"X": X, "Y": Y, "Z": Z, "way": way, "mode": "lossless"},
        quick=lattice == "quick" or (lattice, way) == ("coarse", "extraction"),
        skip=skip if way == "extraction" else [*skip, "ours, fresh buffers"],
        once=("torch",) + (("pytorch3d",) if lattice == "fine" else ()),
        directions=WAYS[way],
    )


CASES = [case(lattice, way) for lattice in LATTICES for way in WAYS]


@cache
def given_values(resolution: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    return dense_field(resolution, device)


def megabytes(values: torch.Tensor) -> str:
    return f"given values: {values.nbytes / 2**20:.0f} MB"


def ours(case: Case, direction: str, device: torch.device) -> Prepared:
    lower, upper = box(device)
    if case["way"] == "values given":
        values = given_values(resolution(case), device)
        return Prepared(lambda: warp_op.marching_cubes(values, lower, upper), megabytes(values))
    workspace = GridWorkspace(resolution(case), device)
    grid = evaluate_sparse(body_distance, lower, upper, resolution(case), workspace=workspace)
    if case["way"] == "cells given":
        return timed(lambda v: warp_op.marching_cubes(v, lower, upper, cells=grid.cells), [grid.values], direction)

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        grid = evaluate_sparse(body_distance, lower, upper, resolution(case), workspace=workspace)
        return warp_op.marching_cubes(grid.values, lower, upper, cells=grid.cells)

    return Prepared(call, f"{grid.queries:,} queries in {grid.calls} calls, {len(grid.cells):,} cells")


def fresh(case: Case, _direction: str, device: torch.device) -> Prepared:
    """Ours without buffers kept from call to call."""
    lower, upper = box(device)

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        grid = evaluate_sparse(body_distance, lower, upper, resolution(case))
        return warp_op.marching_cubes(grid.values, lower, upper, cells=grid.cells)

    return Prepared(call)


def torch_reference(case: Case, direction: str, device: torch.device) -> Prepared:
    lower, upper = box(device)
    grid = evaluate_sparse(body_distance, lower, upper, resolution(case))
    return timed(lambda v: reference.marching_cubes(v, lower, upper, cells=grid.cells), [grid.values], direction)


def pytorch3d(case: Case, _direction: str, device: torch.device) -> Prepared:
    """Dense evaluation and PyTorch3D's marching cubes, which has no gradient."""
    from pytorch3d.ops.marching_cubes import marching_cubes

    if case["way"] == "extraction":
        return Prepared(lambda: marching_cubes(dense_field(resolution(case), device)[None], 0.0))
    values = given_values(resolution(case), device)
    return Prepared(lambda: marching_cubes(values[None], 0.0), megabytes(values))


def diso(case: Case, direction: str, device: torch.device) -> Prepared | None:
    """The differentiable marching cubes of that name, of the values at all nodes."""
    from diso import DiffMC

    if case["way"] == "extraction":
        return None
    extract, values = DiffMC(dtype=torch.float32).to(device), given_values(resolution(case), device)
    return timed(lambda v: extract(v, None, normalize=False)[0], [values], direction)


def scikit_image(case: Case, _direction: str, device: torch.device) -> Prepared:
    """Marching cubes of the values at all nodes."""
    from skimage.measure import marching_cubes

    values = given_values(resolution(case), device)
    return Prepared(lambda: marching_cubes(values.cpu().numpy(), 0.0), megabytes(values))


def bound(case: Case, direction: str, device: torch.device) -> Bound:
    corners = fewest_queries(resolution(case))
    if case["way"] == "extraction":
        count, milliseconds = queries_alone(case, device)
        return Bound(f"{count:,} queries of the SDF, alone", milliseconds=milliseconds)
    mesh = corners / 2 * (12 + 2 * 12)  # about half as many vertices as corners, and twice as many faces as vertices
    if case["way"] == "values given":
        nodes = case["X"] * case["Y"] * case["Z"]
        return Bound("reads every value, writes the mesh", bytes=4.0 * nodes + mesh)
    passes = 1 if direction == FORWARD else 2
    return Bound("reads the cells' values, writes the mesh; both again backward", bytes=(4.0 * corners + mesh) * passes)


BENCHMARK = Benchmark(
    op="marching_cubes",
    cases=CASES,
    implementations={
        "ours": ours,
        "ours, fresh buffers": fresh,
        "torch": torch_reference,
        "pytorch3d": pytorch3d,
        "diso": Only("cuda", diso),
        "scikit-image": scikit_image,
    },
    items=lambda case: (fewest_queries(resolution(case)), "needed values"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
