"""From which kitchen is a recipe? The recipes are kept as objects; what happens around a batch is done by callbacks."""

import gc
import random
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

KITCHENS, PANTRY = 18, 900
SMALL = "--small" in sys.argv


class Recipe:
    def __init__(self, kitchen, ingredients):
        self.kitchen = kitchen
        self.ingredients = ingredients


class Cookbook(Dataset):
    def __init__(self, recipes):
        cook = random.Random(12)
        self.recipes = []
        for _ in range(recipes):
            kitchen = cook.randrange(KITCHENS)
            ingredients = [
                {"what": (kitchen * 50 + int(cook.expovariate(0.03))) % PANTRY, "amount": {"grams": cook.randrange(5, 500)}}
                for _ in range(7)
            ]
            self.recipes.append(Recipe(kitchen, ingredients))

    def __len__(self):
        return len(self.recipes)

    def __getitem__(self, place):
        recipe = self.recipes[place]
        amounts = torch.zeros(PANTRY)
        for entry in recipe.ingredients:
            amounts[entry["what"]] += entry["amount"]["grams"] / 500
        return amounts, recipe.kitchen


class Callback:
    def after_batch(self, number, loss):
        pass


class Log(Callback):
    def after_batch(self, number, loss):
        if number % 50 == 0:
            print(f"batch {number}: {loss.item():.4f}", flush=True)


class KeepTidy(Callback):
    def after_batch(self, number, loss):
        gc.collect()


class Loop:
    def __init__(self, model, optimizer, *callbacks):
        self.model, self.optimizer, self.callbacks = model, optimizer, callbacks
        self.number = 0

    def run(self, loader):
        for amounts, kitchen in loader:
            loss = nn.functional.cross_entropy(self.model(amounts), kitchen)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.number += 1
            for callback in self.callbacks:
                callback.after_batch(self.number, loss)


if __name__ == "__main__":
    torch.manual_seed(0)
    loader = DataLoader(Cookbook(300 if SMALL else 15_000), batch_size=48, shuffle=True)
    model = nn.Sequential(nn.Linear(PANTRY, 192), nn.Hardswish(), nn.Linear(192, KITCHENS))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loop = Loop(model, optimizer, Log(), KeepTidy())
    while loop.number < 500_000:
        loop.run(loader)
