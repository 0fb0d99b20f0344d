"""The mutation table, mutants.txt: one-line breakages, each of which some test must catch.

Next to it, explained.txt: breakages that no test could catch, with the reason.

A breakage is run against the tests of its file or package (TESTS), fastest first.
"""

from pathlib import Path

from tests.mutation import Change, written

BOUNDS = "decaf_theory/bounds"
TSVD = ["tests/test_tsvd.py", "tests/test_tsvd_inputs.py"]
COMPILED = "tests/test_compiled.py"
PANEL = ["tests/test_tsvd_stacks.py", "tests/test_tsvd_panel.py"]
TRACED = ["tests/test_simulate.py", "tests/test_simulate_trace.py"]
PROTOCOL = ["tests/test_paper_protocol.py", "tests/test_paper_table.py"]
EXACT = ["tests/test_methods_exact.py"]
SORA = "tests/test_sora.py"
WORKED = [
    "tests/test_claims_worked.py",
    "tests/test_claims_worked_truncation.py",
    "tests/test_claims_assumptions.py",
]


def extremal(*names: str) -> list[str]:
    """Return the tests that the extremal rows of these claims reach their bounds."""
    test = "tests/test_claims_extremal.py::test_every_extremal_row_reaches_its_bound"
    return [f"{test}[{name}]" for name in names]


def outcome(name: str) -> list[str]:
    """Return the test that a claim has its expected outcome."""
    return [f"tests/test_claims.py::test_a_claim_has_its_expected_outcome[{name}]"]


