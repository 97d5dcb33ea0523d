"""Package resnext_det: what it needs, and configs/ and tools/ in the wheel."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
INIT = (ROOT / "resnext_det" / "__init__.py").read_text(encoding="utf-8")


def choose_opencv() -> str:
    """Name the OpenCV distribution that is installed already, else the headless one.

    All of them own the folder cv2, so a second one silently overwrites the first. pip hides the
    user's packages from a build by PYTHONPATH, and "python -E" does not read that.
    """
    names = ("opencv-python", "opencv-contrib-python")
    code = "from importlib.metadata import distributions as d; print(*(x.name for x in d()))"
    command = [sys.executable, "-E", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    installed = found.lower().replace("_", "-").split()
    known = [*names, *(f"{name}-headless" for name in names)]
    return next((name for name in known if name in installed), "opencv-python-headless")


class BuildWithFolders(build_py):
    """Build the package with configs/ and tools/ inside; in a clone they are found beside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for name in ("configs", "tools"):
                target = Path(self.build_lib, "resnext_det", name)
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))


# Lower bounds are those that pass the whole suite: see "make floors".
EXTRAS = {
    "fast-eval": ["hotcoco>=1.3.0"],
    "imagenet": ["scipy>=1.11"],  # reads ILSVRC2012_devkit_t12.tar.gz
    "hub": ["huggingface-hub>=0.30"],  # downloads MODEL.WEIGHTS hf-hub:OWNER/NAME
    "polygons": ["shapely>=2.0"],  # cuts them at the edges of INPUT.CROP
    "onnx": ["onnx>=1.17", "onnxscript>=0.2", "onnxruntime>=1.20"],
    "openvino": ["openvino>=2025.0", "onnx>=1.17", "nncf>=2.15"],
}
TEST = [
    *(name for names in EXTRAS.values() for name in names),
    "pytest>=8",
    "pytest-xdist>=3.5",
    "supervision>=0.31.2",  # earlier ones need opencv-python, whatever OpenCV there is
    "timm>=1.0.22",
]

setup(
    name="resnext-det",
    version=re.search('__version__ = "(.+)"', INIT).group(1),
    description="ResNeXt for object detection: a detectron2 plugin, and an engine without it",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={
        "Paper": "https://arxiv.org/abs/1611.05431",
        "detectron2": "https://github.com/facebookresearch/detectron2",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["resnext_det", "resnext_det.*"]),
    package_data={"resnext_det": ["py.typed", "weights/shapes/*", "report/templates/*"]},
    cmdclass={"build_py": BuildWithFolders},
    entry_points={"console_scripts": ["resnext-det = resnext_det.command_line:main"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "yacs>=0.1.8",
        "PyYAML>=6.0.1",
        "filelock>=3.12",
        "msgspec>=0.19.0",
        "safetensors>=0.4",
        "pycocotools>=2.0.8",
        f"{choose_opencv()}>=4.10.0.84",
        "numpy>=1.26",
        "Pillow>=10.3",
        "tqdm>=4.66",
        "tabulate>=0.9",
        "matplotlib>=3.9",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "tensorboard>=2.17",  # every training writes its events
    ],
    extras_require={
        **EXTRAS,
        "test": TEST,
        "dev": [*TEST, "ruff>=0.6", "mypy>=1.11", "types-PyYAML"],
    },
)
