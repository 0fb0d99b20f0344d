"""Check the theory of decentralized low-rank adaptation by computation.

    topology    graphs to mixing matrices Pi: TOPOLOGIES, sqrt_rho, spectral_gap
    lowrank     products B A without forming them: Factors, norms, spectra, gauges
    tsvd        the truncated SVD of a mix of products, DeCAF's kernel: tsvd_of_mix
    measure     interference, truncation error, consensus distance, ...
    bounds      one function per lemma or theorem, letters in, number out
    methods     how agents mix: METHODS (DSGD, FedAvg, DLoRA, DeCAF, ...), check_method
    problems    losses with proved constants: PROBLEMS, quadratic, check_problem
    simulate    a method on a problem over a graph: simulate.simulate(Config(...))
    compare     a run against every bound that applies: compare.compare(Config(...))
    moments     exact mean and covariance of decentralized SGD on quadratics
    small_steps what small steps do, to leading order: laws with matrices
    adapters    trained LoRA adapters in peft's format: read, diagnose, merge
    stats       confidence intervals, slopes, extrapolation

All of these names can be imported from here, `from decaf_theory import Factors, bounds`; each is
loaded when it is first used.
"""

TYPE_CHECKING = False  # of typing, which takes long to load: until then a signal is a traceback

__all__ = [
    "METHODS",
    "PROBLEMS",
    "TOPOLOGIES",
    "Config",
    "Factors",
    "__version__",
    "adapters",
    "bounds",
    "check_method",
    "check_problem",
    "compare",
    "lowrank",
    "measure",
    "methods",
    "moments",
    "problems",
    "quadratic",
    "simulate",
    "small_steps",
    "spectral_gap",
    "sqrt_rho",
    "stats",
    "topology",
    "tsvd",
    "tsvd_of_mix",
]

if TYPE_CHECKING:
    from decaf_theory import (
        adapters,
        bounds,
        compare,
        lowrank,
        measure,
        methods,
        moments,
        problems,
        simulate,
        small_steps,
        stats,
        topology,
        tsvd,
    )
    from decaf_theory.lowrank import Factors
    from decaf_theory.methods import METHODS, check_method
    from decaf_theory.problems import PROBLEMS, check_problem, quadratic
    from decaf_theory.simulate import Config
    from decaf_theory.topology import TOPOLOGIES, spectral_gap, sqrt_rho
    from decaf_theory.tsvd import tsvd_of_mix

    __version__: str
else:  # hidden from type checkers, to which it would make every name known
    from importlib import import_module

    HOMES = {
        "METHODS": "methods",
        "PROBLEMS": "problems",
        "TOPOLOGIES": "topology",
        "Config": "simulate",
        "Factors": "lowrank",
        "check_method": "methods",
        "check_problem": "problems",
        "quadratic": "problems",
        "spectral_gap": "topology",
        "sqrt_rho": "topology",
        "tsvd_of_mix": "tsvd",
    }

    def __getattr__(name):
        """Return a name of `__all__`, loading the module that it is or that defines it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            return version()
        module = import_module(f"{__name__}.{HOMES.get(name, name)}")
        return getattr(module, name) if name in HOMES else module

    def version():
        """Return the version, also of files alone where nothing can be installed."""
        from importlib.metadata import PackageNotFoundError, version  # slow to load

        try:
            return version("decaf-theory")
        except PackageNotFoundError:
            return "0+not.installed"

    def __dir__():
        """Return the names that this package offers."""
        return list(__all__)