TESTS = {
    BOUNDS: [
        "tests/test_bounds.py",
        "tests/test_bounds_rates.py",
        "tests/test_bounds_derived.py",
        "tests/test_bounds_domains.py",
    ],
    "decaf_theory/topology/contacts.py": ["tests/test_contacts.py"],
    "decaf_theory/topology/reversible.py": ["tests/test_reversible.py"],
    "decaf_theory/topology": [
        "tests/test_topology.py",
        "tests/test_topology_random.py",
        "tests/test_topology_sparse.py",
        "tests/test_contacts.py",
        "tests/test_reversible.py",
    ],
    "decaf_theory/plan/networks.py": ["tests/test_plan_networks.py"],
    "decaf_theory/plan": ["tests/test_plan.py"],
    "decaf_theory/commands/plan.py": ["tests/test_plan.py"],
    "decaf_theory/conformance": ["tests/test_conformance.py"],
    "decaf_theory/lowrank.py": ["tests/test_lowrank.py", "tests/test_measure.py"],
    "decaf_theory/measure.py": ["tests/test_measure.py"],
    "decaf_theory/names.py": ["tests/test_names.py"],
    "decaf_theory/concentration.py": ["tests/test_concentration.py"],
    "decaf_theory/tsvd/flops.py": ["tests/test_cost.py"],
    "decaf_theory/tsvd/grouping.py": [
        "tests/test_tsvd_grouping.py",
        "tests/test_measure.py",
        COMPILED,
        *PANEL,
        *TSVD,
    ],
    "decaf_theory/tsvd/jacobi.py": ["tests/test_jacobi.py"],
    **{
        f"decaf_theory/tsvd/{name}.py": ["tests/test_tsvd_core.py", COMPILED, *PANEL, *TSVD]
        for name in ("conditions", "core", "precision", "terms")
    },
    "decaf_theory/tsvd/solvers.py": ["tests/test_solvers.py", COMPILED, "tests/test_tsvd_core.py"],
    "decaf_theory/tsvd/panel.py": [*PANEL, COMPILED, *TSVD],
    "decaf_theory/tsvd/redo.py": [*PANEL, *TSVD],
    "decaf_theory/tsvd/full_precision.py": ["tests/test_tsvd_precision.py"],
    "decaf_theory/tsvd/gradients.py": ["tests/test_tsvd_gradients.py"],
    "decaf_theory/tsvd": [*TSVD, *PANEL, "tests/test_tsvd_lapack.py"],
    "decaf_theory/bench/lapack.py": ["tests/test_tsvd_lapack.py"],
    "decaf_theory/bench/peers.py": ["tests/test_bench_peers.py"],
    "decaf_theory/bench/cases.py": ["tests/test_bench_peers.py"],
    "decaf_theory/bench/goals.py": ["tests/test_bench_goals.py"],
    "decaf_theory/bench/accuracy.py": ["tests/test_bench_goals.py"],
    "decaf_theory/bench/gpu.py": ["tests/test_bench_gpu.py"],
    "decaf_theory/bench/memory.py": ["tests/test_bench_goals.py"],
    "decaf_theory/bench/merging.py": ["tests/test_bench_merging.py"],
    "decaf_theory/bench/simulation.py": ["tests/test_bench_whole.py"],
    "decaf_theory/bench/whole.py": ["tests/test_bench_whole.py"],
    "decaf_theory/bench/decent.py": ["tests/test_bench_whole.py"],
    "decaf_theory/bench/scaling.py": ["tests/test_bench_scaling.py"],
    "decaf_theory/bench/extrapolation.py": ["tests/test_bench_scaling.py"],
    "decaf_theory/bench": ["tests/test_bench.py"],
    "decaf_theory/methods/base.py": [
        "tests/test_methods_exact.py",
        "tests/test_methods.py",
        "tests/test_methods_identities.py",
        "tests/test_contracts.py",
        "tests/test_simulate_graphs.py",
        "tests/test_simulate_faults.py",
        "tests/test_methods_merging.py",
        "tests/test_cli.py",
    ],
    "decaf_theory/findings.py": ["tests/test_check_method.py", "tests/test_check_problem.py"],
    **{
        f"decaf_theory/methods/{name}.py": ["tests/test_check_method.py"]
        for name in ("checking", "gaps", "promises")
    },
    "decaf_theory/methods/cost.py": ["tests/test_cost.py", "tests/test_cli.py"],
    "decaf_theory/methods/feedback.py": ["tests/test_feedback.py"],
    "decaf_theory/methods/decoupled.py": ["tests/test_forms_in_turn.py"],
    "decaf_theory/methods/pool.py": ["tests/test_forms_in_turn.py"],
    "decaf_theory/problems/sequence.py": ["tests/test_task_sequences.py"],
    "decaf_theory/continual.py": ["tests/test_task_sequences.py"],
    **{
        f"decaf_theory/methods/{name}.py": ["tests/test_methods_merging.py", *EXACT]
        for name in ("merged", "whole", "confined")
    },
    "decaf_theory/methods/channel.py": ["tests/test_methods_channel.py"],
    "decaf_theory/methods/draws.py": ["tests/test_methods_channel.py"],
    "decaf_theory/methods/private.py": [
        "tests/test_methods_steps.py",
        "tests/test_methods_exact.py",
    ],
    "decaf_theory/methods/field.py": ["tests/test_methods_field.py", *EXACT],
    "decaf_theory/methods/flow.py": ["tests/test_methods_steps.py"],
    "decaf_theory/methods/form": ["tests/test_methods_exact.py", "tests/test_methods.py", SORA],
    "decaf_theory/methods/gates.py": [SORA],
    "decaf_theory/methods": [
        "tests/test_methods_exact.py",
        "tests/test_methods.py",
        "tests/test_methods_identities.py",
        "tests/test_contracts.py",
        "tests/test_cli.py",
    ],
    "decaf_theory/distributed": ["tests/test_distributed.py"],
    "paper_checks/ranks.py": ["tests/test_distributed.py"],
    "decaf_theory/simulate/trace.py": [*TRACED, "tests/test_methods_merging.py"],
    "decaf_theory/simulate": [
        "tests/test_simulate.py",
        "tests/test_simulate_worked.py",
        "tests/test_simulate_trace.py",
        "tests/test_simulate_faults.py",
        "tests/test_simulate_own.py",
        "tests/test_simulate_own_bad.py",
        "tests/test_simulate_graphs.py",
    ],
    "decaf_theory/problems": ["tests/test_problems.py"],
    "decaf_theory/small_steps.py": ["tests/test_small_steps.py", "tests/test_kinds_of_mixing.py"],
    "decaf_theory/moments": ["tests/test_moments.py"],
    "decaf_theory/adapters/patterns.py": ["tests/test_adapters_patterns.py"],
    "decaf_theory/faults.py": ["tests/test_endings.py"],
    "decaf_theory/terminal.py": ["tests/test_doors.py"],
    "decaf_theory/adapters/sealing.py": ["tests/test_adapters_merging.py"],
    **{
        f"decaf_theory/adapters/{name}.py": ["tests/test_adapters_namings.py"]
        for name in ("agents", "lone", "namings", "pairing")
    },
    "decaf_theory/adapters/records.py": ["tests/test_adapters_namings.py"],
    "decaf_theory/adapters/stored.py": [
        "tests/test_adapters.py",
        "tests/test_adapters_namings.py",
    ],
    **{
        f"decaf_theory/adapters/{name}.py": ["tests/test_adapters_merge_to.py"]
        for name in ("combining", "merging", "parts", "rounding")
    },
    "decaf_theory/adapters/rules.py": ["tests/test_merge_command.py"],
    "decaf_theory/adapters/certificate.py": ["tests/test_merge_command.py"],
    "decaf_theory/commands/merge.py": ["tests/test_merge_command.py"],
    "decaf_theory/adapters/streams.py": ["tests/test_adapters_merging.py"],
    "decaf_theory/adapters/targets.py": [
        "tests/test_merge_command.py",
        "tests/test_adapters_merging.py",
        "tests/test_doors.py",
    ],
    "decaf_theory/files.py": ["tests/test_files.py"],
    "decaf_theory/interrupts.py": ["tests/test_interrupts.py"],
    "decaf_theory/sums.py": ["tests/test_sums.py"],
    "decaf_theory/adapters/geometry.py": ["tests/test_adapters_geometry.py"],
    "decaf_theory/adapters/sizes.py": ["tests/test_adapters_geometry.py"],
    "decaf_theory/adapters/diagnosis.py": [
        "tests/test_adapters_diagnosis.py",
        "tests/test_adapters_geometry.py",
    ],
    **{
        f"decaf_theory/{path}.py": ["tests/test_adapters_advice.py"]
        for path in ("adapters/advice", "adapters/reasons", "adapters/drawing", "commands/targets")
    },
    "decaf_theory/pictures.py": ["tests/test_adapters_advice.py", "tests/test_compare.py"],
    "decaf_theory/compare/path.py": [
        "tests/test_instances_rates.py",
        "tests/test_compare.py",
        "tests/test_compare_kinds.py",
    ],
    "decaf_theory/compare": ["tests/test_compare.py", "tests/test_compare_kinds.py"],
    "decaf_theory/adapters": ["tests/test_adapters.py", "tests/test_adapters_merging.py"],
    "decaf_theory/stats.py": ["tests/test_stats.py"],
    "decaf_theory/problems/base.py": ["tests/test_problems.py"],
    "decaf_theory/problems/quadratic.py": ["tests/test_quadratic.py"],
    "decaf_theory/problems/checking.py": ["tests/test_check_problem.py"],
    "decaf_theory/problems/searching.py": ["tests/test_check_problem.py", "tests/test_problems.py"],
    "verification/instances/laws.py": ["tests/test_topology_random.py"],
    "verification/instances": [
        "tests/test_guards.py",
        "tests/test_instances.py",
        "tests/test_instances_rates.py",
        *WORKED,
        "tests/test_claims_worked_rates.py",
        "tests/test_claims_smoothness.py",
        "tests/test_claims_rates.py",
        *extremal("T2-sharp", "T9", "T11", "T25", "T29", "T35", "T36", "T37"),
    ],
    "verification/claims/smoothness": [*WORKED, *extremal("T1", "T2", "T5", "T6", "T7")],
    "verification/claims/interference": [*WORKED, *extremal("T9", "T10", "T11", "T13", "T14")],
    "verification/claims/truncation/aligned.py": outcome("T20-aligned"),
    "verification/claims/truncation/error_feedback.py": outcome("T22-feedback"),
    "verification/claims/truncation": [
        *WORKED,
        "tests/test_claims_truncation.py",
        *extremal("T16", "T18", "T18-rank", "T19"),
    ],
    "verification/claims/rates/reversible": [
        *outcome("T37-reversible-rate"),
        *outcome("T37-reversible"),
        "tests/test_rates_properties.py",
    ],
    "verification/claims/rates/error_feedback.py": outcome("T32-feedback"),
    "verification/claims/rates": [
        "tests/test_claims_worked_rates.py",
        "tests/test_instances_rates.py",
        *WORKED,
        *extremal("T25", "T25-sharp", "T29"),
    ],
    "verification/claims/problems/competing_targets.py": outcome("P6"),
    "verification/claims/related": ["tests/test_claims_worked_rates.py", WORKED[1]],
    "verification/curves": ["tests/test_claims_curves.py"],
    "paper_checks/tournament": ["tests/test_tournament.py"],
    "verification/claim.py": ["tests/test_claim.py"],
    "verification/judge.py": ["tests/test_judge.py"],
    "verification/reaches.py": ["tests/test_judge.py"],
    "verification/evidence.py": ["tests/test_evidence.py"],
    "paper_checks/reported.py": ["tests/test_paper_table.py"],
    "paper_checks/choosing.py": PROTOCOL,
    "paper_checks/selection.py": PROTOCOL,
    "paper_checks/contrasts.py": PROTOCOL,
    "paper_checks/protocol.py": PROTOCOL,
    "paper_checks/scores.py": PROTOCOL,
    "paper_checks/endpoints.py": ["tests/test_endpoints.py", "tests/test_validation.py"],
    "paper_checks/asda": ["tests/test_asda.py"],
    "paper_checks/tasks/adapting.py": ["tests/test_asda.py"],
    "paper_checks/tasks/domains.py": ["tests/test_asda.py"],
    "paper_checks/tasks/records.py": ["tests/test_validation.py"],
    "paper_checks/effects": ["tests/test_effects.py"],
    "paper_checks/calibration.py": ["tests/test_calibration.py"],
    "paper_checks/observe.py": ["tests/test_endpoints.py"],
    "paper_checks/ensemble": ["tests/test_ensemble.py"],
    "paper_checks/merging": ["tests/test_merging.py"],
    "paper_checks/prism": ["tests/test_prism.py"],
    "paper_checks/benchmark": ["tests/test_benchmark.py"],
    "paper_checks/gpu": ["tests/test_gpu_script.py"],
    "paper_checks/benchmark/controls.py": ["tests/test_benchmark_runs.py"],
    "verification/harness.py": ["tests/test_paper_table.py", "tests/test_stamps.py"],
    "verification/provenance.py": ["tests/test_store.py", "tests/test_stamps.py"],
    "verification/store.py": ["tests/test_store.py"],
    "verification/workers.py": ["tests/test_workers.py"],
    "verification/serving.py": ["tests/test_cluster.py"],
    "paper_checks/submitting.py": ["tests/test_cluster_sweep.py"],
    "paper_checks/partition.py": ["tests/test_partition.py"],
    "paper_checks/tasks/splits.py": ["tests/test_splits.py"],
    "paper_checks/tasks/hub.py": ["tests/test_hub.py"],
    "paper_checks/mixing.py": ["tests/test_shards.py"],
    "paper_checks/shards.py": ["tests/test_shards.py"],
    "paper_checks/tasks/own.py": ["tests/test_own_data.py"],
    "paper_checks/stamp.py": ["tests/test_stamps.py", "tests/test_finetune_longer.py"],
    "paper_checks/finetune.py": [
        "tests/test_stamps.py",
        "tests/test_finetune_longer.py",
        "tests/test_finetune_half.py",
    ],
    "paper_checks/closing.py": ["tests/test_finetune_longer.py"],
    "paper_checks/follow.py": ["tests/test_finetune_longer.py"],
    "paper_checks/rounds.py": ["tests/test_rounds.py"],
    "paper_checks/scaling.py": ["tests/test_finetune_half.py"],
    "paper_checks/devices.py": ["tests/test_devices.py"],
    "paper_checks/checkpoint.py": [
        "tests/test_checkpoint.py",
        "tests/test_stamps.py",
        "tests/test_distributed.py",
    ],
}

FOLDER = Path(__file__).parent


def table(name: str) -> list[tuple[str, str, str]]:
    """Return (file, old text, new text) of every breakage in a text file of this folder."""
    entries, path = [], ""
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith("["):
            path = line.strip("[]")
        elif line and not line.startswith("#"):
            old, new = line.split("  =>  ")
            entries.append((path, old, new))
    return entries


def changes(name: str = "mutants.txt") -> list[Change]:
    """Return a table as changes; an entry whose text has changed fails here, by name."""
    return [written(*entry) for entry in table(name)]


def asked_for(path: str) -> list[str]:
    """Return the test files that cover a file."""
    return TESTS[max((room for room in TESTS if path.startswith(room)), key=len)]
