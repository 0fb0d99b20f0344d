"""What happens to messages on their way: differences, noise, stragglers; AirFedAvg and SALF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method, Mixed, Origin, require_means, wrapped
from decaf_theory.methods.draws import agents_of, arrivals, normals, numbered
from decaf_theory.methods.factor import FEDAVG
from decaf_theory.methods.state import Clock, Message, State


def differences(method: Method) -> Method:
    """Return the method of a server with changes as messages: x_i <- a + mean(x_j - a), a <- x_i.

    The anchor a is the last mix and zero at the start, where the message is whole: from then on all
    agents have the same. It is the method itself up to rounding. ValueError: a method on a graph,
    or whose mix is not the mean of the factors that it sends.
    """
    base = wrapped("differences", method)
    _require_means_alone("differences", method)
    _require_server("differences", method, "choco sends differences on a graph")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {**method.start(factors), "anchor": factors.map(lambda X: 0 * X)}

    def send(state: State, clock: Clock) -> Message:
        anchor = state.memory["anchor"]
        return {name: X - getattr(anchor, name) for name, X in method.send(state, clock).items()}

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        state = method.receive(own, sent, weights, clock).state
        anchor = own.pair("anchor")
        moved = {name: getattr(anchor, name) + getattr(state.factors, name) for name in sent}
        kept = {**state.memory, "anchor": anchor._replace(**moved)}
        return Mixed(State(state.factors._replace(**moved), kept))

    return replace(base, start=start, send=send, receive=receive)


def noisy(method: Method, sigma: float, *, power_control: bool = False, seed: int = 0) -> Method:
    """Return the method with noise on what is received: x_i <- sum_j pi_ij x_j + z_i.

    The entries of z_i are independent, N(0, sigma^2), and drawn anew in each round; on a graph each
    agent has its own, by a server all have the same. power_control: agents scale their messages
    alike, so that the loudest has unit power: sigma is in units of the largest root mean square of
    a message, of B and of A apart. sigma = 0 is the method itself. ValueError: sigma < 0 or not
    finite; power control on a graph; a method whose mix is not the mean of the factors it sends.
    """
    base = replace(wrapped("noisy", method), keeps=())
    _require_range("sigma", sigma, 0, math.inf)
    require_means("noisy", method)
    server = method.meets == "server"
    if power_control:
        _require_server("power_control", method, "only a server hears all agents at once")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {**method.start(factors), "agent": numbered(factors)}

    def noise(own: State, sent: Message, agents: list[int], clock: Clock) -> Message:
        drawn = normals(own.factors, sent, agents, seed, "channel", clock.round)
        size = {name: _loudest(X) if power_control else 1.0 for name, X in sent.items()}
        return {name: sigma * size[name] * z for name, z in drawn.items()}

    def receive_sum(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        # on every message: their weights sum to one, and what the method keeps sees the noise, too
        z = noise(own, sent, [0], clock)
        return method.receive(own, {name: X + z[name] for name, X in sent.items()}, weights, clock)

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        mixed = method.receive(own, sent, weights, clock)
        z = noise(own, sent, agents_of(own), clock)
        factors = mixed.state.factors
        moved = {name: getattr(factors, name) + z[name] for name in sent}
        return mixed._replace(state=mixed.state._replace(factors=factors._replace(**moved)))

    if server:
        return replace(base, receive=receive_sum)
    return replace(base, start=start, receive=receive, merges=False)


def stragglers(method: Method, p_drop: float, *, seed: int = 0) -> Method:
    """Return the method of a server that each message reaches with probability 1 - p_drop.

        w <- (mean of w_u over those who reach it - p w_old)/(1 - p),   p = p_drop^N

    and w <- w_old, the last mix, where nobody does; on average this is the mean of all w_u. Each
    run and each layer draws for itself, its two factors together: layers are late independently
    here, where a backward pass that is cut short would lose the first ones. What is late was sent,
    and counts in the bytes. p_drop = 0 is the method itself. ValueError: p_drop outside [0, 1); a
    method on a graph, or whose mix is not the mean of the factors that it sends.
    """
    base = replace(wrapped("stragglers", method), keeps=(), merges=False)
    _require_range("p_drop", p_drop, 0, 1)
    _require_means_alone("stragglers", method)
    _require_server("stragglers", method, "on a graph leave links out, by a schedule")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {**method.start(factors), "anchor": factors}

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        N = int(next(iter(sent.values())).shape[-3])
        came = arrivals(own.factors, N, 1 - p_drop, seed, "stragglers", clock.round)
        xp, p = namespace(came), p_drop**N
        count = xp.sum(came, axis=-3, keepdims=True)
        share = came * (N / xp.where(count > 0, count, xp.ones_like(count)))
        heard = {name: share * X for name, X in sent.items()}
        mean = method.receive(own, heard, weights, clock).state
        anchor = own.pair("anchor")
        moved = {}
        for name in sent:
            old = getattr(anchor, name)
            full = (getattr(mean.factors, name) - p * old) / (1 - p)
            moved[name] = xp.where(count > 0, full, old)
        factors = mean.factors._replace(**moved)
        return Mixed(State(factors, {**mean.memory, "anchor": factors}))

    return replace(base, start=start, receive=receive)


def air_fedavg(sends: str = "difference", sigma: float = 0.01, *, seed: int = 0) -> Method:
    """Return AirFedAvg: FedAvg of models or of differences, received as a noisy sum over the air.

    `noisy` with power control. Without it the two would be the same, path by path: the mean of
    x_j - a, plus a, is the mean of x_j. With it the noise is in proportion to what is sent, so that
    the floor of differences falls with lr, where that of models grows. Only the adapters are noisy:
    training averages heads exactly. Source: arXiv 2310.10089, general knowledge, reading not
    confirmed. ValueError: sends; sigma as in `noisy`.
    """
    if sends not in ("model", "difference"):
        raise ValueError(
            f"sends must be 'model' or 'difference', got {sends!r}; the gradient of one local step "
            f"is the difference over lr, a factor that power control undoes"
        )
    exact = FEDAVG if sends == "model" else differences(FEDAVG)
    mean = "mean x_j" if sends == "model" else "a + mean(x_j - a)"
    origin = Origin(
        f"by a server, over the air: x <- {mean} + z, z ~ N(0, (sigma p)^2), p = the largest root "
        "mean square of what a client sends; x = (B, A), a = the last mix, "
        f"sigma = {sigma:g}; reading, not confirmed",
        "arXiv 2310.10089",
        "K",
    )
    method = noisy(exact, sigma, power_control=True, seed=seed)
    return replace(method, name="air_fedavg", origin=origin)


def salf(p_drop: float = 0.1, *, seed: int = 0) -> Method:
    """Return SALF: FedAvg with `stragglers`, layer by layer.

    Source: arXiv 2403.18375, general knowledge, reading not confirmed. ValueError: p_drop.
    """
    origin = Origin(
        "by a server, each layer: w <- (mean of w_u that arrive - p w_old)/(1 - p), w_old if none "
        f"does, p = P(none); each is late with chance {p_drop:g}; reading, not confirmed",
        "arXiv 2403.18375",
        "K",
    )
    return replace(stragglers(FEDAVG, p_drop, seed=seed), name="salf", origin=origin)


def _loudest(X: Array) -> Array:
    """Return the largest root mean square of an agent's matrix, [..., 1, 1, 1]."""
    xp = namespace(X)
    return xp.max(xp.sqrt(xp.mean(X * X, axis=(-2, -1), keepdims=True)), axis=-3, keepdims=True)


def _require_range(name: str, value: float, least: float, beyond: float) -> None:
    if not least <= value < beyond:
        raise ValueError(f"{name} must be in [{least}, {beyond}), got {value}")


def _require_means_alone(wrapper: str, method: Method) -> None:
    """Raise ValueError unless a mix is a mean, and leaves the anchor to the wrapper."""
    require_means(wrapper, method)
    if "anchor" in method.begin(Factors(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))).memory:
        raise ValueError(f"{wrapper} keeps an anchor, and so does {method.name}: use one of them")


def _require_server(wrapper: str, method: Method, hint: str) -> None:
    if method.meets != "server":
        raise ValueError(f"{wrapper} needs a method of a server, got {method.name}; {hint}")


AIR_FEDAVG = air_fedavg()
SALF = salf()
