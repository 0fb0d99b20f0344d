"""The record of a problem: N losses on d x k matrices, their gradients, and proved constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np

from decaf_theory.arrays import Array, Host, host, integer, require_plain
from decaf_theory.lowrank import Factors
from decaf_theory.topology import target_weights

Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]
NoiseKind = Literal["gauss", "rademacher"]


def _require_number(name: str, value: Any, rule: str, held: Callable[[float], bool]) -> None:
    """Raise ValueError unless a constant is unknown (None) or one number that obeys its rule."""
    if value is not None and not (isinstance(value, Real) and held(float(value))):
        raise ValueError(
            f"{name} must be a number {rule}, or None where it is unknown, got {value!r}"
        )


@dataclass(frozen=True)
class Constants:
    """The constants of the assumptions, each proved in the docstring of its problem.

    L: every f_i has L-Lipschitz gradient in Frobenius norm. G(s, c): a bound on the operator norm
    of grad f_i(W0 + s B A) over Omega_c (quadratics have no global one). kappa: the square root
    of sup_W (1/N) sum_i |grad f_i(W) - grad F(W)|_F^2 over the domain stated by the problem.
    sigma: the square root of the bound on E|noise|_F^2 of one agent's gradient. F_star: inf F.
    None means unknown: code that needs such a constant says so, everything else runs.
    within: kappa holds for |W|_F <= within. upper: which of "G" and "kappa" are upper bounds only:
    G that no point attains, kappa that is not the deviation at every W.
    m: every f_i + m |W|^2 / 2 is convex, 0 for convex losses. mu: |grad F|^2 >= 2 mu (F - F_star)
    at every W (Polyak-Lojasiewicz).
    shares: the weights of the agents in F, kappa, F_star and mu, a `Config`'s target, of which only
    the ratios count; None: equal.
    """

    L: float | None = None
    G: Callable[[float, float], float] | None = None
    kappa: float | None = None
    sigma: float | None = None
    F_star: float | None = None
    within: float = math.inf
    upper: tuple[str, ...] = ()
    m: float | None = None
    mu: float | None = None
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check that each constant is one that its assumption can have."""
        for name in ("L", "kappa", "sigma", "mu"):
            _require_number(name, getattr(self, name), ">= 0", lambda x: 0 <= x < math.inf)
        for name in ("F_star", "m"):
            _require_number(name, getattr(self, name), "that is finite", math.isfinite)
        _require_number("within", self.within, "> 0", lambda x: x > 0)
        if self.G is not None and not callable(self.G):
            raise ValueError(
                f"G must be a function of (s, c), got {self.G!r}; "
                f"one number that bounds it everywhere is lambda s, c: {self.G}"
            )
        if not set(self.upper) <= {"G", "kappa"}:
            raise ValueError(f'upper must name some of "G" and "kappa", got {self.upper!r}')


