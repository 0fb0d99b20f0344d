"""ASDA: its parts in closed form, its images, and its trainings."""

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="losses are torch's")
pytest.importorskip("transformers", reason="the encoder needs the extra finetune")
pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

from torch.nn import functional  # noqa: E402

from paper_checks import config, finetune, rules  # noqa: E402
from paper_checks.asda import cells, command, page, play  # noqa: E402
from paper_checks.tasks import adapting, digits, domains  # noqa: E402
from paper_checks.tasks.adapting import Features, Weights  # noqa: E402

EPS = torch.finfo(torch.float64).eps
NOTHING = Weights(first=0, second=0, pseudo=0, source_entropy=0, target_entropy=0, discrepancy=0)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# ---------------------------------------------------------------- the parts in closed form


def test_a_head_sees_the_direction_of_features_alone():
    x = normal(2, 5, 4)
    for scale in (2.0**-30, 8.0):  # powers of two leave the digits of |x| and of x / |x|
        assert torch.equal(adapting.direction(scale * x), adapting.direction(x))
    # a root, a quotient and the scaling round, each by half a unit; the sum of 4 squares by 4
    assert torch.allclose(adapting.direction(3 * x), adapting.direction(x), rtol=8 * EPS, atol=0)
    assert torch.equal(adapting.direction(torch.zeros(1, 1, 3)), torch.zeros(1, 1, 3))


def test_a_reversed_gradient_is_minus_the_gradient_and_the_value_stays():
    x, w = normal(3, 4).requires_grad_(), normal(3, 4, seed=1)
    y = adapting.reversed_gradient(x)
    assert torch.equal(y, x)
    (w * y.sin()).sum().backward()
    assert torch.equal(x.grad, -(w * x.detach().cos()))


def test_entropy_of_equal_scores_is_the_logarithm_and_of_certainty_zero():
    found = adapting.entropy(double([[[3] * 4] * 2, [[0, 1e4, 0, 0]] * 2]))
    assert abs(found[0] - math.log(4)) <= 4 * EPS * math.log(4)
    assert found[1] == 0


def test_entropy_is_that_of_the_probabilities():
    shares = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    scores = double([[[math.log(p) + 7 for p in shares]]])
    wanted = -sum(p * math.log(p) for p in shares)
    # scores near 7 are rounded by 4 eps, and each enters with a slope below 1
    assert abs(adapting.entropy(scores)[0] - wanted) <= 32 * EPS


def test_the_linear_discrepancy_is_that_of_the_means_exactly():
    x, y = [[1, 2], [3, -2], [5, 3], [7, 1]], [[0, 4], [1, 6]]
    means = [[Fraction(sum(c), len(z)) for c in zip(*z, strict=True)] for z in (x, y)]
    wanted = sum((a - b) ** 2 for a, b in zip(*means, strict=True))
    found = adapting.linear(*(double([z]) for z in (x, y)))
    assert Fraction(float(found[0])) == wanted


def test_the_radial_discrepancy_of_two_points_is_known_whatever_their_distance():
    wanted = 2 * sum(1 - math.exp(-1 / h) for h in adapting.KERNELS)
    for distance in (1.0, 1e-3, 4e5):
        x, y = double([[[0, 0]]]), double([[[distance, 0]]])
        assert abs(adapting.radial(x, y)[0] - wanted) <= 64 * EPS * 10  # sums of 20 kernels


def by_loops(x, y):
    """The biased squared discrepancy, pair by pair."""
    points = [*x, *y]
    far = [sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for p in points for q in points]
    mean = sum(far) / (len(points) * (len(points) - 1))

    def k(p, q):
        square = sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
        return sum(math.exp(-square / (h * mean)) for h in adapting.KERNELS)

    def over(u, v):
        return sum(k(p, q) for p in u for q in v) / (len(u) * len(v))

    return over(x, x) + over(y, y) - 2 * over(x, y)


