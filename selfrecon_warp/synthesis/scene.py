"""Camera, backdrop and light: from a posed person to a photograph, its mask and its normals."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from selfrecon_warp.kernels.rasterize import rasterize, visible_faces
from selfrecon_warp.synthesis.figure import Figure, Posed, looking
from selfrecon_warp.synthesis.mesh_tools import Array, Index, dot, unit
from selfrecon_warp.synthesis.noise import NoiseVolume, smoothstep

SUPERSAMPLE = 2
SENSOR_NOISE = 0.006
SHADOW_SIZE = 640
FLOOR_SIZE = 256
FLOOR_REACH = 1.6  # metres about the person in which the floor takes shadows


@dataclass(frozen=True)
class Camera:
    """Pinhole camera at the world's origin, looking along +z with y down: square pixels, integer pixel centres."""

    size: int
    focal: float
    cx: float
    cy: float

    def project(self, points: Array) -> Array:
        """World points to (u, v, depth), ``[P, 3]`` -> ``[P, 3]``."""
        z = points[:, 2]
        return np.stack((self.cx + self.focal * points[:, 0] / z, self.cy + self.focal * points[:, 1] / z, z), 1)

    def rays(self) -> Array:
        """Directions with unit depth through every pixel, ``[H, W, 3]``."""
        u, v = np.meshgrid(np.arange(self.size), np.arange(self.size))
        return np.stack(((u - self.cx) / self.focal, (v - self.cy) / self.focal, np.ones_like(u)), -1).astype(
            np.float32
        )


@dataclass(frozen=True)
class Light:
    """A distant light.

    Attributes:
        direction: Towards it, unit (world, y down), ``[3]``.
        colour: Linear, ``[3]``.
        softness: Radius over which its shadow blurs [m]; 0 for no shadow.
    """

    direction: Array
    colour: Array
    softness: float


@dataclass(frozen=True)
class Photograph:
    """One rendered frame.

    Attributes:
        image: sRGB in [0, 1], ``[H, W, 3]``.
        mask: Exact, ``[H, W]``.
        normals: Exact (right, up, towards the camera), 0 outside the mask, ``[H, W, 3]``.
    """

    image: Array
    mask: NDArray[np.bool_]
    normals: Array


def linear(colour: Array) -> Array:
    """SRGB in [0, 1] to linear light."""
    return np.asarray(
        np.where(colour <= 0.04045, colour / 12.92, ((np.maximum(colour, 0) + 0.055) / 1.055) ** 2.4), np.float32
    )


def encoded(light: Array) -> Array:
    """Linear light to sRGB, clipped to [0, 1]."""
    x = np.clip(light, 0, 1)
    return np.asarray(np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055), np.float32)


