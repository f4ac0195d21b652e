"""The losses as loops over built points in float64, to test the fast implementations."""

import itertools

import numpy as np


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mirrored(point, axis):
    return 2 * (point @ axis) / (axis @ axis) * axis - point


def symmetric_points(anchor, positive):
    return [np.stack([a, p, mirrored(p, a), mirrored(a, p)]) for a, p in zip(anchor, positive, strict=True)]


def interpolated_points(anchor, positive, num=2):
    steps = [k / (num + 1) for k in range(1, num + 1)]
    pairs = zip(anchor, positive, strict=True)
    return [np.stack([a, p, *(unit((1 - t) * a + t * p) for t in steps)]) for a, p in pairs]


def original_points(anchor, positive):
    return [np.stack([a, p]) for a, p in zip(anchor, positive, strict=True)]


def cross_entropy(similarity, labels):
    rows = []
    for i, row in enumerate(similarity):
        log_softmax = row - np.log(np.sum(np.exp(row - row.max()))) - row.max()
        rows.append(-np.mean([log_softmax[j] for j in range(len(labels)) if labels[j] == labels[i]]))
    return np.mean(rows)


def npair(anchor, positive, labels, points, candidates):
    sets, n = points(anchor, positive), range(len(labels))
    return cross_entropy(
        np.array([[max(sets[i][k] @ sets[j][l] for k, l in candidates) for j in n] for i in n]), labels
    )


def angular(anchor, positive, labels, points, candidates, degrees=45.0, with_npair=False):
    t = np.tan(np.radians(degrees)) ** 2
    sets, n = points(anchor, positive), range(len(labels))

    def entry(i, j, k, l):
        x, y, z = sets[i][k], sets[i][l], sets[j][l]
        return (2 * (1 + t) * x @ z if i == j else 4 * t * (x + y) @ z) + with_npair * x @ z

    return cross_entropy(np.array([[max(entry(i, j, k, l) for k, l in candidates) for j in n] for i in n]), labels)


def triplets(anchor, positive, labels, points):
    """Yields |x - y|^2 and the squared distances of the negatives, with x the anchor, then with x the positive."""
    mined = points is not original_points
    sets = points(anchor, positive)
    for i, j in itertools.product(range(len(labels)), (0, 1)):
        x, y = (anchor[i], positive[i])[:: 1 - 2 * j]
        negatives = []
        for other in (o for o in range(len(labels)) if labels[o] != labels[i]):
            if mined:
                pairs = itertools.product(sets[i], sets[other])
                negatives.append(min(np.sum((q - r) ** 2) for q, r in pairs))
            else:
                negatives += [np.sum((x - z) ** 2) for z in (anchor[other], positive[other])]
        yield np.sum((x - y) ** 2), np.array(negatives)


def triplet(anchor, positive, labels, points, margin, mining):
    losses = []
    for near, negatives in triplets(anchor, positive, labels, points):
        if not len(negatives):
            continue
        if mining == "hard":
            negatives = [negatives.min()]
        if mining == "semihard":
            farther = negatives[negatives > near]
            negatives = [farther.min() if len(farther) else negatives.max()]
        losses += [max(0.0, near - far + margin) for far in negatives]
    return np.mean(losses) if losses else 0.0


def lifted_structure(anchor, positive, labels, points, margin):
    losses = []
    both_ways = list(triplets(anchor, positive, labels, points))
    for (near, of_anchor), (_, of_positive) in zip(both_ways[::2], both_ways[1::2], strict=True):
        negatives = np.concatenate([of_anchor, of_positive])
        if points is not original_points:
            negatives = np.tile(negatives, 2)  # the hardest distance replaces all four distances of two classes
        total = np.sum(np.exp(margin - np.sqrt(negatives)))
        losses.append(max(0.0, np.sqrt(near) + np.log(total)) ** 2 / 2 if total else 0.0)
    return np.mean(losses)
