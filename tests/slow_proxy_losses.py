"""The proxy losses as loops in float64, to test the options for which nothing was recorded."""

import math

import numpy as np
from slow_losses import unit


def cross_entropy(logits, label):
    return -math.log(math.exp(logits[label]) / sum(map(math.exp, logits)))


def arcface(embeddings, labels, centers, *, degrees, scale):
    margin, losses = math.radians(degrees), []
    for x, y in zip(unit(embeddings), labels, strict=True):
        logits = [max(w @ x for w in own) for own in unit(centers)]
        angle = math.acos(logits[y])
        moved = math.cos(angle + margin) if angle <= math.pi - margin else logits[y] - margin * math.sin(margin)
        logits[y] = moved
        losses.append(cross_entropy([scale * s for s in logits], y))
    return np.mean(losses)


def proxy_nca(embeddings, labels, proxies, *, scale):
    losses = []
    for x, y in zip(unit(embeddings), labels, strict=True):
        weights = [math.exp(-scale * np.sum((x - p) ** 2)) for p in unit(proxies)]
        losses.append(-math.log(weights[y] / (sum(weights) - weights[y])))
    return np.mean(losses)


def soft_triple(embeddings, labels, centers, *, margin, scale, gamma, center_reg):
    centers, losses = unit(centers), []
    for x, y in zip(unit(embeddings), labels, strict=True):
        relaxed = []
        for own in centers:
            cosines = own @ x
            weights = np.exp(cosines / gamma)
            relaxed.append(weights @ cosines / weights.sum())
        relaxed[y] -= margin
        losses.append(cross_entropy([scale * s for s in relaxed], y))
    classes, count, _ = centers.shape
    distances = [math.sqrt(2 + 1e-5 - 2 * own[s] @ own[t]) for own in centers for t in range(count) for s in range(t)]
    return np.mean(losses) + center_reg * sum(distances) / (classes * count * (count - 1))
