"""What the PyTorch tutorials do alike: torchvision's data, plain SGD, a test after each epoch."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

torch.manual_seed(int(sys.argv[1]))  # before the model that imports this is made


def run(model, lr, epochs, batch_size, shuffle, num_workers=0):
    options = {"download": True, "transform": ToTensor()}
    train_set, test_set = (FashionMNIST("data", part, **options) for part in (True, False))
    train_batches = DataLoader(train_set, batch_size, shuffle=shuffle, num_workers=num_workers)
    test_batches = DataLoader(test_set, batch_size, num_workers=num_workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        model.train()
        for images, labels in train_batches:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum((model(x).argmax(dim=1) == y).sum().item() for x, y in test_batches)
        print(right / len(test_set))