def test_the_radial_discrepancy_is_the_biased_estimate_of_each_agent():
    x, y = normal(2, 3, 4), normal(2, 5, 4, seed=1)
    found = adapting.radial(x, y)
    for i in range(2):
        # 64 pairs of 5 kernels, each off by some eps times an exponent of at most 100
        assert abs(found[i] - by_loops(x[i].tolist(), y[i].tolist())) <= 2000 * EPS


def test_equal_samples_have_no_discrepancy_and_points_that_are_all_alike_a_number():
    x = normal(1, 6, 3)
    shuffled = x[:, torch.tensor([3, 1, 0, 5, 4, 2])]
    assert abs(adapting.radial(x, shuffled)[0]) <= 5 * 24 * EPS  # sums of 12 terms, twice
    assert adapting.radial(x[:, :1].expand(1, 6, 3), x[:, :1].expand(1, 6, 3))[0].abs() <= 120 * EPS


def test_pseudo_labels_are_those_of_sure_examples_and_the_mean_is_over_all():
    # two classes: softmax is 20/21 > .95, 18/19 < .95, and 20/21 for the other class
    weak = double([[[math.log(20), 0.0], [math.log(18), 0.0], [0.0, math.log(20)]]])
    strong = double([[[0.0, 0.0], [5.0, 0.0], [0.0, math.log(3)]]])
    weak, strong = weak.requires_grad_(), strong.requires_grad_()
    found = adapting.pseudo_labelled(weak, strong, 0.95)
    wanted = (math.log(2) + math.log(4 / 3)) / 3
    assert abs(found[0] - wanted) <= 8 * EPS
    found.sum().backward()
    assert weak.grad is None
    assert torch.equal(strong.grad[0, 1], double([0, 0]))


# ---------------------------------------------------------------- the parts together


def features(agents=2, size=6, width=4):
    x = normal(4, agents, size, width)
    labels = torch.from_numpy(np.random.default_rng(5).integers(3, size=(2, agents, size)))
    return [X.requires_grad_() for X in x.clone()], labels


def heads():
    W = [normal(4, 3, seed=seed).requires_grad_() for seed in (7, 8)]
    return W, [lambda x, V=V: adapting.direction(x) @ V / 0.05 for V in W]


def of(weights):
    """The loss of each agent, and the gradients of features and heads."""
    x, labels = features()
    W, own = heads()
    loss = adapting.asda(Features(*x, *labels), *own, weights)
    loss.sum().backward()
    return loss.detach(), [X.grad for X in (*x, *W)]


def test_a_loss_without_parts_is_plain_supervised_training_on_the_source_bit_for_bit():
    loss, grads = of(NOTHING)
    x, labels = features()
    W, own = heads()
    total = sum(
        functional.cross_entropy(head(x[0]).reshape(12, 3), labels[0].flatten(), reduction="none")
        .reshape(2, 6)
        .mean(1)
        for head in own
    )
    total.sum().backward()
    assert torch.equal(loss, total.detach())
    assert torch.equal(grads[0], x[0].grad)
    assert grads[1:4] == [None] * 3  # neither labels of the target nor its images are looked at
    assert all(torch.equal(X, V.grad) for X, V in zip(grads[4:], W, strict=True))


