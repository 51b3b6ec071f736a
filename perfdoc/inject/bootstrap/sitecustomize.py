"""Brings perfdoc into the user's interpreter, then hands on to the user's own ``sitecustomize``.

Python imports this module at start-up because its folder is first on PYTHONPATH. It must never break the user's script:
whatever goes wrong is written into the run's folder, and the script runs as if perfdoc were not there.
"""

import os
import sys


def _start():
    if not os.environ.get("PERFDOC_PACKAGES"):
        return
    run_dir = os.environ.get("PERFDOC_RUN_DIR")
    try:
        import importlib.machinery
        import importlib.util

        places = dict(entry.split("=", 1) for entry in os.environ["PERFDOC_PACKAGES"].split(os.pathsep))

        class Finder:
            """Finds perfdoc and the probe packages where the parent has them, whatever this environment has."""

            @staticmethod
            def find_spec(name, path=None, target=None):
                if name not in places:
                    return None
                folder = places[name]
                return importlib.util.spec_from_file_location(
                    name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
                )

        sys.meta_path.insert(0, Finder)
        if not run_dir:  # one of perfdoc's own helpers
            return
        from perfdoc.inject import startup

        if os.environ.get("PERFDOC_WORKER"):
            startup.guard_only(run_dir)  # nothing is watched in a DataLoader worker that was spawned
        else:
            startup.start(run_dir)
    except Exception:
        import traceback

        try:
            with open(os.path.join(run_dir or os.devnull, f"inject-error-{os.getpid()}.txt"), "w") as f:
                traceback.print_exc(file=f)
        except OSError:
            pass


def _hand_on():
    """Run the ``sitecustomize`` that would have run without perfdoc."""
    import importlib.machinery
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_start()
_hand_on()
