"""Nearest neighbours: samples around a body against its vertices, and dense clouds against each other.

6,890 vertices are a body template's; 100k queries are the samples of a scored frame, with 30 neighbours those of a
skinning volume. Queries lie within a centimetre or so of the surface, or anywhere in the body's box ("far"). "kept
tree" asks a tree that stands already. scipy's ``cKDTree`` uses all threads and counts in float64, as it always does.
"""

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Only, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import BOX, cloud
from selfrecon_warp.kernels import neighbours as warp_op
from selfrecon_warp.kernels.internal.point_tree import PointTree
from selfrecon_warp.kernels.reference import neighbours as reference

BODY = {"P": 100_000, "Q": 6_890, "K": 1, "far": False, "what": "both"}
DENSE = BODY | {"P": 200_000, "Q": 200_000}
SLOW = ("torch", "pytorch3d")
CASES = (
    Case("2k x 2k, K = 1", BODY | {"P": 2_000, "Q": 2_000}, quick=True),
    Case("10k x 6,890, K = 1", BODY | {"P": 10_000}, quick=True, skip=("torch",)),
    Case("100k x 6,890, K = 1", BODY, skip=("torch",), once=("pytorch3d",)),
    Case("100k x 6,890, K = 30", BODY | {"K": 30}, skip=("torch",), once=("pytorch3d",)),
    Case("100k far x 6,890, K = 1", BODY | {"far": True}, skip=SLOW),
    Case("100k far x 6,890, K = 30", BODY | {"far": True, "K": 30}, skip=SLOW),
    Case("100k x 6,890, K = 1, kept tree", BODY | {"what": "query"}, skip=SLOW, directions=(FORWARD,)),
    Case("200k x 200k, K = 1", DENSE, skip=SLOW),
    Case("200k x 200k, K = 30", DENSE | {"K": 30}, skip=SLOW),
    Case("200k x 200k, K = 1, kept tree", DENSE | {"what": "query"}, skip=SLOW, directions=(FORWARD,)),
    Case("chamfer 2k", BODY | {"P": 2_000, "Q": 2_000, "what": "chamfer"}),
    Case(
        "chamfer 10k",
        BODY | {"P": 10_000, "Q": 10_000, "what": "chamfer"},
        quick=True,
        skip=("torch",),
        once=("pytorch3d",),
    ),
    Case("chamfer 50k", BODY | {"P": 50_000, "Q": 50_000, "what": "chamfer"}, skip=("torch",), once=("pytorch3d",)),
    Case("chamfer 3 x 50k", BODY | {"P": 50_000, "Q": 50_000, "what": "chamfer", "B": 3}, skip=SLOW),
)


def clouds(case: Case, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries ``[B, P, 3]`` and points ``[B, Q, 3]`` [m]."""
    frames = case.sizes.get("B", 1)
    queries = anywhere(case["P"]) if case["far"] else cloud(frames * case["P"], device)
    points = cloud(frames * case["Q"], device, spread=0.0, seed=1)
    return queries.to(device).view(frames, -1, 3), points.view(frames, -1, 3)


def anywhere(count: int) -> torch.Tensor:
    """Points in the body's box."""
    low, high = torch.tensor(BOX)
    return low + (high - low) * torch.rand(count, 3)


def ours(case: Case, direction: str, device: torch.device) -> Prepared:
    inputs = clouds(case, device)
    if case["what"] == "query":
        tree = PointTree(inputs[1])
        return Prepared(lambda: tree.nearest(inputs[0], case["K"]))
    return searched(warp_op, case, direction, inputs)


def plain(case: Case, direction: str, device: torch.device) -> Prepared | None:
    return None if case["what"] == "query" else searched(reference, case, direction, clouds(case, device))


def searched(module, case: Case, direction: str, inputs) -> Prepared:
    """Neighbours or chamfer distance with one module's functions."""
    if case["what"] == "chamfer":
        return timed(lambda a, b: module.chamfer_distance(a, b)[0], inputs, direction)
    return timed(lambda a, b: module.nearest_neighbours(a, b, case["K"]), inputs, direction)


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared | None:
    from pytorch3d.loss import chamfer_distance
    from pytorch3d.ops import knn_points

    if case["what"] == "query":
        return None
    inputs = clouds(case, device)
    if case["what"] == "chamfer":
        return timed(lambda a, b: chamfer_distance(a, b)[0], inputs, direction)
    return timed(lambda a, b: knn_points(a, b, K=case["K"])[:2], inputs, direction)


def scipy(case: Case, direction: str, device: torch.device) -> Prepared | None:
    from scipy.spatial import cKDTree

    if direction != FORWARD:
        return None
    pairs = [(q.double().numpy(), p.double().numpy()) for q, p in zip(*clouds(case, device), strict=True)]
    workers = torch.get_num_threads()
    if case["what"] == "query":
        trees = [(q, cKDTree(p)) for q, p in pairs]
        return Prepared(lambda: [tree.query(q, case["K"], workers=workers) for q, tree in trees])
    if case["what"] == "chamfer":
        pairs = pairs + [(p, q) for q, p in pairs]
    return Prepared(lambda: [cKDTree(p).query(q, case["K"], workers=workers) for q, p in pairs])


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    frames = case.sizes.get("B", 1)
    inputs = 12 * (case["P"] + case["Q"])
    found = 12 * case["P"] * case["K"] + (12 * case["Q"] if case["what"] == "chamfer" else 0)
    passes = 1 if direction == FORWARD else 3
    return Bound("reads both clouds, writes distances and indices", bytes=float(frames * (inputs + found) * passes))


def items(case: Case) -> tuple[float, str]:
    both = case["Q"] if case["what"] == "chamfer" else 0
    return case.sizes.get("B", 1) * (case["P"] + both), "queries"


BENCHMARK = Benchmark(
    op="neighbours",
    cases=CASES,
    implementations={"ours": ours, "torch": plain, "pytorch3d": pytorch3d, "scipy": Only("cpu", scipy)},
    items=items,
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