def test_each_part_adds_its_weight_times_its_value():
    x, labels = features()
    _, (first, second) = heads()
    whole = Weights(threshold=0.6)
    found = adapting.asda(Features(*x, *labels), first, second, whole)
    both = torch.cat(x[2:], dim=1)
    parts = {
        "pseudo": adapting.pseudo_labelled(
            *((first(view) + second(view)) / 2 for view in x[2:]), 0.6
        ),
        "source_entropy": adapting.entropy(first(x[0])) / 10,
        "target_entropy": -adapting.entropy(second(both)) / 10,
        "discrepancy": sum(adapting.radial(x[0], v) + adapting.linear(x[0], v) for v in x[2:]) / 20,
    }
    assert set(parts) == set(rules.PARTS)
    for name, value in parts.items():
        without = adapting.asda(Features(*x, *labels), first, second, whole._replace(**{name: 0}))
        assert bool((value != 0).all())
        # differences of sums of a few terms below 100
        assert torch.allclose(found - without, value, rtol=0, atol=16 * 100 * EPS), name
    for share in (whole.first, whole.second):
        ends = [adapting.supervised(Features(*x, *labels), first, end) for end in (0.0, 1.0)]
        mixed = adapting.supervised(Features(*x, *labels), first, share)
        assert torch.equal(ends[1], adapting.cross_entropy(first(x[1]), labels[1]).mean(1))
        assert torch.allclose(mixed, (1 - share) * ends[0] + share * ends[1], rtol=8 * EPS, atol=0)


@pytest.mark.parametrize(("part", "head", "place", "sign"), [
    ("source_entropy", 0, [0], 1),
    ("target_entropy", 1, [2, 3], -1),
])  # fmt: skip
def test_a_head_and_the_encoder_pull_an_entropy_in_opposite_directions(part, head, place, sign):
    _, plain = of(NOTHING)
    _, grads = of(NOTHING._replace(**{part: 0.1}))
    x, _ = features()
    W, own = heads()
    adapting.entropy(own[head](torch.cat([x[i] for i in place], dim=1))).sum().backward()
    moved = grads[4 + head] - plain[4 + head]
    assert torch.allclose(moved, sign * 0.1 * W[head].grad, rtol=1e-9, atol=1e3 * EPS)
    for i in place:
        zero = torch.zeros_like(x[i])
        moved = grads[i] - (zero if plain[i] is None else plain[i])
        assert torch.allclose(moved, -sign * 0.1 * x[i].grad, rtol=1e-9, atol=1e3 * EPS)
        assert bool((x[i].grad != 0).any())


# ---------------------------------------------------------------- the images


def test_domains_turn_and_invert_and_a_view_is_moved_before_it_is_turned():
    picture = np.arange(64.0).reshape(1, 8, 8) / 32 - 1
    turned, inverted, both = domains.DOMAINS.values()
    assert np.array_equal(turned.of(picture)[0], np.rot90(picture[0]))
    assert np.array_equal(both.of(picture), inverted.of(turned.of(picture)))
    seen = domains.Views(picture, [both])
    assert torch.equal(seen[[0]], torch.from_numpy(both.of(picture)[:, None].astype(np.float32)))
    drawn = seen.drawn(np.zeros(50, int), [np.random.default_rng(0)])
    corners = {float(x[0, 4, 4]) for x in drawn}
    near = both.of(picture)[0, 3:6, 3:6].astype(np.float32)
    assert corners == {float(x) for x in near.flat}
    assert bool((drawn[:, 0, [0, -1]] == 1).any())  # a white edge, moved in from outside


def test_a_batch_of_agents_is_that_of_each_and_a_strong_view_differs_in_places():
    seen = domains.Views(normal(4, 8, 8).numpy(), [domains.SOURCE] * 4, strong=True)
    draws = [np.random.default_rng(seed) for seed in (1, 2)]
    both = seen.drawn(np.array([0, 1, 2, 3]), draws)
    for seed, part in ((1, [0, 1]), (2, [2, 3])):
        alone = seen.drawn(np.array(part), [np.random.default_rng(seed)])
        assert torch.equal(both[part], alone)
    blank = domains.Views(np.full((1, 8, 8), -1.0), [domains.SOURCE], strong=True)
    noise = blank.drawn(np.zeros(500, int), [np.random.default_rng(0)]) + 1
    # 32,000 draws: their deviation has a relative error of 1/sqrt(64,000), five of which are .02
    assert abs(float(noise.std()) - domains.NOISE) <= 0.02 * domains.NOISE


