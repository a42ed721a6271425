"""The usual PyTorch tutorial on Fashion-MNIST, as its readers write it; speed.py compares with it.

By itself, with the number of epochs if 20 take too long, run it by

    PEER_EPOCHS=1 python benchmarks/peers/pytorch_tutorial.py
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402

EPOCHS = int(os.environ.get("PEER_EPOCHS") or 20)
BATCH_SIZE = 100
LEARNING_RATE = 0.01

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class FashionCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.layer2 = nn.Sequential(
            nn.Conv2d(32, 64, kernel_size=3),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.fc1 = nn.Linear(64 * 6 * 6, 600)
        # The tutorial has Dropout2d, which on a vector does the same, with a warning.
        self.drop = nn.Dropout(0.25)
        self.fc2 = nn.Linear(600, 120)
        self.fc3 = nn.Linear(120, 10)

    def forward(self, images):
        out = self.layer1(images)
        out = self.layer2(out)
        out = out.view(out.size(0), -1)
        out = self.fc1(out)
        out = self.drop(out)
        out = self.fc2(out)
        return self.fc3(out)


def train_one_epoch(model, loader, criterion, optimizer):
    model.train()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_accuracy(model, loader):
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            correct += (model(images).argmax(dim=1) == labels).sum().item()
    return correct / len(loader.dataset)


def main():
    torch.manual_seed(0)  # so that the accuracy to compare with is the same in every run
    root = REPOSITORY / "data"
    fmnist.fetch_fashion_mnist(root)  # instead of download=True, which needs torchvision's mirror
    train_set = FashionMNIST(root, train=True, transform=ToTensor())
    test_set = FashionMNIST(root, train=False, transform=ToTensor())
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=BATCH_SIZE)

    model = FashionCNN().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    seconds = []
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        train_one_epoch(model, train_loader, criterion, optimizer)
        seconds.append(time.perf_counter() - started)
        print(f"epoch {epoch + 1} of {EPOCHS}: {seconds[-1]:.1f} s", flush=True)
    trained_at = time.time()

    record = {
        "seconds": seconds,
        "trained_at": trained_at,
        "images": len(train_set),
        "test_accuracy": test_accuracy(model, test_loader),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
