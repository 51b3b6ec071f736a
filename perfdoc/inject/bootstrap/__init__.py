"""The folder that goes on PYTHONPATH: it holds nothing but the ``sitecustomize`` that brings perfdoc in."""
