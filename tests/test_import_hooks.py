"""A module is heard of when it has been imported, each time, however it is looked for before and whoever finds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import perfdoc
from perfdoc.core.registry import packages

PERFDOC = Path(perfdoc.__file__).parent

PRELUDE = """
import json, sys, time
from perfdoc.inject.system import import_hooks
heard, errors = [], []
import_hooks.failed = errors.append
def hook(module):
    heard.append((module.__name__, module.__dict__.get("VALUE")))
import_hooks.when_imported("slowlib", hook)
import importlib, importlib.util, importlib.machinery, pkgutil, threading
def settle():
    for _ in range(200):
        if heard: break
        time.sleep(0.01)
"""

WAYS = {
    "plainly": "import slowlib",
    "after a look": 'assert importlib.util.find_spec("slowlib"); import slowlib',
    "after many looks, in threads too": """
        looks = [threading.Thread(target=importlib.util.find_spec, args=("slowlib",)) for _ in range(8)]
        [t.start() for t in looks]; [t.join() for t in looks]
        assert importlib.util.find_spec("slowlib") is not importlib.util.find_spec("slowlib")
        import slowlib
    """,
    "after a look at a part of it": 'assert importlib.util.find_spec("slowlib.part"); import slowlib',
    "by a part of it": "import slowlib.part; assert slowlib.part.DEEP == 2",
    "by import_module": 'importlib.import_module("slowlib")',
    "by __import__": '__import__("slowlib.part")',
    "in two threads at once": """
        threads = [threading.Thread(target=lambda: importlib.import_module("slowlib")) for _ in range(2)]
        [t.start() for t in threads]; [t.join() for t in threads]
    """,
    "at the second try": """
        import os
        os.environ["SLOWLIB_FAILS"] = "1"
        try:
            import slowlib
        except ImportError:
            pass
        else:
            raise SystemExit("it should have failed")
        assert heard == [], "an import that failed was heard of"
        del os.environ["SLOWLIB_FAILS"]
        import slowlib
    """,
    "lazily": """
        spec = importlib.util.find_spec("slowlib")
        loader = importlib.util.LazyLoader(spec.loader)
        spec.loader = loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["slowlib"] = module
        loader.exec_module(module)
        import os, collections
        assert heard == [], "a lazy module was heard of before it was used"
        assert module.VALUE == 1
    """,
    "from its spec by hand": """
        spec = importlib.util.find_spec("slowlib")
        module = importlib.util.module_from_spec(spec)
        sys.modules["slowlib"] = module
        spec.loader.exec_module(module)
    """,
    "with another finder before ours": """
        class First:
            @staticmethod
            def find_spec(name, path=None, target=None):
                return importlib.machinery.PathFinder.find_spec(name, path, target)
        sys.meta_path.insert(0, First)
        import slowlib
    """,
    "by import_module with another finder before ours": """
        class First:
            @staticmethod
            def find_spec(name, path=None, target=None):
                return importlib.machinery.PathFinder.find_spec(name, path, target)
        sys.meta_path.insert(0, First)
        importlib.import_module("slowlib")
        import html.entities
        settle()
    """,
    "with our finder cleared away": """
        finders = importlib.machinery
        sys.meta_path[:] = [finders.BuiltinImporter, finders.FrozenImporter, finders.PathFinder]
        import slowlib
    """,
    "with another list of finders": """
        sys.meta_path = [f for f in sys.meta_path if type(f).__module__ != "perfdoc.inject.system.import_hooks"]
        import slowlib
        import html.entities
        settle()
    """,
    "by a loader that takes no attributes": """
        class Strict:
            __slots__ = ("inner",)
            def create_module(self, spec): return None
            def exec_module(self, module): self.inner.exec_module(module)
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name != "slowlib": return None
                spec = importlib.machinery.PathFinder.find_spec(name, path, target)
                strict = Strict(); strict.inner = spec.loader; spec.loader = strict
                return spec
        sys.meta_path.insert(0, Finder())
        import slowlib
    """,
    "by a finder without find_spec beside": """
        class Old:
            pass
        sys.meta_path.insert(0, Old())
        sys.meta_path.pop(0)
        import slowlib
    """,
    "after the caches were invalidated": "importlib.invalidate_caches(); import slowlib",
    "put into sys.modules past everything": """
        spec = importlib.machinery.PathFinder.find_spec("slowlib")
        module = importlib.util.module_from_spec(spec)
        sys.modules["slowlib"] = module
        spec.loader.exec_module(module)
        import html.entities
        settle()
    """,
}


def run(folder: Path, script: str, **env: str) -> list[str]:
    """Run a script where slowlib can be imported; its standard output, line by line."""
    library = folder / "slowlib"
    library.mkdir(exist_ok=True)
    (library / "__init__.py").write_text(
        'import os\nif os.environ.get("SLOWLIB_FAILS"):\n    raise ImportError("not now")\nVALUE = 1\n')
    (library / "part.py").write_text("DEEP = 2\n")
    ran = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False,
                         env={**os.environ, "PYTHONPATH": f"{PERFDOC.parent}{os.pathsep}{folder}", **env})
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("way", WAYS)
def test_an_import_is_heard_of_once(tmp_path: Path, way: str) -> None:
    """Whatever is done before, and whoever finds the module, its import is heard of exactly once, when it is complete."""
    script = f"{PRELUDE}\n{textwrap.dedent(WAYS[way])}\nprint(json.dumps([heard, errors, sys.modules['slowlib'].VALUE]))"
    assert json.loads(run(tmp_path, script)[-1]) == [[["slowlib", 1]], [], 1]


def test_a_look_alone_is_no_import(tmp_path: Path) -> None:
    """Asking for a module that is never imported, or is not there, is heard of by nobody."""
    script = PRELUDE + 'importlib.util.find_spec("slowlib"); print(len(heard), "slowlib" in sys.modules, end=" ")\n'
    script += 'import_hooks.when_imported("nolib", hook); print(importlib.util.find_spec("nolib"))'
    assert run(tmp_path, script) == ["0 False None"]


def test_a_module_looks_as_it_would_without_us(tmp_path: Path) -> None:
    """Loader, source and data of an imported module are the library's own; a spec that was looked at shows a loader like it."""
    script = PRELUDE + textwrap.dedent("""
        spec = importlib.util.find_spec("slowlib")
        assert isinstance(spec.loader, importlib.machinery.SourceFileLoader)
        assert spec.loader.get_filename("slowlib").endswith("__init__.py")
        import slowlib, inspect, importlib.resources
        assert type(slowlib.__loader__) is importlib.machinery.SourceFileLoader
        assert type(slowlib.__spec__.loader) is importlib.machinery.SourceFileLoader
        assert "VALUE = 1" in inspect.getsource(slowlib)
        assert b"DEEP" in pkgutil.get_data("slowlib", "part.py")
        assert (importlib.resources.files("slowlib") / "part.py").read_text() == "DEEP = 2\\n"
        importlib.reload(slowlib)
        print(len(heard))
    """)
    assert run(tmp_path, script) == ["2"]


