"""Run decent-bench's DGD on quadratics when asked; for the peer's own interpreter.

A line of JSON with the data comes in, its version goes out. For each further line DGD runs from
the start; its CPU time, without the construction of network and agents, and its iterates go out.
"""

import json
import sys
import time
from importlib import import_module
from importlib.metadata import version
from typing import Any


def main() -> None:
    """Answer the lines of standard input."""
    data = json.loads(sys.stdin.readline())
    networkx, numpy = import_module("networkx"), import_module("numpy")
    arrays = import_module("decent_array.interoperability")
    agents = import_module("decent_bench.agents")
    costs = import_module("decent_bench.costs")
    networks = import_module("decent_bench.networks")
    p2p = import_module("decent_bench.algorithms.p2p")
    arrays.set_backend("numpy")

    def array(x: list[Any]) -> Any:
        return arrays.from_numpy(numpy.array(x))

    own = [
        # without a record of every step, which would cost it time
        agents.Agent(
            costs.QuadraticCost(array(H), array(b)), state_snapshot_period=data["steps"] + 1
        )
        for H, b in zip(data["H"], data["b"], strict=True)
    ]
    network = networks.P2PNetwork(networkx.cycle_graph(len(own)), own)
    start = {agent: array(x) for agent, x in zip(own, data["start"], strict=True)}
    print(json.dumps({"version": version("decent-bench")}), flush=True)
    for _ in sys.stdin:
        method = p2p.DGD(step_size=data["lr"], x0=start)
        begin = time.process_time()
        method.run(network, data["steps"])
        seconds = time.process_time() - begin
        x = [arrays.to_numpy(agent.x).tolist() for agent in own]
        print(json.dumps({"seconds": seconds, "x": x}), flush=True)


if __name__ == "__main__":
    main()
