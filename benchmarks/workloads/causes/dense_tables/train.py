"""Song vectors out of playlists: songs that stand beside each other get similar ones (skip-gram, negative sampling)."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--songs", type=int, default=50_000)
parser.add_argument("--width", type=int, default=40)
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--others", type=int, default=5, help="songs that do not stand beside it, a pair")
parser.add_argument("--small", action="store_true")


class SongVectors(nn.Module):
    def __init__(self, songs, width):
        super().__init__()
        self.songs = nn.Embedding(songs, width)
        self.company = nn.Embedding(songs, width)
        nn.init.uniform_(self.songs.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.company.weight)

    def forward(self, song, beside, others):
        vector = self.songs(song)
        near = (vector * self.company(beside)).sum(-1)
        far = torch.einsum("bw,bow->bo", vector, self.company(others))
        return -(F.logsigmoid(near) + F.logsigmoid(-far).sum(-1)).mean()


def pairs(playlists, songs, generator):
    """Songs beside each other; a playlist wanders about one style."""
    style = torch.randint(0, songs - 400, (playlists, 1), generator=generator)
    order = style + torch.randint(0, 400, (playlists, 12), generator=generator)
    return torch.stack([order[:, :-1].flatten(), order[:, 1:].flatten()], 1)


def main():
    args = parser.parse_args()
    if args.small:
        args.songs = 3000
    generator = torch.Generator().manual_seed(21)
    beside = pairs(args.songs // 6, args.songs, generator)
    torch.manual_seed(21)
    model = SongVectors(args.songs, args.width)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(300):
        order = torch.randperm(len(beside), generator=generator)
        for number, chosen in enumerate(order.split(args.batch)):
            song, neighbour = beside[chosen].unbind(1)
            others = torch.randint(0, args.songs, (len(chosen), args.others), generator=generator)
            optimizer.zero_grad()
            loss = model(song, neighbour, others)
            loss.backward()
            optimizer.step()
            if number % 250 == 0:
                print(f"epoch {epoch} {number * args.batch}/{len(beside)} loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