def test_a_hook_that_fails_fails_no_import(tmp_path: Path) -> None:
    """What a hook raises is handed to perfdoc; the import goes on, and so do other hooks."""
    script = PRELUDE + textwrap.dedent("""
        def bad(module): raise RuntimeError("a hook of ours")
        import_hooks._finder.hooks["slowlib"].insert(0, bad)
        import slowlib
        print(len(heard), "a hook of ours" in errors[0])
    """)
    assert run(tmp_path, script) == ["1 True"]


def test_torch_is_watched_though_others_asked_for_it_first(tmp_path: Path) -> None:
    """A script that asks whether torch is there, and one whose sitecustomize does, is watched, and perfdoc says it is in."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    settings = {"lap": 0, "budget": 5.0, "spent": 0.0, "guard": True, "protect": [str(tmp_path)], "experiment": True,
                "only": [], "packages": packages(), "smallest_effect": 0.02, "seed": 1, "history": None, "excluded": []}
    (run_dir / "settings.json").write_text(json.dumps(settings))
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text('import importlib.util\nassert importlib.util.find_spec("torch")\n')
    script = 'import importlib.util; assert importlib.util.find_spec("torch"); import torch; print(torch.ones(1).item())'
    places = {"perfdoc": PERFDOC, "perfdoc_probes": next(iter(importlib_path("perfdoc_probes")))}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PERFDOC / "inject" / "bootstrap"), str(site)]),
             "PERFDOC_RUN_DIR": str(run_dir),
             "PERFDOC_PACKAGES": os.pathsep.join(f"{name}={place}" for name, place in places.items())},
    )
    assert (ran.returncode, ran.stdout) == (0, "1.0\n"), ran.stderr
    events = [json.loads(line) for file in run_dir.glob("events-*") for line in file.read_text().splitlines()]
    assert [e["e"] for e in events if e["e"] in ("entered", "process", "seen")] == ["entered", "process", "seen"]


def importlib_path(name: str) -> list[str]:
    import importlib.util

    spec = importlib.util.find_spec(name)
    assert spec is not None
    return list(spec.submodule_search_locations or [])
