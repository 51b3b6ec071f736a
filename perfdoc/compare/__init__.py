"""Two versions of a program, run in turns: the measurement, the decision of the gate, the folders that they run in."""
