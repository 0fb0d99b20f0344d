"""A matrix of wrong settings, each refused in one line that names the setting; none trains."""

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from paper_checks import cli, finetune  # noqa: E402
from tests import paper_runs  # noqa: E402

# KEY=VALUE of --set, or options => words of the message; the first names the setting
WRONG = """
lora.rank=0 => lora.rank | >= 1 | got 0
lora.rank=-3 => lora.rank | >= 1 | got -3
lora.rank=2.0 => lora.rank | an integer
lora.rank=true => lora.rank | an integer
lora.rank="2" => lora.rank | an integer
lora.rank=[2] => lora.rank | an integer
lora.rank=6 => rank 6 | min(d, k) | fc1, 7 x 5
lora.rank=1000000000000000000 => rank 1000 | min(d, k)
lora.rank=1000000000000000000000 => lora.rank | an integer of 64 bits
lora.eta=0 => lora.eta | > 0
lora.eta=-1 => lora.eta | > 0
lora.eta=nan => lora.eta | got nan
lora.eta=inf => lora.eta | got inf
lora.eta="8" => lora.eta | a number
lora.eta=[8] => lora.eta | a number
lora.eta=1e308 => lora.eta | range of float32 | 5e+307
lora.eta=1e-320 => lora.eta | range of float32
lora.alpha=0 => lora.alpha | > 0
lora.alpha=-2 => lora.alpha | > 0
lora.alpha=true => lora.alpha | a number
lora.scaling=eta => lora.scaling | near: eta/r
lora.scaling=1 => lora.scaling | a string
lora.dropout=1 => lora.dropout | < 1
lora.dropout=-0.1 => lora.dropout | >= 0
lora.dropout=nan => lora.dropout | got nan
lora.dropout=true => lora.dropout | a number
lora.targets=fc1 => lora.targets | a list of strings
lora.targets=[1] => lora.targets | a list of strings
lora.targets=[""] => lora.targets | a list of strings
lora.targets={} => lora.targets | a list of strings
lora.targets=["fc3"] => target 'fc3' | near: fc2
lora.targets=["classifier"] => classifier | both a target and part of a head
lora.targets=["fc1","fc1"] => lora.targets | different names | ['fc1', 'fc1']
lora.eta=4 lora.alpha=4 => exactly one of lora.alpha and lora.eta
lora.equal_start=1 => lora.equal_start | true or false
lora.equal_start="yes" => lora.equal_start | true or false
mix.method=dlora_fa lora.equal_start=false => lora.equal_start | dlora_fa
mix.method=centralized lora.equal_start=false => equal_start | centralized
lora.rnak=2 => rnak | [lora] | near: rank
lora=3 => lora | a table
lora.rank.x=3 => lora.rank.x | rank is not a table
data.batch=0 => data.batch | >= 1
data.batch=-1 => data.batch | >= 1
data.batch=2.5 => data.batch | an integer
data.batch=1e3 => data.batch | an integer
data.batch=1000000000000 => data.batch | < 1e+06
data.partition=idd => data.partition | near: iid
data.partition=3 => data.partition | a string
data.partitions=3 => data.partitions | a table
data.partitions.skew=3 => data.partitions.skew | a table
data.partitions.skwe.samples=3 => skwe | near: skew
data.partitions.iid.samples=0 => samples | got 0
data.partitions.iid.samples=100 => samples | 1..18 | got 100
data.partitions.iid.samlpes=3 => samlpes | samples
data.partition=skew data.partitions.skew.proportions=1.5 => share | [0, 1] | got 1.5
data.partition=skew data.partitions.skew.proportions="4-3-3" => proportions | 3-3-4
data.partition=dirichlet data.partitions.dirichlet.alpha=0 => alpha | > 0
data.partition=shots => shots | 1..24 | got 40
data.shots=0 => data.shots | >= 1
data.shots=1.5 => data.shots | an integer
data.train_samples=0 => data.train_samples | >= 1
data.train_samples="all" => data.train_samples | an integer
data.test_samples=-4 => data.test_samples | >= 1
data.max_length=0 => data.max_length | >= 1
data.max_length=8.5 => data.max_length | an integer
data.eval_batch=0 => data.eval_batch | >= 1
data.eval_batch=1.0 => data.eval_batch | an integer
data.bacth=3 => bacth | [data] | near: batch
data=[] => data | a table
task.name=digits data.shots=3 => data.shots | no effect | digits
task.name=digits data.train_samples=3 => data.train_samples | no effect | digits
task.name=toy-images data.test_samples=3 => data.test_samples | no effect | toy-images
model.kind=vit data.max_length=8 => data.max_length | no effect | texts
model.kind=clip data.max_length=8 => data.max_length | no effect | texts
train.steps=0 => train.steps | >= 1
train.steps=-1 => train.steps | >= 1
train.steps=1.5 => train.steps | an integer
train.steps=1000000000 => train.steps | < 1e+09
train.steps=1 => mix.every | train.steps = 1
train.lr=0 => train.lr | > 0
train.lr=-1 => train.lr | > 0
train.lr=nan => train.lr | got nan
train.lr=1e400 => train.lr | got inf
train.lr=1e300 => train.lr | finite in float32
train.lr="1e-3" => train.lr | a number
train.lr=true => train.lr | a number
train.optimizer=adam => train.optimizer | near: adamw
train.optimizer=["sgd"] => train.optimizer | a string
train.weight_decay=-1 => train.weight_decay | >= 0
train.weight_decay=nan => train.weight_decay | got nan
train.weight_decay=1e39 => train.weight_decay | finite in float32
train.betas=[0.9] => train.betas | two numbers
train.betas=[0.9,0.99,0.999] => train.betas | two numbers
train.betas=[0.9,1.0] => train.betas | [0, 1)
train.betas=[-0.1,0.9] => train.betas | [0, 1)
train.betas=[nan,0.9] => train.betas | [0, 1)
train.betas=0.9 => train.betas | a list of numbers
train.betas=["a","b"] => train.betas | a list of numbers
train.betas=[false,false] => train.betas | a list of numbers
train.optimizer=sgd train.betas=[0.8,0.9] => train.betas | no effect | 'adamw'
train.momentum=0.9 => train.momentum | no effect | 'sgd'
train.optimizer=sgd train.momentum=1 => train.momentum | < 1
train.optimizer=sgd train.momentum=-0.5 => train.momentum | >= 0
train.optimizer=sgd train.momentum="x" => train.momentum | a number
train.schedule=cos => train.schedule | near: cosine
train.schedule=cosine train.lr_min=1 => train.lr_min | <= train.lr = 0.05
train.schedule=cosine train.lr_min=-1 => train.lr_min | >= 0
train.schedule=cosine train.lr_min=nan => train.lr_min | got nan
train.lr_min=0.001 => train.lr_min | no effect | 'cosine'
train.period=round => train.period | no effect | 'cosine'
train.schedule=cosine train.period=epoch => train.period | known: run, round
train.order=mix => train.order | near: mix_first
mix.method=decaf train.order=combine => train.order | decaf | 'step_first'
mix.method=flora train.order=combine => train.order | flora | 'step_first'
train.seed=-1 => train.seed | >= 0
train.seed=1.5 => train.seed | an integer
train.seed="a" => train.seed | an integer
train.sequential=1 => train.sequential | true or false
train.gradient_checkpointing="no" => train.gradient_checkpointing | true or false
train.gradient_checkpointing=true => gradient checkpointing | Net
train.autocast=fp16 => train.autocast | near: float16
train.autocast=true => train.autocast | a string
train.autocast=float64 => train.autocast | 'bfloat16'
train.autocast=float16 model.dtype=bfloat16 => train.autocast | model.dtype
train.autocast=bfloat16 model.dtype=float64 => train.autocast | model.dtype
train.lrr=1 => lrr | [train] | near: lr
train.lr.x=3 => train.lr.x | lr is not a table
train.=3 => [train] | known: steps
model.dtype=float16 => model.dtype | train.autocast = 'float16'
model.dtype=float8 => model.dtype | near: float
model.dtype=32 => model.dtype | a string
model.kind=vit model.dtype=float32 => model.dtype | no effect | 'vit'
model.kind=bert => model.kind | known: classifier
model.kind=["vit"] => model.kind | a string
model.from=3 => model.from | a string
model={} => model.from | missing
model.base=x => model.base | no effect | folder
model.hidden_size=0 => model.hidden_size | >= 1
model.hidden_size="16" => model.hidden_size | an integer
model.hiden_size=3 => hiden_size | near: hidden_size
model.kind=clip model.patch_size=2 => patch_size | [model]
model.kind=vit model.steps=10 => model.steps | no effect | 'pretrained'
model.kind=vit model.lr=1e-3 => model.lr | no effect | 'pretrained'
model.kind=classifier model.from=hub:a/b model.hidden_size=8 => model.hidden_size | no effect
model.kind=causal model.from=hub:a/b model.num_key_value_heads=8 => num_key_value_heads | no effect
task.name=3 => task.name | a string
task={} => task.name | missing
task.metric=f2 => task.metric | near: f1
task.metric=1 => task.metric | a string
task.metirc=f1 => metirc | near: metric
mix.agents=0 => mix.agents | >= 1
mix.agents=-2 => mix.agents | >= 1
mix.agents=2.0 => mix.agents | an integer
mix.agents=73 => agents | 1..72
mix.agents=10000 => mix.agents | < 10000
mix.method=decaff => mix.method | near: decaf
mix.method=dsgd => mix.method | 'dsgd'
mix.method=1 => mix.method | a string
mix.method=fed_sb => train.optimizer | fed_sb
mix.graph=rnig => mix.graph | near: ring
mix.graph=3 => mix.graph | a string
mix.agents=3 mix.graph=bipartite => mix.graph | mix.agents 3 | even
mix.every=0 => mix.every | >= 1
mix.every=-1 => mix.every | >= 1
mix.every=1.5 => mix.every | an integer
mix.every=7 => mix.every | train.steps = 6
mix.every_epochs=0 => mix.every_epochs | >= 1
mix.every_epochs=4 => mix.every_epochs = 4 | 20 steps | train.steps = 6
mix.every=2 mix.every_epochs=1 => exactly one of mix.every and mix.every_epochs
mix.form=sorra => mix.form | near: sora
mix.form=3 => mix.form | a string
mix.form=sora => mix.form | 'keep' | use 'drop'
mix.form=sora mix.zero_directions=drop mix.lam=-1 => mix.lam | >= 0
mix.form=sora mix.zero_directions=drop mix.lam=nan => mix.lam | got nan
mix.form=sora mix.zero_directions=drop mix.moments=rotate => mix.moments | 'rotate'
mix.form=sora mix.method=flora => mix.form | 'flora' | base
mix.form=sora mix.zero_directions=drop mix.active=2 => mix.active | no effect | 'rank1_pool'
mix.form=sora lora.train_adapters=false => mix.form | lora.train_adapters
mix.lam=0.5 => mix.lam | no effect | 'sora'
mix.form=sd_lora => mix.form | task.sequence
mix.form=sd_lora mix.carried=1 => mix.carried | true or false
mix.form=rank1_pool mix.overlap=-1 => mix.overlap | >= 0
task.name=digits task.sequence=5 mix.form=rank1_pool mix.merged=2 => mix.active | lora.rank = 2
task.name=digits task.sequence=5 => train.steps | multiple of 5
task.name=digits task.sequence=3 mix.every=4 => mix.every | divide the 2 steps
task.name=digits task.sequence=3 data.validation=5 => data.validation | left out
task.sequence=3 => sequence | [task]
mix.after=0 => mix.after | >= 1
mix.after=2.5 => mix.after | an integer
mix.after=7 => mix.after | train.steps = 6
mix.method=dlora mix.after=3 train.order=mix_first => mix.after | 'mix_first'
mix.zero_directions=kep => mix.zero_directions | near: keep
mix.zero_directions=true => mix.zero_directions | a string
mix.moments=rotated => mix.moments | near: rotate
train.optimizer=sgd mix.moments=keep => mix.moments | no effect
mix.evry=3 => evry | [mix] | near: every
observe.every=0 => observe.every | >= 1
observe.every=1.5 => observe.every | an integer
observe.eval_every=0 => observe.eval_every | >= 1
observe.eval_every="2" => observe.eval_every | an integer
observe.share=1 => observe.share | < 1
protocol.primary=decaf => protocol.primary | METHOD - METHOD
protocol.primary=3 => protocol.primary | a string
observe.patience=0 => observe.patience | >= 1
observe.patience=2 => observe.patience | data.validation
--steps=0 => train.steps | >= 1
observe.checkpoint_every=0 => observe.checkpoint_every | >= 1
observe.checkpoint_every=-5 => observe.checkpoint_every | >= 1
observe.evrey=2 => evrey | [observe] | near: every
observe=3 => observe | a table
name=3 => name | a plain name
name=a/b => name | a plain name
name=.. => name | a plain name
name= => name | a plain name
nmae=x => nmae | near: name
x.y=3 => 'x' | near: mix
origin=3 => origin | a table
origin.loar=ours => 'loar' | [origin]
origin.mix=mine => mix | 'paper' | got 'mine'
a => --set | KEY=VALUE | got 'a'
=3 => --set | KEY=VALUE
--device=gpu => --device | cuda:1 | got 'gpu'
--device=cpu:1 => --device | got 'cpu:1'
--device=meta => --device | got 'meta'
--method=dlor => mix.method | near: dlora
--graph=rings => mix.graph | near: ring
--partition=iidd => data.partition | near: iid
--seed=-1 => train.seed | >= 0
--adapters=nowhere => adapter folders | one per agent
--best => --best | --export
--gpu=A100 => --gpu | --dry-run
--dry-run --export=peft => --export | --dry-run
--dry-run --adapters=a0 => --adapters | --dry-run
--export=peft mix.method=flora => --export | flora
"""
CASES = [line.split(" => ") for line in WRONG.strip().splitlines()]


def test_the_matrix_has_as_many_rows_as_it_should():
    assert len({given for given, _ in CASES}) == len(CASES) >= 117
    tables = {given.partition(".")[0] for given, _ in CASES}
    assert tables >= {"lora", "data", "train", "mix", "observe", "model", "task", "origin"}


@pytest.fixture
def toml(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    monkeypatch.setattr(finetune, "advance", None)  # a run that trains is a TypeError
    return paper_runs.written(tmp_path)


@pytest.mark.parametrize(("given", "words"), CASES, ids=[given for given, _ in CASES])
def test_a_wrong_setting_is_one_line_that_names_it(given, words, toml, capsys):
    options = [("--set", text) if text[:2] != "--" else (text,) for text in given.split()]
    out = toml.parent / "out"
    command = [
        "run",
        str(toml),
        "--out",
        str(out),
        *(word for option in options for word in option),
    ]
    assert cli.main(command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    for word in words.split(" | "):
        assert word in printed.err
    assert not list(out.rglob("*.json*"))
    assert not list(out.rglob("*.ckpt"))


def test_the_settings_around_them_are_right(toml, capsys):
    with pytest.raises(TypeError):  # from `advance`
        cli.main(["run", str(toml), "--out", str(toml.parent / "out")])