class Studio:
    """A wall, a floor and soft light from above, the side and all around.

    Args:
        rng: Source of colours, mottle and light directions.
        camera: The camera.
        floor: Height of the floor (world y, down) [m].
        depth: Where the person stands [m].
        noise: Source of the backdrop's mottle.
    """

    def __init__(
        self, rng: np.random.Generator, camera: Camera, floor: float, depth: float, noise: NoiseVolume
    ) -> None:
        self.camera, self.floor, self.depth = camera, floor, depth
        side = rng.choice([-1.0, 1.0])
        warm = rng.uniform(0.0, 0.06)
        key = unit(np.array([side * rng.uniform(0.45, 0.75), -0.85, -rng.uniform(0.55, 0.8)], np.float32))
        fill = unit(np.array([-side * 0.8, -0.35, -0.6], np.float32))
        rim = unit(np.array([-side * 0.5, -0.7, 0.7], np.float32))
        self.lights = [
            Light(key, np.array([1.0 + warm, 1.0, 1.0 - warm], np.float32) * 0.78, 0.028),
            Light(fill, np.array([0.95, 0.98, 1.05], np.float32) * 0.20, 0.0),
            Light(rim, np.array([1.0, 1.0, 1.0], np.float32) * 0.16, 0.0),
        ]
        self.sky = np.array([0.50, 0.51, 0.53], np.float32)
        self.ground = np.array([0.26, 0.24, 0.22], np.float32)
        self._backdrop, self._floor_place = self._paint_backdrop(rng, noise)

    def _paint_backdrop(self, rng: np.random.Generator, noise: NoiseVolume) -> tuple[Array, Array]:
        size = self.camera.size
        rays = self.camera.rays().reshape(-1, 3)
        wall_depth = self.depth + 1.25
        reach = np.where(rays[:, 1] > 1e-4, self.floor / np.maximum(rays[:, 1], 1e-4), np.inf)
        on_floor = reach < wall_depth
        points = rays * np.where(on_floor, reach, wall_depth)[:, None]
        tone = rng.uniform(0.55, 0.80)
        wall = tone * np.array([1.0, rng.uniform(0.97, 1.0), rng.uniform(0.92, 1.0)], np.float32)
        boards = rng.uniform(0.30, 0.45) * np.array([1.0, rng.uniform(0.82, 0.95), rng.uniform(0.65, 0.9)], np.float32)
        mottle = 0.030 * noise.fractal(points, 5.0, 3) + 0.018 * noise.fractal(points, 28.0, 2)
        grain = 0.05 * noise.fractal(points * np.array([1.0, 1.0, 6.0], np.float32), 4.0, 3)
        colour = np.where(
            on_floor[:, None], linear(boards) * (1 + grain)[:, None], linear(wall) * (1 + mottle)[:, None]
        )
        corner = np.exp(-np.abs(self.floor - points[:, 1]) / 0.25) * ~on_floor + on_floor * np.exp(
            (points[:, 2] - wall_depth) / 0.3
        )
        skirting = ~on_floor & (self.floor - points[:, 1] < 0.07)
        colour = np.where(skirting[:, None], linear(wall * 0.9), colour)
        falloff = 1 - 0.18 * ((rays[:, :2] * self.camera.focal / size) ** 2).sum(1) - 0.22 * corner
        place = np.where(on_floor[:, None], points[:, [0, 2]], np.nan)
        backdrop = (colour * falloff[:, None]).reshape(size, size, 3)
        return backdrop.astype(np.float32), place.reshape(size, size, 2).astype(np.float32)

    def photograph(self, figure: Figure, posed: Posed, rng: np.random.Generator) -> Photograph:
        """Picture, mask and exact normals of one frame."""
        size = self.camera.size
        mask, normals = self.mask_and_normals(figure, posed)
        screen = self.camera.project(posed.vertices)
        margin = 2
        low = np.clip(np.floor(screen[:, :2].min(0)) - margin, 0, size - 1).astype(int)
        high = np.clip(np.ceil(screen[:, :2].max(0)) + margin, 1, size).astype(int)
        extent = np.maximum(high - low, 1)
        scale = SUPERSAMPLE
        fine = screen.copy()
        fine[:, :2] = (screen[:, :2] - low) * scale + (scale - 1) / 2
        drawn = rasterize(
            torch.from_numpy(fine[None].astype(np.float32)),
            torch.from_numpy(figure.faces),
            int(extent[1]) * scale,
            int(extent[0]) * scale,
        )
        hit = drawn.face_index[0].numpy()
        place = hit >= 0
        light = np.zeros((*hit.shape, 3), np.float32)
        light[place] = self.shade(figure, posed, hit[place], drawn.barycentrics[0].numpy()[place])
        block = (extent[1], scale, extent[0], scale)
        cover = place.reshape(block).mean((1, 3))[..., None]
        light = light.reshape(*block, 3).mean((1, 3))
        picture = self._backdrop * (1 - self._floor_shadow(figure, posed))[..., None]
        window = (slice(low[1], high[1]), slice(low[0], high[0]))
        picture[window] = picture[window] * (1 - cover) + light
        image = encoded(picture) + SENSOR_NOISE * rng.standard_normal((size, size, 3), dtype=np.float32)
        return Photograph(np.clip(image, 0, 1).astype(np.float32), mask, normals)

    def mask_and_normals(self, figure: Figure, posed: Posed) -> tuple[NDArray[np.bool_], Array]:
        """Exact mask ``[H, W]`` and normals ``[H, W, 3]`` at the pixel centres; normals outside the mask are zero."""
        size = self.camera.size
        screen = torch.from_numpy(self.camera.project(posed.vertices)[None].astype(np.float32))
        drawn = rasterize(screen, torch.from_numpy(figure.faces), size, size)
        hit = drawn.face_index[0].numpy()
        mask = hit >= 0
        corners = figure.faces[hit[mask]]
        smooth = unit(np.einsum("rkc,rk->rc", posed.normals[corners], drawn.barycentrics[0].numpy()[mask]))
        ray = unit(self.camera.rays()[mask])
        smooth = np.where((dot(smooth, ray) > 0)[:, None], -smooth, smooth)
        normals = np.zeros((size, size, 3), np.float32)
        normals[mask] = smooth * np.array([1, -1, -1], np.float32)
        return mask, normals

    def shade(self, figure: Figure, posed: Posed, face: Index, barycentrics: Array) -> Array:
        """Linear light leaving the given places towards the camera, ``[R, 3]``."""
        corners = figure.faces[face]

        def at(values: Array) -> Array:
            return np.asarray(np.einsum("rk...,rk->r...", values[corners], barycentrics), np.float32)

        ambient, _ = figure.visibility
        points, normal = at(posed.vertices), unit(at(posed.normals))
        view = -unit(points)
        normal = np.where((dot(normal, view) < 0)[:, None], -normal, normal)
        rest = at(figure.chart)
        rest_normal = unit(at(figure.lift))
        owner = figure.face_layer[face]
        albedo = np.zeros((len(face), 3), np.float32)
        gloss, sharpness, wrap = (np.zeros((len(face), 1), np.float32) for _ in range(3))
        bounce = np.ones((len(face), 3), np.float32)
        for index, layer in enumerate(figure.layers):
            mine = owner == index
            if mine.any():
                finish = layer.finish
                albedo[mine] = linear(finish.colour(rest[mine], rest_normal[mine]))
                gloss[mine], sharpness[mine], wrap[mine] = finish.gloss, finish.sharpness, finish.wrap
                bounce[mine] = finish.bounce
        hollow = smoothstep(-0.007, 0.004, at(posed.relief))
        occlusion = (np.clip(at(ambient), 0, 1) ** 0.9 * (0.80 + 0.20 * hollow))[:, None]
        up = (0.5 - 0.5 * normal[:, 1])[:, None]
        total = albedo * occlusion * (self.ground + (self.sky - self.ground) * up)
        for light in self.lights:
            lit = (normal @ light.direction)[:, None]
            shadow = (
                self._shadow(figure, posed, light, points, normal)[:, None]
                if light.softness
                else 0.35 + 0.65 * occlusion
            )
            hard = np.clip(lit, 0, 1)
            soft = np.clip((lit + wrap) / (1 + wrap), 0, 1)
            diffuse = hard + (soft - hard) * bounce
            half = unit(light.direction + view)
            shine = gloss * np.clip(dot(normal, half)[:, None], 0, 1) ** sharpness * hard
            total = total + (albedo * diffuse + shine) * light.colour * shadow
        edge = (1 - np.clip(dot(normal, view)[:, None], 0, 1)) ** 4
        return np.asarray(total + 0.05 * edge * occlusion * self.sky, np.float32)

    def _shadow(self, figure: Figure, posed: Posed, light: Light, points: Array, normal: Array) -> Array:
        """How much of a light reaches each point, ``[R]``, by a blurred depth comparison in the light's view."""
        view = looking(light.direction)
        middle = (posed.vertices.min(0) + posed.vertices.max(0)) / 2
        local = (posed.vertices - middle) @ view.T
        scale = 0.96 * SHADOW_SIZE / 2 / np.abs(local[:, :2]).max()
        screen = np.concatenate((local[:, :2] * scale + SHADOW_SIZE / 2, local[:, 2:] + 10), 1).astype(np.float32)
        drawn = rasterize(torch.from_numpy(screen[None]), torch.from_numpy(figure.faces), SHADOW_SIZE, SHADOW_SIZE)
        depth = np.where(drawn.face_index[0].numpy() >= 0, drawn.depth[0].numpy(), np.float32(99))
        grazing = np.clip(1 - normal @ light.direction, 0, 1)
        probe = (points + (0.004 + 0.010 * grazing)[:, None] * normal - middle) @ view.T
        place = probe[:, :2] * scale + SHADOW_SIZE / 2
        lit = np.zeros(len(points), np.float32)
        taps = 16
        turn = np.arange(taps) * np.pi * (3 - np.sqrt(5))
        disc = np.sqrt((np.arange(taps) + 0.5) / taps)[:, None] * np.stack((np.cos(turn), np.sin(turn)), 1)
        for step in disc * light.softness * scale:
            pixel = np.clip(np.rint(place + step).astype(np.int32), 0, SHADOW_SIZE - 1)
            reach = depth[pixel[:, 1], pixel[:, 0]] - (probe[:, 2] + 10)
            lit += smoothstep(-0.016, -0.006, reach)
        return lit / taps

    def _floor_shadow(self, figure: Figure, posed: Posed) -> Array:
        """Share of light the person takes from the floor, ``[H, W]``: contact shadow and the key light's shadow."""
        height = self.floor - posed.vertices[:, 1]
        pixels = (FLOOR_SIZE - 1) / (2 * FLOOR_REACH)
        centre = np.array([0.0, self.depth], np.float32)
        below = (posed.vertices[:, [0, 2]] - centre + FLOOR_REACH) * pixels
        faces = torch.from_numpy(figure.faces)
        screen = np.concatenate((below, height[:, None] + 1.0), 1).astype(np.float32)
        drawn = rasterize(torch.from_numpy(screen[None]), faces, FLOOR_SIZE, FLOOR_SIZE)
        near = np.where(drawn.face_index[0].numpy() >= 0, np.exp(-(drawn.depth[0].numpy() - 1.0) / 0.12), 0)
        contact = 0.55 * gaussian_filter(near, 1.2) + 0.9 * gaussian_filter(near, 6.0)
        key = self.lights[0].direction
        cast = posed.vertices[:, [0, 2]] + key[[0, 2]] / key[1] * height[:, None]
        screen[:, :2] = (cast - centre + FLOOR_REACH) * pixels
        shadow = (visible_faces(torch.from_numpy(screen[None]), faces, FLOOR_SIZE, FLOOR_SIZE)[0].numpy() >= 0).astype(
            np.float32
        )
        shade = np.clip(0.75 * np.clip(contact, 0, 1) + 0.33 * gaussian_filter(shadow, 3.0), 0, 0.9).astype(np.float32)
        place = np.nan_to_num((self._floor_place - centre + FLOOR_REACH) * pixels, nan=-9.0).astype(np.float32)
        return np.asarray(
            cv2.remap(shade, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        )