@dataclass(frozen=True)
class Problem:
    """N agents' losses f_i on W [d, k]; F = (1/N) sum_i f_i.

    loss(W): [..., N, d, k] -> [..., N], each agent's own loss at its own point. grad(W): the
    gradients there, [..., N, d, k] -> [..., N, d, k]. An agent axis of length one is one point for
    all agents. W is the whole matrix: the caller adds W0 [d, k].
    noise(rng, shape): zero-mean draws of all of `shape` [steps, N, d, k] as a NumPy array,
    independent over steps: a simulation draws many steps of a run at once, so that the agents are
    the second axis; None if gradients are exact. They are the gradient noise itself, unless
    noise_at(draws, W) makes it from them, of the same shape; it may depend on the agents' points W.
    Pi [N, N], start (factors [N, d, r], [N, r, k]): if the problem prescribes them.
    stiffest [d, k]: a point at which some f_i has curvature L; W0 if none is given.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory.problems import Constants, Problem, check_problem
        >>> X = np.random.default_rng(0).standard_normal((3, 20, 4))  # 20 inputs, 3 agents
        >>> y = np.sign(X @ [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])  # two labels
        >>> def loss(W):  # logistic, W [..., N, 2, 4]: matmul has the axes in front as they come
        ...     return np.logaddexp(0, -y * (X @ W.mT)).mean(axis=-2).sum(axis=-1)
        >>> def grad(W):
        ...     return (-y / (1 + np.exp(y * (X @ W.mT)))).mT @ X / 20
        >>> L = np.linalg.norm(X.mT @ X / 80, ord=2, axis=(-2, -1)).max()
        >>> problem = Problem("logistic", 3, 2, 4, loss, grad, Constants(L=L, m=0.0, F_star=0.0))
        >>> check_problem(problem)["L"].held
        True
    """

    name: str
    N: int
    d: int
    k: int
    loss: Callable[[Array], Array]
    grad: Callable[[Array], Array]
    constants: Constants = Constants()
    W0: Array = None
    noise: Noise | None = None
    Pi: Array | None = None
    start: Factors | None = None
    noise_at: Callable[[Array, Array], Array] | None = None
    stiffest: Array = None

    def __post_init__(self) -> None:
        """Check every argument; let W0 be zero and the stiffest point W0 if none is given."""
        sizes(N=self.N, d=self.d, k=self.k)
        for name in ("loss", "grad", "noise", "noise_at"):
            given = getattr(self, name)
            if not callable(given) and (given is not None or name in ("loss", "grad")):
                raise ValueError(f"{name} must be a function, got {given!r}; see Problem")
        if self.W0 is None:
            object.__setattr__(self, "W0", np.zeros((self.d, self.k)))
        if self.stiffest is None:
            object.__setattr__(self, "stiffest", self.W0)
        for name in ("W0", "stiffest"):
            given = getattr(self, name)
            if getattr(given, "shape", None) != (self.d, self.k):
                got = getattr(given, "shape", repr(given))
                raise ValueError(
                    f"{name} must be an array [d, k] of shape {(self.d, self.k)}, got {got}"
                )
        if not isinstance(self.constants, Constants):
            raise ValueError(
                f"constants must be Constants, got {self.constants!r}; Constants(L=1.0) is one"
            )
        if self.constants.shares is not None:
            target_weights(self.constants.shares, self.N, "shares")


def entry_noise(tau: float, kind: NoiseKind = "gauss") -> Noise | None:
    """Return isotropic noise: independent entries of variance tau^2, None if tau = 0.

    "gauss" draws normal entries, "rademacher" +-tau (bounded: |noise|_F = tau sqrt(d k) always).
    Either way E|noise|_F^2 = tau^2 d k exactly. ValueError: negative tau, another kind.
    """
    if kind not in ("gauss", "rademacher"):
        raise ValueError(f"noise kind must be 'gauss' or 'rademacher', got {kind!r}")
    if not 0 <= tau < np.inf:
        raise ValueError(f"tau must be finite and >= 0, got {tau}")
    if tau == 0:
        return None

    def gauss(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return tau * rng.standard_normal(shape)

    # the eight signs of each byte, so that random bits become numbers by one look-up
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    signs = tau * (2.0 * bits - 1.0)

    def rademacher(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        numbers = math.prod(shape)
        words = rng.bit_generator.random_raw(-(-numbers // 64))
        drawn = signs.take(words.view(np.uint8), axis=0)
        return drawn.reshape(-1)[:numbers].reshape(shape)

    return gauss if kind == "gauss" else rademacher


def finite(name: str, given: Any) -> Host:
    """Return numbers in float64; ValueError unless they are real and finite, none masked."""
    require_plain(name, type(given))
    X = host(given)
    if X.dtype.kind not in "fiu" or not np.all(np.isfinite(X)):
        got = X.dtype if X.dtype.kind not in "fiu" else "NaN or infinite entries"
        raise ValueError(f"{name} must be finite and real, got {got}")
    return X.astype(np.float64)


def sizes(**values: int) -> None:
    """Raise ValueError unless every value is an integer >= 1."""
    for name, value in values.items():
        integer(name, value, 1)


def require(name: str, value: float, rule: str, held: bool) -> None:
    """Raise ValueError naming argument, rule and value unless `held`."""
    if not held:
        raise ValueError(f"{name} must be {rule}, got {value}")
