"""The explicit branch: a canonical mesh with its own optimiser, fitted to the silhouettes between two extractions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selfrecon_warp.kernels.contour import MeshEdges, mesh_edges
from selfrecon_warp.surface.mesh import Smoothing


@dataclass
class ExplicitMesh:
    """Vertices that move by their own first-order optimiser until the next extraction.

    The gradient is smoothed over the mesh and divided by one second moment for all vertices, so that a step is a smooth
    field of about ``learning_rate``: no folds, no noise.

    Source: SelfRecon, section 3.2; preconditioning after Nicolet et al. 2021, Large Steps in Inverse Rendering.
    """

    vertices: Tensor
    faces: Tensor
    weights: Tensor
    edges: MeshEdges
    smoothing: Smoothing
    momentum: Tensor
    scale: Tensor
    steps: int = 0

    @classmethod
    def start(cls, vertices: Tensor, faces: Tensor, weights: Tensor) -> ExplicitMesh:
        """Begin at extracted ``vertices [V, 3]``, ``faces [F, 3]`` with skinning ``weights [V, J]``."""
        edges = mesh_edges(faces)
        return cls(
            vertices.detach().clone().requires_grad_(),
            faces,
            weights,
            edges,
            Smoothing(edges.vertex_index, len(vertices)),
            torch.zeros_like(vertices),
            vertices.new_zeros(()),
        )

    @torch.no_grad()
    def descend(self, learning_rate: float, momentum: float = 0.9) -> None:
        """One step of gradient descent with momentum along ``vertices.grad``, which is consumed: the published step."""
        if self.vertices.grad is None:
            return
        self.momentum.mul_(momentum).add_(self.vertices.grad)
        self.vertices -= learning_rate * self.momentum
        self.vertices.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float, passes: int) -> None:
        """One step along the smoothed gradient in ``vertices.grad``, which is consumed."""
        gradient = self.vertices.grad
        if gradient is None:
            return
        gradient = self.smoothing(gradient, passes)
        self.steps += 1
        self.momentum.mul_(0.9).add_(gradient, alpha=0.1)
        self.scale.mul_(0.99).add_(0.01 * gradient.square().sum(-1).max())
        first = self.momentum / (1.0 - 0.9**self.steps)
        second = self.scale / (1.0 - 0.99**self.steps)
        self.vertices -= learning_rate * first / (second.sqrt() + 1e-12)
        self.vertices.grad = None
