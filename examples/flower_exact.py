"""A Flower strategy that mixes LoRA adapters exactly: unequal ranks, weighted by their examples.

Clients send state dicts in peft's naming in one ArrayRecord, and "num-examples". Tried with
flwr 1.42, outside the tests of this project.
"""

from exact_mix import exact_mix
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg


class ExactMix(FedAvg):
    """FedAvg but for the mix, which is `exact_mix`."""

    def aggregate_train(self, server_round, replies):
        """Return the mix of the replies without error, and the metrics as FedAvg has them."""
        contents = [reply.content for reply in replies if not reply.has_error()]
        if not contents:
            return None, None
        states, samples = [], []
        for content in contents:
            (arrays,) = content.array_records.values()
            (metrics,) = content.metric_records.values()
            states.append({key: array.numpy() for key, array in arrays.items()})
            samples.append(metrics[self.weighted_by_key])
        mixed = exact_mix(states, samples)
        record = ArrayRecord({key: Array(X) for key, X in mixed.items()})
        return record, self.train_metrics_aggr_fn(contents, self.weighted_by_key)
