"""Both sides of the claims written out in NumPy, apart from the library: for one instance each."""

import numpy as np

ORDER = {"fro": "fro", "op": 2, "nuc": "nuc"}
WEIGHTS = np.array([0.5, 0.3, 0.2])
PI = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])


def size(X, norm="fro"):
    """Return the norm of one matrix."""
    return float(np.linalg.norm(X, ORDER[norm]))


def blocks(B, A, norm):
    """Return the Frobenius norms of two blocks, combined."""
    b, a = size(B), size(A)
    return {"sum": b + a, "euclid": np.hypot(b, a), "max": max(b, a)}[norm]


def truncated(M, r):
    """Return TSVD_r(M) and all singular values of M."""
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r], S


def balanced(P, r):
    """Return factors B, A of P = B A, of rank r, with B'B = A A'."""
    U, S, Vh = np.linalg.svd(P, full_matrices=False)
    return U[:, :r] * np.sqrt(S[:r]), np.sqrt(S[:r])[:, None] * Vh[:r]


def turned_onto(left, right):
    """Return the factors of the left, turned by the rotation that takes them nearest to the right.

    [B O; A'O] by Procrustes: O = U V' for the singular vectors of [B; A']'[B_2; A_2'].
    """
    (B, A), (C, D) = left, right
    U, _, Vh = np.linalg.svd(B.T @ C + A @ D.T)
    return B @ (U @ Vh), (U @ Vh).T @ A


def mix(B, A, row):
    """Return M = sum_j pi_j B_j A_j, Bbar and Abar for factors [m, d, r], [m, r, k]."""
    M = sum(p * b @ a for p, b, a in zip(row, B, A, strict=True))
    return M, np.tensordot(row, B, 1), np.tensordot(row, A, 1)


def agents(d, k, r, *, m=3, seed=0, top=2.0):
    """Return B [m, d, r] and A [m, r, k] of largest sigma_1 below `top`."""
    rng = np.random.default_rng(seed)
    pair = rng.standard_normal((m, d, r)), rng.standard_normal((m, r, k))
    return tuple(0.9 * top * X / np.linalg.norm(X, 2, axis=(-2, -1)).max() for X in pair)


def case(lr=0.05, *, alike=False, quiet=False, spread=1.0):
    """Return three agents in the plane, of unequal curvatures unless they are `alike`."""
    H = np.array([[[2.0, 0.3], [0.3, 0.5]], [[1.0, -0.2], [-0.2, 3.0]], [[0.7, 0.1], [0.1, 1.5]]])
    b = spread * np.array([[1.0, -2.0], [0.5, 1.5], [-2.0, 0.25]])
    root = np.array([[[0.5, 0.1], [0.0, 0.3]], [[0.2, 0.0], [0.4, 0.6]], [[0.1, 0.3], [0.2, 0.1]]])
    H = np.stack([H[0]] * 3) if alike else H
    noise = 0 * root if quiet else root @ root.mT
    plain = {"H": H, "b": b, "noise": noise, "Pi": PI, "x0": np.array([3.0, -1.0])}
    return {**{name: x.tolist() for name, x in plain.items()}, "lr": lr}


def sharp(u, R, a, e=0.0, cross=0.0):
    """Return G^2, (2-u) G^2 - 2|1-u|(a+e) G - u (a+e)^2 - R - cross = 0, of the root G > 0."""
    both = a + e
    return max(np.roots([2 - u, -2 * abs(1 - u) * both, -u * both**2 - R - cross]).real) ** 2


class Path:
    """Mean and covariance of N stacked points in R^p under f_i = x'H_i x/2 - b_i'x, step by step.

    Appends at every gradient: |grad F|^2 and kappa^2 at the mean point, and Xi, in expectation.
    """

    def __init__(self, case):
        """Take a stored case; all agents start at x0."""
        self.H, self.b, self.noise, self.Pi, x0 = (
            np.asarray(case[name], dtype=float) for name in ("H", "b", "noise", "Pi", "x0")
        )
        self.N, self.p = self.b.shape
        self.lr = case["lr"]
        self.mean = np.tile(x0, self.N)
        self.cov = np.zeros((self.N * self.p,) * 2)
        self.gradient, self.kappa, self.Xi = [], [], []

    @property
    def letters(self):
        """L, sigma and F(x0) - F* of a case whose mean Hessian is definite."""
        H, b, x = self.H.mean(axis=0), self.b.mean(axis=0), self.mean[: self.p]
        apart = x - np.linalg.solve(H, b)
        L = max(np.abs(np.linalg.eigvalsh(h)).max() for h in self.H)
        return L, max(np.trace(s) for s in self.noise) ** 0.5, apart @ H @ apart / 2

    def block(self, parts):
        """Return the block-diagonal matrix of one p x p matrix an agent."""
        whole = np.zeros((self.N * self.p,) * 2)
        for i, part in enumerate(parts):
            at = slice(i * self.p, (i + 1) * self.p)
            whole[at, at] = part
        return whole

    def expected(self, R, q):
        """Return E|R x - q|^2."""
        return np.sum((R @ self.mean - q) ** 2) + np.trace(R @ self.cov @ R.T)

    def record(self):
        """Append what is measured at the points as they are."""
        N, p = self.N, self.p
        to_mean = np.kron(np.full((1, N), 1 / N), np.eye(p))
        H, b = self.H.mean(axis=0), self.b.mean(axis=0)
        self.gradient.append(self.expected(H @ to_mean, b))
        own = [self.expected((h - H) @ to_mean, c - b) for h, c in zip(self.H, self.b, strict=True)]
        self.kappa.append(np.mean(own))
        self.Xi.append(self.expected(np.kron(np.eye(N) - 1 / N, np.eye(p)), 0) / N)

    def move(self, A, a, C):
        """Let x+ = A x + a + C xi for fresh noise xi."""
        self.mean = A @ self.mean + a
        self.cov = A @ self.cov @ A.T + C @ self.block(self.noise) @ C.T

    def step(self, *, before=None, after=None, own=None, push=0):
        """Let x+ = after (before x - lr (H x - b + xi)) + own, `push` more of the noise.

        before, after: matrices over agents, the identity if none is given. own: K and k of errors.
        """
        eye = np.eye(self.N * self.p)
        P, Q = (eye if M is None else np.kron(M, np.eye(self.p)) for M in (before, after))
        K, k = (0 * eye, 0 * self.mean) if own is None else own
        self.record()
        A = Q @ (P - self.lr * self.block(self.H)) + K
        self.move(A, self.lr * Q @ self.b.ravel() + k, push - self.lr * Q)
        return self
