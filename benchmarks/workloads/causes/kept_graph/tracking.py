"""Numbers that are followed while training."""

from collections import defaultdict


class Tracker:
    def __init__(self):
        self.values = defaultdict(list)

    def add(self, **numbers):
        for name, number in numbers.items():
            self.values[name].append(number)

    def mean(self, name):
        return float(sum(self.values[name]) / len(self.values[name]))

    def clear(self):
        self.values.clear()
