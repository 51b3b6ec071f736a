"""The bundled workload of ``make demo``."""
