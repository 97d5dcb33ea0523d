"""Packaging of resnext_det: ``pip install -e .``."""

from pathlib import Path

from setuptools import find_packages, setup

TEST = ["pytest>=8", "pytest-xdist>=3.5", "scipy>=1.11", "timm>=1.0"]

setup(
    name="resnext-det",
    version="0.1.0",
    description="ResNeXt for object detection: a detectron2 backbone plugin, and a portable engine that needs no detectron2",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["resnext_det", "resnext_det.*"]),
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "filelock>=3.12",
        "pycocotools>=2.0.8",
        "opencv-python-headless>=4.10",
        "hotcoco>=1.3.0",
        "numpy>=1.26",
        "Pillow>=10.3",
        "tqdm>=4.66",
        "tabulate>=0.9",
        "tensorboard>=2.17",
        "matplotlib>=3.9",
    ],
    extras_require={
        "test": TEST,
        "dev": [*TEST, "ruff>=0.6", "mypy>=1.11", "types-PyYAML"],
    },
)
