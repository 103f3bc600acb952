"""k-medoids as loops over points, by the words of the specification."""

from __future__ import annotations

import math

import numpy as np


def gap(a, b, metric, p):
    """Distance of two lists of floats, rounded once to float32."""
    if metric == "cosine":
        norms = [math.sqrt(math.fsum(v * v for v in x)) + 1e-6 for x in (a, b)]
        product = math.fsum(v * w for v, w in zip(a, b, strict=True))
        value = 0.0 if a == b else 1 - product / norms[0] / norms[1]
    else:
        value = math.fsum(abs(v - w) ** p for v, w in zip(a, b, strict=True)) ** (1 / p)
    return float(np.float32(value))


def oracle(points, k, *, metric="euclidean", p=2.0, pre_norm=False, rule="medoid", first=None):
    """Seeds, centers and assignment of one sample [N, D], by the words of the specification."""
    points = [[float(v) for v in point] for point in points]
    norms = [math.sqrt(math.fsum(v * v for v in point)) for point in points]
    if pre_norm:
        points = [[v / (n + 1e-6) for v in x] for x, n in zip(points, norms, strict=True)]
    everyone = range(len(points))
    apart = [[-1.0 if i == j else gap(points[i], points[j], metric, p) for j in everyone]
             for i in everyone]  # fmt: skip
    seeds = [max(everyone, key=lambda i: np.float32(norms[i])) if first is None else first]
    while len(seeds) < k:
        seeds.append(max(everyone, key=lambda i: min(apart[i][j] for j in seeds)))

    def assign(medoids):
        return [min(range(k), key=lambda s: apart[i][medoids[s]]) for i in everyone]

    def cost(i, members):
        if rule == "medoid":
            return math.fsum(apart[i][j] for j in members)
        units = points
        if metric == "cosine":
            units = [[v / (math.sqrt(math.fsum(w * w for w in x)) + 1e-6) for v in x]
                     for x in points]  # fmt: skip
        columns = zip(*(units[j] for j in members), strict=True)
        mean = [math.fsum(column) / len(members) for column in columns]
        return round(math.dist(units[i], mean), 9)

    medoids = list(seeds)
    for _ in range(100):
        groups = [[i for i, s in enumerate(assign(medoids)) if s == slot] for slot in range(k)]
        moved = [min(group, key=lambda i, group=group: cost(i, group)) for group in groups]
        if all(m == n or apart[m][n] == 0 for m, n in zip(moved, medoids, strict=True)):
            medoids = moved
            break
        medoids = moved
    medoids.sort()
    return seeds, medoids, assign(medoids)
