"""Outfits: which garments, cuts, fabrics, hair and shoes go together, drawn at random within each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selfrecon_warp.synthesis import fabric
from selfrecon_warp.synthesis.accessories import eyes, hair, shoes, skin
from selfrecon_warp.synthesis.bottoms import SkirtCut, TrouserCut, skirt, trousers
from selfrecon_warp.synthesis.fabric import Pattern, Rgb
from selfrecon_warp.synthesis.figure import Figure
from selfrecon_warp.synthesis.layers import Layer
from selfrecon_warp.synthesis.looks import (
    eye_finish,
    hair_finish,
    shoe_finish,
    skin_finish,
    skirt_finish,
    top_finish,
    trouser_finish,
)
from selfrecon_warp.synthesis.mesh_tools import Array
from selfrecon_warp.synthesis.noise import NoiseVolume, smoothstep
from selfrecon_warp.synthesis.person import Person, random_betas
from selfrecon_warp.synthesis.tops import TopCut, top

SKIN_TONES: list[Rgb] = [
    (0.88, 0.70, 0.60),
    (0.84, 0.64, 0.52),
    (0.76, 0.56, 0.43),
    (0.62, 0.43, 0.31),
    (0.43, 0.29, 0.21),
]
HAIR_DYES: list[Rgb] = [
    (0.13, 0.09, 0.07),
    (0.24, 0.15, 0.09),
    (0.38, 0.24, 0.13),
    (0.56, 0.40, 0.22),
    (0.42, 0.17, 0.09),
]
IRISES: list[Rgb] = [(0.36, 0.22, 0.12), (0.28, 0.40, 0.52), (0.34, 0.42, 0.26)]


class Tailor:
    """Draws one outfit: holds the random source, the person and the noise the fabrics share."""

    def __init__(self, rng: np.random.Generator, build: float) -> None:
        self.rng = rng
        self.noise = NoiseVolume(rng)
        self.person = Person(random_betas(rng, build))
        self.tone = self.pick(SKIN_TONES)
        dyes = HAIR_DYES if self.tone[0] > 0.7 else HAIR_DYES[:2]
        self.dye = self.pick(dyes)

    def pick(self, options: list[Rgb]) -> Rgb:
        """One of several colours, slightly varied."""
        colour = np.array(options[self.rng.integers(len(options))]) * self.rng.uniform(0.94, 1.06, 3)
        red, green, blue = np.clip(colour, 0, 1)
        return float(red), float(green), float(blue)

    def within(self, low: float, high: float) -> float:
        """A number between two bounds."""
        return float(self.rng.uniform(low, high))

    def head_and_skin(self, style: str, bearded: float = 0.0, socks: Rgb | None = None) -> list[Layer]:
        """Skin, eyes and hair."""
        tone = np.array(self.tone)
        lip = tuple(np.clip(tone * (0.92, 0.68, 0.68), 0, 1))
        brow = tuple(np.array(self.dye) * 0.85)
        body = skin(self.person, skin_finish(self.noise, self.tone, lip, brow, bearded, socks))
        ball = eyes(self.person, eye_finish(self.pick(IRISES)))
        return [body, ball, hair(self.person, style, hair_finish(self.noise, self.dye), self.noise)]

    def footwear(
        self, uppers: list[Rgb], sole: Rgb, accent: Rgb, laces: bool = True, gloss: float = 0.05, rim: float = 0.025
    ) -> list[Layer]:
        """A pair of shoes."""
        finish = shoe_finish(self.noise, self.person, self.pick(uppers), sole, accent, laces, gloss)
        return shoes(self.person, finish, rim)

    def jeans(self, colours: list[Rgb], cut: TrouserCut) -> Layer:
        """Denim trousers, worn at thighs and knees."""
        knee, pelvis = self.person.joint("left_knee"), self.person.joint("pelvis")

        def worn(points: Array) -> Array:
            thigh = np.exp(-(((np.abs(points[:, 0]) - 0.11) / 0.05) ** 2)) * np.exp(
                -(((points[:, 1] - (pelvis[1] + knee[1]) / 2) / 0.13) ** 2)
            )
            front = smoothstep(-0.02, 0.08, points[:, 2])
            low = 0.4 * np.exp(-(((points[:, 1] - knee[1]) / 0.07) ** 2))
            seat = 0.5 * np.exp(
                -((points[:, 1] - pelvis[1] + 0.06) ** 2 + (np.abs(points[:, 0]) - 0.09) ** 2) / 0.07**2
            )
            return np.asarray((thigh + low) * front + seat * (1 - front))

        pattern = fabric.denim(self.noise, self.pick(colours), worn)
        finish = trouser_finish(self.person, cut, pattern, (0.78, 0.58, 0.30))
        return trousers(self.person, "trousers", cut, finish, self.noise)


def casual(t: Tailor) -> list[Layer]:
    """A tee shirt or sweater over jeans, sneakers, short hair."""
    long = t.rng.random() < 0.5
    cut = TopCut(
        hem=t.within(-0.10, -0.06),
        sleeve=1.0 if long else t.within(0.36, 0.46),
        ease=0.011 if long else 0.009,
        chest_ease=t.within(0.003, 0.012),
        sleeve_ease=0.007 if long else 0.012,
        cuff=0.008 if long else 0.0,
        collar="rib",
        slack=t.within(0.08, 0.25),
    )
    kind = t.rng.integers(3)
    main = t.pick([(0.20, 0.32, 0.55), (0.62, 0.17, 0.17), (0.20, 0.38, 0.30), (0.82, 0.80, 0.75), (0.24, 0.24, 0.27)])
    pale = t.pick([(0.90, 0.88, 0.82), (0.85, 0.62, 0.22), (0.80, 0.84, 0.88)])
    pattern: Pattern
    motif = None
    if kind == 0:
        pattern = fabric.stripes(t.noise, [main, pale], [t.within(0.022, 0.035), t.within(0.014, 0.025)])
    else:
        pattern = fabric.plain(t.noise, main)
        motif = (
            ["ring", "peaks", "number"][t.rng.integers(3)],
            pale,
            t.pick([(0.85, 0.45, 0.15), (0.30, 0.55, 0.65), (0.75, 0.25, 0.25)]),
        )
    shirt = top(
        t.person,
        "shirt",
        cut,
        top_finish(t.person, cut, pattern, trim=main if kind == 0 else None, motif=motif),
        t.noise,
    )
    jeans = t.jeans(
        [(0.18, 0.27, 0.42), (0.26, 0.36, 0.50), (0.14, 0.17, 0.24)],
        TrouserCut(leg_ease=t.within(0.002, 0.009), slack=t.within(0.08, 0.25)),
    )
    pair = t.footwear(
        [(0.80, 0.80, 0.78), (0.20, 0.22, 0.28), (0.45, 0.20, 0.16)], (0.88, 0.87, 0.84), (0.92, 0.92, 0.90)
    )
    return [*t.head_and_skin("short", bearded=t.within(0.0, 0.6)), *pair, jeans, shirt]


def dress(t: Tailor) -> list[Layer]:
    """A flared summer dress in a print, flat shoes, long or bobbed hair."""
    cut = TopCut(
        hem=-t.within(0.42, 0.56),
        sleeve=t.within(0.10, 0.30),
        ease=0.006,
        chest_ease=0.003,
        sleeve_ease=0.012,
        flare=t.within(0.14, 0.26),
        neck_front=t.within(0.06, 0.10),
        neck_side=0.016,
        vee=t.within(0.0, 0.7),
        waist=0.004,
        slack=0.9,
    )
    ground = t.pick([(0.16, 0.20, 0.38), (0.90, 0.86, 0.78), (0.55, 0.14, 0.20), (0.20, 0.36, 0.33)])
    light = ground[0] < 0.7
    petals: list[Rgb] = (
        [(0.93, 0.88, 0.84), (0.90, 0.55, 0.50), (0.93, 0.72, 0.35)]
        if light
        else [(0.75, 0.22, 0.28), (0.30, 0.40, 0.66), (0.88, 0.55, 0.25)]
    )
    pattern = (
        fabric.blossoms(
            t.noise, ground, petals, (0.35, 0.48, 0.30), t.within(0.045, 0.07), int(t.rng.integers(1 << 30))
        )
        if t.rng.random() < 0.7
        else fabric.dots(t.noise, ground, petals[0], t.within(0.035, 0.05), t.within(0.007, 0.012))
    )
    gown = top(t.person, "dress", cut, top_finish(t.person, cut, pattern), t.noise)
    pair = t.footwear(
        [(0.55, 0.20, 0.18), (0.15, 0.13, 0.13), (0.70, 0.58, 0.44)],
        (0.30, 0.22, 0.17),
        (0.60, 0.50, 0.40),
        laces=False,
        gloss=0.18,
        rim=-0.012,
    )
    return [*t.head_and_skin(["long", "bob", "ponytail"][t.rng.integers(3)]), *pair, gown]


def coat(t: Tailor) -> list[Layer]:
    """A long open coat over a sweater and trousers, boots, bobbed or long hair."""
    inner = TopCut(
        hem=-0.05,
        sleeve=0.9,
        ease=0.008,
        chest_ease=0.005,
        sleeve_ease=0.003,
        cuff=0.003,
        neck_front=0.045,
        collar="rib",
    )
    jumper = fabric.knit(
        t.noise, t.pick([(0.82, 0.78, 0.70), (0.55, 0.18, 0.18), (0.78, 0.60, 0.25), (0.30, 0.36, 0.40)])
    )
    outer = TopCut(
        hem=-t.within(0.32, 0.48),
        sleeve=1.02,
        ease=0.021,
        chest_ease=0.014,
        sleeve_ease=0.006,
        flare=t.within(0.06, 0.14),
        open_front=(t.within(0.035, 0.05), t.within(0.07, 0.11)),
        collar="lapel",
        neck_front=0.07,
        neck_side=0.006,
        vee=0.3,
        slack=0.12,
    )
    wool = t.pick([(0.58, 0.45, 0.32), (0.24, 0.26, 0.32), (0.38, 0.36, 0.35), (0.30, 0.19, 0.18)])
    lighter = tuple(min(1.0, 1.25 * channel) for channel in wool)
    weave = fabric.herringbone(t.noise, wool, (lighter[0], lighter[1], lighter[2]))
    legs = TrouserCut(leg_ease=t.within(0.003, 0.008), slack=0.12)
    dark = fabric.plain(t.noise, t.pick([(0.13, 0.13, 0.15), (0.20, 0.22, 0.28), (0.30, 0.26, 0.22)]))
    pants = trousers(t.person, "trousers", legs, trouser_finish(t.person, legs, dark, (0.22, 0.22, 0.24)), t.noise)
    pair = t.footwear(
        [(0.16, 0.12, 0.10), (0.34, 0.22, 0.14)], (0.12, 0.10, 0.09), (0.45, 0.36, 0.25), gloss=0.2, rim=0.05
    )
    return [
        *t.head_and_skin(["bob", "short", "long"][t.rng.integers(3)]),
        *pair,
        pants,
        top(t.person, "sweater", inner, top_finish(t.person, inner, jumper), t.noise, 0.8),
        top(t.person, "coat", outer, top_finish(t.person, outer, weave, pockets=True), t.noise, 0.8),
    ]


def sport(t: Tailor) -> list[Layer]:
    """A jersey with a number, shorts, running shoes."""
    main = t.pick([(0.80, 0.18, 0.18), (0.12, 0.30, 0.60), (0.90, 0.72, 0.15), (0.10, 0.45, 0.38)])
    white: Rgb = (0.92, 0.92, 0.92)
    sleeveless = t.rng.random() < 0.4
    cut = TopCut(
        hem=-0.09,
        sleeve=0.03 if sleeveless else 0.40,
        ease=0.009,
        chest_ease=0.016,
        sleeve_ease=0.014,
        neck_front=0.075,
        vee=0.6 if sleeveless else 0.2,
        slack=0.08,
        collar="none" if sleeveless else "rib",
    )
    jersey = top_finish(
        t.person,
        cut,
        fabric.plain(t.noise, main, 0.012),
        sleeves=fabric.plain(t.noise, white, 0.012),
        trim=main,
        motif=("number", white, white),
        side_stripe=None if sleeveless else main,
        gloss=0.06,
    )
    legs = TrouserCut(hem=t.within(0.38, 0.50), leg_ease=0.016, slack=0.02, flare=0.0)
    shorts = trouser_finish(
        t.person,
        legs,
        fabric.plain(t.noise, t.pick([(0.12, 0.13, 0.16), (0.88, 0.88, 0.88), main]), 0.012),
        white,
        side_stripe=white,
        cord=True,
    )
    pair = t.footwear([(0.88, 0.90, 0.92), (0.85, 0.30, 0.15), (0.15, 0.20, 0.30)], (0.92, 0.92, 0.90), main)
    style = ["ponytail", "short", "bun"][t.rng.integers(3)]
    return [
        *t.head_and_skin(style, bearded=t.within(0, 0.5) if style == "short" else 0.0, socks=white),
        *pair,
        trousers(t.person, "shorts", legs, shorts, t.noise),
        top(t.person, "jersey", cut, jersey, t.noise),
    ]


def skirted(t: Tailor) -> list[Layer]:
    """A buttoned blouse over a pleated or fluted skirt, flat shoes."""
    cut = TopCut(
        hem=0.045,
        sleeve=t.within(0.85, 1.0),
        ease=0.006,
        chest_ease=0.010,
        tuck=0.011,
        sleeve_ease=0.004,
        cuff=0.006,
        neck_front=0.06,
        vee=0.4,
        collar="shirt",
        slack=0.5,
    )
    pale = t.pick([(0.92, 0.90, 0.86), (0.72, 0.80, 0.90), (0.90, 0.78, 0.76)])
    blue = t.pick([(0.30, 0.38, 0.60), (0.55, 0.20, 0.25), (0.35, 0.35, 0.38)])
    pattern = (
        fabric.stripes(t.noise, [pale, blue], [0.020, 0.004], upright=True)
        if t.rng.random() < 0.6
        else fabric.plain(t.noise, pale)
    )
    blouse = top(t.person, "blouse", cut, top_finish(t.person, cut, pattern, buttons=True, trim=pale), t.noise)
    pleats = bool(t.rng.random() < 0.5)
    below = SkirtCut(
        length=t.within(0.42, 0.62),
        waist=0.095,
        ease=0.018,
        flare=0.20 if pleats else t.within(0.16, 0.30),
        flutes=26 if pleats else int(t.rng.integers(7, 11)),
        depth=0.009 if pleats else 0.013,
        pleats=pleats,
    )
    base = t.pick([(0.45, 0.12, 0.15), (0.16, 0.28, 0.22), (0.20, 0.22, 0.34)])
    checks = fabric.plaid(
        t.noise,
        base,
        [((0.08, 0.09, 0.12), 0.02, 0.011), ((0.90, 0.86, 0.74), 0.055, 0.0025), ((0.80, 0.62, 0.22), 0.072, 0.0018)],
        0.09,
    )
    cloth = skirt(t.person, "skirt", below, skirt_finish(t.person, below, checks, base), t.noise)
    pair = t.footwear(
        [(0.14, 0.11, 0.10), (0.40, 0.20, 0.14)],
        (0.10, 0.09, 0.08),
        (0.30, 0.24, 0.18),
        laces=False,
        gloss=0.22,
        rim=-0.005,
    )
    return [
        *t.head_and_skin(["ponytail", "bob", "bun", "long"][t.rng.integers(4)], socks=(0.85, 0.85, 0.88)),
        *pair,
        blouse,
        cloth,
    ]


def hoodie(t: Tailor) -> list[Layer]:
    """A hooded sweatshirt, jogging trousers, sneakers."""
    cut = TopCut(
        hem=-0.08,
        sleeve=1.0,
        ease=0.016,
        chest_ease=0.014,
        sleeve_ease=0.010,
        cuff=0.014,
        neck_front=0.05,
        neck_side=0.0,
        collar="hood",
        slack=0.06,
    )
    main = t.pick([(0.42, 0.44, 0.46), (0.16, 0.20, 0.30), (0.50, 0.16, 0.16), (0.36, 0.42, 0.30)])
    motif = (
        None
        if t.rng.random() < 0.4
        else (["ring", "peaks"][t.rng.integers(2)], (0.90, 0.88, 0.84), t.pick([(0.80, 0.45, 0.2), (0.3, 0.5, 0.6)]))
    )
    shirt = top(
        t.person,
        "hoodie",
        cut,
        top_finish(t.person, cut, fabric.plain(t.noise, main, 0.06), motif=motif),
        t.noise,
        1.15,
    )
    legs = TrouserCut(hem=0.015, leg_ease=0.016, slack=0.10, gather=0.012)
    gray = fabric.plain(t.noise, t.pick([(0.20, 0.21, 0.24), (0.46, 0.46, 0.47)]), 0.06)
    pants = trousers(
        t.person, "trousers", legs, trouser_finish(t.person, legs, gray, (0.3, 0.3, 0.32), cord=True), t.noise, 1.1
    )
    pair = t.footwear([(0.86, 0.86, 0.84), (0.15, 0.15, 0.17)], (0.90, 0.90, 0.88), (0.75, 0.20, 0.18))
    style = ["short", "bun", "ponytail"][t.rng.integers(3)]
    return [*t.head_and_skin(style, bearded=t.within(0, 0.7) if style == "short" else 0.0), *pair, pants, shirt]


OUTFITS: dict[str, tuple[Callable[[Tailor], list[Layer]], float]] = {
    "casual": (casual, 0.8),
    "dress": (dress, -0.9),
    "coat": (coat, -0.3),
    "sport": (sport, 0.4),
    "skirt": (skirted, -0.8),
    "hoodie": (hoodie, 0.7),
}
"""Outfits by name, each with the build of the people who mostly wear it, see :func:`random_betas`."""


def dressed(rng: np.random.Generator, outfit: str) -> tuple[Figure, NoiseVolume]:
    """A random person in an outfit, and the noise its fabrics were made with."""
    choose, build = OUTFITS[outfit]
    tailor = Tailor(rng, build)
    return Figure(tailor.person, choose(tailor)), tailor.noise