def test_source_target_and_test_share_no_image_and_few_of_the_target_have_labels():
    train, apart, test = domains.examples([domains.DOMAINS["turned"]], 3, 20)
    pictures = {
        name: {x.tobytes() for x in train.inputs[name].pictures}
        for name in ("source", "target", "weak")
    }
    shown = {
        name: {np.rot90(x[0].numpy(), -1).astype(np.float32).tobytes() for x in part}
        for name, part in (
            ("test", test.inputs["pixel_values"]),
            ("validation", apart.inputs["pixel_values"]),
        )
    }
    every = [*pictures.values(), *shown.values()]
    assert sum(map(len, every)) == len(set().union(*every))
    assert len(pictures["source"]) == len(train.labels)
    assert len(pictures["target"]) == 3 * len(digits.UNSEEN)
    assert (len(shown["validation"]), len(shown["test"])) == (20, 500)
    assert np.array_equal(train.inputs["weak"].pictures, train.inputs["strong"].pictures)
    known = dict(
        zip(
            (x.tobytes() for x in digits.images(digits.UNSEEN)[0]),
            digits.images(digits.UNSEEN)[1],
            strict=True,
        )
    )
    for name, labels in (("source", train.labels), ("target", train.inputs["target_labels"])):
        assert [known[x.tobytes()] for x in train.inputs[name].pictures] == labels.tolist()


def test_each_domain_has_its_triples_and_each_agent_one_domain():
    both = [domains.DOMAINS[name] for name in ("turned", "inverted")]
    train, _, test = domains.examples(both, 2, None)
    assert len(test.labels) == 500
    for agents in (2, 4, 5):
        shards = play.by_domain(train, agents)
        assert sorted(np.concatenate(shards)) == list(range(len(train.labels)))
        for agent, shard in enumerate(shards):
            assert {train.inputs["weak"].domains[i] for i in shard} == {both[agent % 2]}
    assert np.array_equal(play.by_domain(train, 1)[0], np.arange(len(train.labels)))


# ---------------------------------------------------------------- settings and trainings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task.domains": ["turned", "upside"]}, "unknown domain in task.domains: 'upside'"),
        ({"task.domains": []}, "task.domains must be one or more different of turned, inverted"),
        ({"task.domains": ["turned", "turned"]}, "task.domains must be one or more different of"),
        ({"task.first": 1.0}, "task.first must be >= 0 and < 1, got 1.0"),
        ({"task.temperature": 0.0}, "task.temperature must be > 0 and finite, got 0.0"),
        ({"task.discrepancy": -0.1}, "task.discrepancy must be >= 0 and finite, got -0.1"),
        ({"task.labelled": 0}, "task.labelled must be >= 1 and finite, got 0"),
        ({"task.pseudo": 0.0, "task.threshold": 0.9}, "no effect with task.pseudo = 0; leave it"),
        ({"data.shots": 3}, "data.shots = 3 would have no effect"),
    ],
)
def test_a_wrong_setting_is_refused(changes, said):
    with pytest.raises(config.ConfigError, match=said):
        config.read(cells.EXPERIMENT, changes)


def test_settings_of_asda_are_unknown_to_other_tasks_and_named_as_its_parts():
    with pytest.raises(config.ConfigError, match=r"unknown setting in \[task\]: 'pseudo'"):
        config.read("vit-digits", {"task.pseudo": 1.0})
    assert {*rules.SHARES, *rules.PARTS} == set(Weights._fields)
    assert set(rules.DOMAINS) == set(domains.DOMAINS)


def test_more_labels_than_there_are_images_are_refused():
    with pytest.raises(
        ValueError, match=r"task\.labelled must leave images without labels, got 90"
    ):
        domains.examples([domains.DOMAINS["turned"]], 90, None)


@pytest.fixture(scope="module")
def run():
    """Two agents with domains of their own on a random model, after two steps and a mix."""
    settings = {"model.from": "random", "task.domains": ["turned", "inverted"]}
    settings |= {"mix.agents": 2, "mix.every": 2, "train.steps": 3, "data.batch": 4}
    settings |= {"mix.method": "decaf", "task.threshold": 0.3, "observe.eval_every": 10**6}
    return finetune.prepare(config.read(cells.EXPERIMENT, settings), device="cpu")


