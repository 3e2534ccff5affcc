import pytest
import torch
from scipy import sparse

from selfrecon_warp.train.normal_equations import NormalEquations

D, S = 4, 3


def filled(frames: int, shared_as=lambda rows: rows):
    """A random system, and the same as one dense least squares problem ``rows @ x = right``."""
    generator = torch.Generator().manual_seed(frames)
    system = NormalEquations(frames, D, S, torch.zeros(1))
    dense, right = [], []
    for frame in range(frames):
        rows, shared, residual = (torch.randn(12, n, generator=generator) for n in (D, S, 1))
        weight = torch.rand(12, generator=generator) + 0.5
        system.add(frame, rows, shared_as(shared), residual[:, 0], weight)
        whole = torch.zeros(12, frames * D + S)
        whole[:, frame * D : (frame + 1) * D], whole[:, frames * D :] = rows, shared
        dense.append(weight.sqrt()[:, None] * whole)
        right.append(-weight.sqrt() * residual[:, 0])
    rows, values = torch.randn(frames, 5, D, generator=generator), torch.randn(frames, 5, generator=generator)
    system.add_differences(0, frames, rows, values, 2.0)
    for frame in range(frames - 2):
        whole = torch.zeros(5, frames * D + S)
        for step, factor in enumerate((1.0, -2.0, 1.0)):
            whole[:, (frame + step) * D : (frame + step + 1) * D] = factor * rows[frame + step]
        dense.append(2.0**0.5 * whole)
        right.append(-(2.0**0.5) * (values[frame] - 2 * values[frame + 1] + values[frame + 2]))
    return system, torch.cat(dense), torch.cat(right)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 8])
def test_the_solution_is_that_of_least_squares(frames):
    system, rows, right = filled(frames)
    expected = torch.linalg.lstsq(rows.double(), right.double()[:, None]).solution[:, 0].float()
    steps, shared = system.solve()
    torch.testing.assert_close(steps.flatten(), expected[: frames * D], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(shared, expected[frames * D :], atol=1e-3, rtol=1e-3)


def test_sparse_rows_give_the_same_sums():
    dense, _, _ = filled(5)
    sparsely, _, _ = filled(5, lambda rows: sparse.csr_array(rows.numpy()))
    for name in ("mixed", "shared", "shared_right"):
        torch.testing.assert_close(getattr(sparsely, name), getattr(dense, name))


def test_frames_alone_need_no_shared_unknowns():
    system = NormalEquations(3, D, 0, torch.zeros(1))
    rows = torch.eye(D)
    for frame in range(3):
        system.add(frame, rows, None, torch.arange(D).float(), torch.ones(D))
    steps, shared = system.solve()
    torch.testing.assert_close(steps, -torch.arange(D).float().expand(3, D), atol=1e-4, rtol=1e-4)
    assert shared.shape == (0,)


@pytest.mark.parametrize("frames", [2, 5])
def test_deviations_leave_the_mean_free(frames):
    system, rows, right = filled(frames)
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(frames, D, generator=generator)
    values -= values.mean(0)
    weight = torch.tensor([0.0, 2.0, 0.5, 1.0])
    system.add_deviations(values, weight)
    about_mean = torch.eye(frames) - 1.0 / frames  # the mean eliminated by hand
    deviations = torch.kron(about_mean, weight.sqrt().diag())
    dense = torch.cat([rows, torch.nn.functional.pad(deviations, (0, S))])
    expected = torch.linalg.lstsq(
        dense.double(), torch.cat([right, -(values * weight.sqrt()).flatten()]).double()[:, None]
    )
    steps, shared = system.solve()
    whole = torch.cat([steps.flatten(), shared])
    torch.testing.assert_close(whole, expected.solution[:, 0].float(), atol=1e-3, rtol=1e-3)


def test_steps_along_still_directions_sum_to_zero_at_the_least_cost():
    frames = 5
    system, rows, right = filled(frames)
    still = torch.randn(2, frames, D, generator=torch.Generator().manual_seed(8))
    steps, shared = system.solve(still)
    kept = torch.nn.functional.pad(still.flatten(1), (0, S)).double()
    rows, right = rows.double(), right.double()
    saddle = torch.cat([torch.cat([rows.T @ rows, kept.T], 1), torch.cat([kept, kept.new_zeros(2, 2)], 1)])
    expected = torch.linalg.solve(saddle, torch.cat([rows.T @ right, right.new_zeros(2)]))[:-2].float()
    torch.testing.assert_close(torch.cat([steps.flatten(), shared]), expected, atol=1e-3, rtol=1e-3)
