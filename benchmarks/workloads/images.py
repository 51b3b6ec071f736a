"""Input-bound: a folder of JPEGs, PIL, a small convolutional network."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

args = arguments("--data", "--decoder")
transform = transforms.Compose([transforms.RandomResizedCrop(96), transforms.RandomHorizontalFlip(), transforms.ToTensor()])


def decoded(path):
    """The picture by the decoder that was asked for, as ImageFolder's own loader would give it."""
    from PIL import Image

    with open(path, "rb") as f:
        data = f.read()
    if args.decoder == "simplejpeg":
        import simplejpeg

        return Image.fromarray(simplejpeg.decode_jpeg(data))
    if args.decoder == "turbojpeg":
        import turbojpeg

        return Image.fromarray(turbojpeg.TurboJPEG().decode(data, turbojpeg.TJPF_RGB))
    if args.decoder == "cv2":
        import cv2
        import numpy

        return Image.fromarray(cv2.cvtColor(cv2.imdecode(numpy.frombuffer(data, numpy.uint8), 1), cv2.COLOR_BGR2RGB))
    import torchvision

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return Image.fromarray(torchvision.io.decode_image(encoded).permute(1, 2, 0).numpy())


dataset = datasets.ImageFolder(args.data, transform)
if args.decoder:
    dataset.loader = decoded
loader = DataLoader(
    dataset, batch_size=8, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0
)
model = on_cpu(
    nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    ),
    args,
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, **args.implementation)
clock = run_for(args.seconds)
while clock.running():
    for x, y in loader:
        if args.channels_last:
            x = x.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not clock.step():
            break
finish(clock)
