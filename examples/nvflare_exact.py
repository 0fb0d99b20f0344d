"""An NVFlare aggregator that mixes LoRA adapters exactly: unequal ranks, weighted by their steps.

Clients send state dicts in peft's naming (NumPy) as FLModel.params, and their number of steps or
samples as the meta NUM_STEPS_CURRENT_ROUND. Tried with nvflare 2.9, outside the tests of this
project.
"""

from exact_mix import exact_mix
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator


class ExactMix(ModelAggregator):
    """Keeps the round's adapters, and mixes them by `exact_mix`."""

    def __init__(self):
        """Start without adapters."""
        super().__init__()
        self.reset_stats()

    def accept_model(self, model):
        """Keep a client's adapter."""
        self.states.append(model.params)
        self.samples.append(model.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND])

    def aggregate_model(self):
        """Return the mix of what was accepted."""
        mixed = exact_mix(self.states, self.samples)
        return FLModel(params_type="FULL", params=mixed, meta={"n": len(self.states)})

    def reset_stats(self):
        """Forget the round's adapters."""
        self.states, self.samples = [], []
