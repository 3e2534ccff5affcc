"""Sparse evaluation of a signed distance, with a body of capsules whose own cost is small but not nothing.

Lattices are those of a fast fit and of the paper's schedule. "warm" starts from the surface half a cell away, "fast"
leaves the last level to interpolation; "torch" and "dense" ask for every node, "torch" as the reference does it, in one
piece. Throughput counts the corners of the crossed cells, which any method has to ask for.
"""

from functools import cache

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Prepared, main, measure
from selfrecon_warp.benchmarks.scenes import LATTICES, body_distance, box, dense_field
from selfrecon_warp.kernels.reference import sparse_grid as reference
from selfrecon_warp.kernels.sparse_grid import GridWorkspace, SparseGrid, evaluate_sparse


def case(lattice: str, mode: str) -> Case:
    X, Y, Z = LATTICES[lattice]
    skip = ["torch"] if lattice == "fine" else []
    return Case(
        f"{X}x{Y}x{Z}, {mode}",
        {"X": X, "Y": Y, "Z": Z, "mode": mode},
        quick=lattice == "quick",
        skip=skip if mode == "lossless" else ["torch", "dense"],
        directions=(FORWARD,),
    )


CASES = [case(lattice, mode) for lattice in LATTICES for mode in ("lossless", "warm", "fast")]


def resolution(case: Case) -> tuple[int, int, int]:
    return case["X"], case["Y"], case["Z"]


def corners(grid: SparseGrid) -> int:
    """Nodes around the crossed cells."""
    _, Y, Z = grid.values.shape
    offsets = [x * Y * Z + y * Z + z for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    return len(torch.cat([grid.cells + offset for offset in offsets]).unique())


@cache
def fewest_queries(resolution: tuple[int, int, int]) -> int:
    return corners(evaluate_sparse(body_distance, *box("cpu"), resolution))


def options(case: Case, device: torch.device) -> dict[str, object]:
    """How a case calls the operation: an earlier surface, moved by half a cell, for a warm start."""
    if case["mode"] != "warm":
        return {"mode": case["mode"]}
    lower, upper = box(device)
    grid = evaluate_sparse(body_distance, lower, upper, resolution(case))
    low = torch.stack(torch.unravel_index(grid.cells, resolution(case)), dim=1)
    spacing = (upper - lower) / (lower.new_tensor(resolution(case)) - 1)
    return {"seeds": lower + (low + 0.5) * spacing + 0.5 * spacing.min() / 3**0.5}


def ours(case: Case, _direction: str, device: torch.device) -> Prepared:
    lower, upper = box(device)
    workspace, given = GridWorkspace(resolution(case), device), options(case, device)

    def call() -> SparseGrid:
        return evaluate_sparse(body_distance, lower, upper, resolution(case), workspace=workspace, **given)

    grid = call()
    fewest = corners(grid)
    return Prepared(call, f"{grid.queries:,} queries in {grid.calls} calls, {grid.queries / fewest:.2f} of the fewest")


def torch_reference(case: Case, _direction: str, device: torch.device) -> Prepared:
    lower, upper = box(device)
    return Prepared(lambda: reference.evaluate_sparse(body_distance, lower, upper, resolution(case)))


def dense(case: Case, _direction: str, device: torch.device) -> Prepared:
    return Prepared(lambda: dense_field(resolution(case), device), f"{case['X'] * case['Y'] * case['Z']:,} queries")


def queries_alone(case: Case, device: torch.device) -> tuple[int, float]:
    """How many points the SDF is asked for, and the milliseconds it takes them alone."""
    points = []

    def recorded(part: torch.Tensor) -> torch.Tensor:
        points.append(part)
        return body_distance(part)

    evaluate_sparse(recorded, *box(device), resolution(case), **options(case, device))
    alone = measure(lambda: [body_distance(part) for part in points], device)
    return sum(map(len, points)), alone.median_ms


def bound(case: Case, _direction: str, device: torch.device) -> Bound:
    count, milliseconds = queries_alone(case, device)
    return Bound(f"{count:,} queries of the SDF, alone", milliseconds=milliseconds)


BENCHMARK = Benchmark(
    op="sparse_grid",
    cases=CASES,
    implementations={"ours": ours, "torch": torch_reference, "dense": dense},
    items=lambda case: (fewest_queries(resolution(case)), "needed values"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
