"""What docs/reliability.md says cannot happen, of the sources: no pickle, eval, shell, network."""

import ast
import pickle
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    path
    for room in ("decaf_theory", "verification", "figures", "paper_checks")
    for path in sorted((ROOT / room).rglob("*.py"))
]
RUN_CODE = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "code",
    "runpy",
    "ctypes",
}
REACH_OUT = {"socket", "ssl", "http", "urllib", "requests", "httpx", "ftplib", "smtplib", "xmlrpc"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "numpy.load",
}
# import_module(...) of names that stand in the sources
DYNAMIC = {"decaf_theory/__init__.py", "decaf_theory/bench/decent_program.py"}
DYNAMIC |= {"decaf_theory/programs.py"}
DYNAMIC |= {"decaf_theory/bench/peers.py", "verification/claims/__init__.py", "verification/run.py"}
# the module that a user names to `decaf check` is executed, and nowhere else is one
# a worker of a cluster, which runs what its scheduler sends, reads back results of its own, and
# the ranks of one run tell each other what they hold, as torch's own collectives do
WORKERS = {"verification/serving.py", "decaf_theory/distributed/collective.py"}
NAMED_BY_USERS = {"decaf_theory/conformance/loading.py"}


def nodes(text, *kinds):
    """The nodes of these kinds in a source, a list of each."""
    found = [[] for _ in kinds]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kinds):
            found[kinds.index(type(node))].append(node)
    return found


def name(call):
    return ast.unparse(call.func)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_runs_no_code_of_a_file_and_opens_no_connection(path):
    text = path.read_text(encoding="utf-8")
    imports, origins, calls = nodes(text, ast.Import, ast.ImportFrom, ast.Call)
    imported = {alias.name for node in imports for alias in node.names}
    imported |= {str(node.module) for node in origins}
    refused = RUN_CODE | REACH_OUT
    if str(path.relative_to(ROOT)) in WORKERS:
        refused.remove("pickle")
    assert not {found.split(".")[0] for found in imported} & refused
    calls = [call for call in calls if ast.unparse(call) != "exec('')"]  # which runs nothing
    called = [name(call) for call in calls]
    assert not set(called) & CALLS
    for call, words in zip(calls, called, strict=True):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        assert "shell" not in given
        assert "trust_remote_code" not in given
        assert "allow_pickle" not in given
        if words.endswith("import_module"):
            assert str(path.relative_to(ROOT)) in DYNAMIC | NAMED_BY_USERS
        if words.endswith("exec_module"):
            assert str(path.relative_to(ROOT)) in NAMED_BY_USERS
        if words == "getattr":
            assert ast.unparse(call.args[0]) not in ("torch", "np", "numpy", "transformers")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_are_read_and_written_in_utf_8(path):
    if "counterexamples" in path.parts:  # they read JSON of ours, which is ASCII
        return
    source = path.read_text(encoding="utf-8")
    if not any(word in source for word in ("open", "read_text", "write_text")):
        return
    for call in nodes(source, ast.Call)[0]:
        method = name(call).split(".")[-1]
        text = method in ("read_text", "write_text")
        if name(call) == "open" or method == "open":
            modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
            text = any(mode in ("r", "w", "a", "x") for mode in modes) or not call.args
        if text and not name(call).startswith(("os.", "Image.")):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("encoding") in ("'utf-8'", "'utf-8-sig'"), f"line {call.lineno}"


def test_weights_that_come_as_a_pickle_are_not_read(tmp_path):
    torch = pytest.importorskip("torch", reason="models are torch's")
    transformers = pytest.importorskip("transformers", reason="models are transformers'")
    from paper_checks.tasks import models

    ran = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return (Path.touch, (ran,))

    transformers.BertConfig(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    ).save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    place = models.Source(str(tmp_path), None, "base")
    with pytest.raises(ValueError, match="model base cannot be loaded"):
        models.pretrained(transformers.BertModel, place)
    assert not ran.exists()
    assert torch is not None