def test_agents_together_have_the_losses_and_gradients_of_each_alone(run):
    (together,) = run.batches.at(0)
    with torch.no_grad():  # B = 0 and equal heads would hide whose they are
        for X in run.stacked.parameters():
            X += torch.from_numpy(np.random.default_rng(X.numel()).normal(0, 0.1, X.shape)).float()
    losses = finetune.agents_losses(run, together, 2)
    grads = torch.autograd.grad(losses.sum(), run.stacked.parameters())
    for agent in (0, 1):
        own = together.take(torch.arange(4 * agent, 4 * agent + 4))
        with run.stacked.only(agent):
            alone = finetune.agents_losses(run, own, 1)
            found = torch.autograd.grad(alone.sum(), run.stacked.parameters())
        eps = torch.finfo(torch.float32).eps
        assert torch.allclose(alone[0], losses[agent], rtol=1e3 * eps, atol=0)
        for X, Y in zip(grads, found, strict=True):
            assert (X[agent] - Y[agent]).norm() <= 1e4 * eps * (1 + X[agent].norm())
            assert not Y[1 - agent].any()


def test_a_decentralized_training_mixes_both_heads(run):
    while not run.finished:
        finetune.advance(run)
        if run.step == 2:
            held = [head.weight.detach() for head in run.stacked.heads.values()]
            assert len(held) == 2
            assert all(torch.equal(W[0], W[1]) for W in held)  # two agents on a complete graph
    assert run.sent > 0
    assert 0 <= run.records[-1]["score"] <= 1


# ---------------------------------------------------------------- the trainings that are stored


def test_every_training_is_possible_and_every_comparison_is_of_trainings():
    planned = {(domain, cell.name) for domain, trained in cells.PLAN.items() for cell in trained}
    jobs = cells.jobs()
    assert len({job.name for job in jobs}) == len(jobs)
    assert {(job.domain, job.cell) for job in jobs} == planned
    for domain, name in planned:
        cells.config_of(cells.Job(name, domain, 0))
    for one in cells.EXPECTED:
        assert {(one.domain, one.first), (one.domain, one.second)} <= planned


def test_the_page_shows_the_stored_rows():
    text = page.PAGE.read_text()
    rows = command.STUDY.read()
    assert page.filled(text, rows) == text, "python -m paper_checks asda --page"
    known = {job.name for job in cells.jobs()}
    for row in rows[1:]:
        assert cells.Job(row["cell"], row["domain"], row["seed"]).name in known
        found = 20 * row["accuracy"]  # of 500 images, the mean of four agents or of one
        assert abs(found - round(found)) <= 1e-9
        own = cells.config_of(cells.Job(row["cell"], row["domain"], row["seed"]))
        shown = cells.STEPS * own.data.batch * own.mix.agents
        assert 0 <= row["sure"] <= row["unlabelled"] == shown


def rows_of(cell, domain, numbers):
    """Rows of a cell by seed: accuracy and how many of 100 images were sure."""
    return [
        {"cell": cell, "domain": domain, "seed": seed, "accuracy": accuracy}
        | {"sure": sure, "unlabelled": 100}
        for seed, (accuracy, sure) in numbers.items()
    ]


