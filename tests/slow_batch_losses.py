"""The batch losses as loops over rows in float64, from their formulas, to test the fast implementations."""

import numpy as np
from slow_losses import unit


def rows_of_images(x, positive):
    """Yields (similarities, similarities of the positives, of the negatives) of each image; x is (n, dim)."""
    x = unit(np.asarray(x, np.float64))
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        s = x @ x[i]
        yield s[others & positive[i]], s[others & ~positive[i]]


def rows_of_pairs(pairs, positive, points):
    """The same for pairs (n, 2, dim): the hardest similarity is that of the points `points(anchors, positives)`."""
    x = unit(np.asarray(pairs, np.float64))
    sets = points(x[:, 0], x[:, 1])
    for i in range(len(x)):
        s = np.array([np.max(sets[i] @ other.T) for other in sets])
        s[i] = x[i, 0] @ x[i, 1]
        same = positive[i] | (np.arange(len(x)) == i)
        yield s[same], s[~same]


def distances(s):
    return np.sqrt(np.maximum(2 - 2 * s, 0))


def mean(values):
    return np.mean(values) if len(values) else 0.0


def above_zero(values):
    return [x for x in values if x > 0]


def log_sum_exp(x):
    return np.log(np.sum(np.exp(x - np.max(x)))) + np.max(x) if len(x) else -np.inf


def contrastive(rows):
    pulls, pushes = zip(*((distances(p), np.maximum(0, 1 - distances(n))) for p, n in rows), strict=True)
    return mean(above_zero(np.concatenate(pulls))) + mean(above_zero(np.concatenate(pushes)))


def multi_similarity(rows, mined=False):
    losses = []
    for p, n in rows:
        if mined:
            p, n = p[p - 0.1 < max(n, default=-np.inf)], n[n + 0.1 > min(p, default=np.inf)]
        losses.append(np.log(1 + np.sum(np.exp(-2 * (p - 0.5)))) / 2 + np.log(1 + np.sum(np.exp(50 * (n - 0.5)))) / 50)
    return mean(losses)


def supcon(rows):
    losses = [log_sum_exp(np.concatenate([p, n]) / 0.1) - np.mean(p) / 0.1 for p, n in rows if len(p)]
    return mean(above_zero(losses))


def ntxent(rows):
    losses = [log_sum_exp(np.append(n, s) / 0.07) - s / 0.07 for p, n in rows for s in p]
    return mean(losses)


def circle(rows, fixed=None):
    losses = []
    for (p, n), (fixed_p, fixed_n) in zip(rows, fixed or rows, strict=True):
        if len(p) and len(n):
            push = log_sum_exp(80 * np.maximum(fixed_n + 0.4, 0) * (n - 0.4))
            pull = log_sum_exp(-80 * np.maximum(1.4 - fixed_p, 0) * (p - 0.6))
            losses.append(np.logaddexp(0, push + pull))
    return mean(above_zero(losses))


def margin(rows):
    terms = []
    for p, n in rows:
        for a in distances(p):
            for b in distances(n):
                terms += [max(0, a - 1.2 + 0.2), max(0, 1.2 - b + 0.2)]
    return mean(above_zero(terms))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def ranks(p, others, temperature=0.01):
    """1 + the smooth number of `others` ahead of each of p, which is among them."""
    return np.array([0.5 + np.sum(sigmoid((others - s) / temperature)) for s in p])


def smooth_ap(rows):
    return mean([1 - np.mean(ranks(p, p) / ranks(p, np.concatenate([p, n]))) for p, n in rows if len(p)])


def recall_at_k(rows):
    losses = []
    for p, n in rows:
        for k in (1, 2, 4, 8, 16) if len(p) else ():
            reached = np.sum(sigmoid(k - ranks(p, np.concatenate([p, n]))))
            losses.append(1 - min(k, reached) / min(k, len(p)))
    return mean(losses)
