"""The usual PyTorch tutorial on Fashion-MNIST, as its readers write it; speed.py compares with it.

PEER_EPOCHS=1 python -m benchmarks.peers.pytorch_tutorial
"""

import json
import os
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

import fmnist_utils as fmnist

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_model():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 6 * 6, 600),
        nn.Dropout(0.25),  # the tutorial has Dropout2d: the same on a vector, with a warning
        nn.Linear(600, 120),
        nn.Linear(120, 10),
    )


def train_one_epoch(model, loader, criterion, optimizer):
    model.train()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    correct = 0
    for images, labels in loader:
        correct += (model(images.to(device)).argmax(dim=1) == labels.to(device)).sum().item()
    return correct / len(loader.dataset)


if __name__ == "__main__":
    torch.manual_seed(0)  # so that the accuracy to compare with is the same in every run
    fmnist.fetch_fashion_mnist("data")  # not download=True, which needs torchvision's mirror
    train_set, test_set = (FashionMNIST("data", part, transform=ToTensor()) for part in (1, 0))
    train_loader = DataLoader(train_set, batch_size=100, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=100)
    model = build_model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    record = {"ready_at": time.time(), "seconds": [], "test_accuracies": []}
    for _ in range(int(os.environ.get("PEER_EPOCHS") or 20)):
        started = time.perf_counter()
        train_one_epoch(model, train_loader, nn.CrossEntropyLoss(), optimizer)
        record["seconds"].append(time.perf_counter() - started)
        record["test_accuracies"].append(accuracy(model, test_loader))
    print(json.dumps(record))
