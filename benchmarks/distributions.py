"""Compare the times of two kinds of calls: do their distributions differ?"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt

_TERMS = 100


def auc(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the probability that a sample of one is larger than one of the other; 0.5 to 1."""
    ordered = sorted(second)
    below = sum(bisect_left(ordered, one) + bisect_right(ordered, one) for one in first) / 2
    found = below / (len(first) * len(second))
    return max(found, 1 - found)


@dataclass(frozen=True, slots=True)
class KolmogorovSmirnov:
    """The two-sample Kolmogorov–Smirnov test.

    Attributes:
        d: the largest distance between the two empirical distribution functions, 0 to 1.
        p: how probable a distance of *d* or more is if both samples are from one distribution.
    """

    d: float
    p: float

    @property
    def sentence(self) -> str:
        """Say in words what was found, with the usual bound of one in a hundred."""
        if self.p < 0.01:
            return f"D {self.d:.4f}, p {self.p:.2g}: the two differ"
        return f"D {self.d:.4f}, p {self.p:.2g}: no difference is found"


def kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> KolmogorovSmirnov:
    """Compare two samples.

    p is asymptotic: 2 Σ (−1)^(k−1) exp(−2 k² λ²), with λ = (√n + 0.12 + 0.11/√n) D and n = n₁n₂/(n₁+n₂). Source:
    M. A. Stephens, "Use of the Kolmogorov–Smirnov, Cramér–von Mises and related statistics without extensive tables",
    J. R. Stat. Soc. B 32 (1970).
    """
    one, other = sorted(first), sorted(second)
    d = max(
        abs(bisect_right(one, value) / len(one) - bisect_right(other, value) / len(other)) for value in (*one, *other)
    )
    root = sqrt(len(one) * len(other) / (len(one) + len(other)))
    scaled = (root + 0.12 + 0.11 / root) * d
    if scaled < 0.2:  # the sum converges slowly there, and p is 1 to twelve digits
        return KolmogorovSmirnov(d, 1.0)
    p = 2 * sum((-1) ** (k - 1) * exp(-2 * (k * scaled) ** 2) for k in range(1, _TERMS))
    return KolmogorovSmirnov(d, min(1.0, max(0.0, p)))