def columns(table, *found):
    """The cells of the table's line that has all these."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    (line,) = [line for line in lines if {*found} <= {*line}]
    return line


def test_a_comparison_is_paired_by_seed():
    one = cells.EXPECTED[0]
    rows = rows_of(one.second, one.domain, {seed: (10.0 * seed, 0) for seed in (1, 2, 3)})
    rows += rows_of(one.first, one.domain, {seed: (10.0 * seed - 2, 0) for seed in (1, 2, 3, 9)})
    found = columns(page.contrasts(rows), f"{one.first} - {one.second}")
    assert found[3:] == ["-2.0", "[-2.0, -2.0]", "-", "0.0", "as predicted"]


def test_a_comparison_says_its_size_and_what_would_have_been_seen():
    one = cells.EXPECTED[0]
    rows = rows_of(one.first, one.domain, {1: (3.0, 0), 2: (5.0, 0)})
    rows += rows_of(one.second, one.domain, {1: (2.0, 0), 2: (2.0, 0)})
    # differences 1 and 3: mean 2, deviation sqrt 2; T of one degree is Cauchy, of which the tail
    # tan(pi/2 (1 - a)) at a = .05 over all comparisons
    half = 1 / math.tan(math.pi / 2 * 0.05 / len(cells.EXPECTED))
    found = columns(page.contrasts(rows), f"{one.first} - {one.second}")
    assert found[3:6] == ["+2.0", f"[{2 - half:+.1f}, {2 + half:+.1f}]", "+1.4"]
    # seen with 80 %: P(|Z + c| > t |Y|) = .8, c = delta sqrt(2) / sqrt(2), Z and Y normal; for the
    # large t of this level Z hardly matters: P(|Y| < c / t) = .8 at 1.28155
    assert abs(float(found[6]) / (1.28155 * half) - 1) <= 1e-3
    assert found[7] == "not seen"


def test_the_page_counts_the_images_that_get_a_pseudo_label():
    domain, other = "turned", "inverted"
    rows = rows_of("asda", domain, {1: (40.0, 3), 2: (50.0, 11)})
    rows += rows_of("asda", other, {1: (0.0, 100)})
    rows += rows_of("no-pseudo", domain, {1: (0.0, 90)})
    assert columns(page.cells(rows), domain, "asda")[3:] == ["45.0", "7.1", "7.0", "2"]
    said = page.pseudo(rows)
    assert f"On the {domain} target 14 of the 200 unlabelled images that 2 trainings" in said
    assert "at most 11 in one training." in said


def test_a_row_counts_the_images_of_all_steps(monkeypatch):
    class Three:
        step, sent, records = 0, 7, ({"score": 0.25},)
        finished = property(lambda run: run.step == 3)

    def advance(run):
        run.step += 1

    monkeypatch.setattr(play, "started", lambda job: Three())
    monkeypatch.setattr(play, "sure", lambda run: torch.tensor([True, run.step == 1]))
    monkeypatch.setattr(finetune, "advance", advance)
    (row,) = play.play(cells.Job("asda", "turned", 5))
    assert row == {
        **{"cell": "asda", "domain": "turned", "seed": 5},
        **{"accuracy": 25.0, "sent": 7, "unlabelled": 6, "sure": 4},
    }


def test_sure_are_the_images_to_which_both_heads_together_give_the_threshold():
    """Scores of heads that are known: the mean of 2 log 9 and 0 is log 9, a probability of .9."""

    class Model:
        def __call__(self, pixel_values):
            return (self.first(pixel_values) + self.second(pixel_values)) / 2

        def first(self, x):
            return torch.stack([2 * x, 0 * x], dim=-1)

        def second(self, x):
            return 0 * self.first(x)

    weak = double([math.log(9) + 1e-9, math.log(9) - 1e-9, -math.log(9) - 1e-9])
    batches = SimpleNamespace(at=lambda t: [SimpleNamespace(inputs={"weak": weak + t})])
    known = SimpleNamespace(
        config=SimpleNamespace(task={"threshold": 0.9}),
        task=SimpleNamespace(scores=lambda model, inputs, agents: model(**inputs)),
        stacked=SimpleNamespace(model=Model(), agents=1),
        batches=batches,
        step=0,
    )
    assert play.sure(known).tolist() == [True, False, True]
    known.config.task.clear()
    assert not play.sure(known).any()
    known.step = 2
    assert play.sure(known).tolist() == [True, True, False]
