"""Packaging. `weights/` is installed as the package `ttvr._weights`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "ttvr" / "__init__.py").read_text())[1]
COMMANDS = sorted(path.name for path in (ROOT / "bin").glob("ttvr-*"))

EXTRAS = {
    "ffmpeg": ["imageio-ffmpeg>=0.6"],
    "safetensors": ["safetensors>=0.4"],
    "faiss": ["faiss-cpu>=1.7.4"],
    "plot": ["matplotlib>=3.7"],
}
TEST = ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.9"]
TEST += [*EXTRAS["safetensors"], *EXTRAS["ffmpeg"]]

setup(
    name="ttvr",
    version=VERSION,
    description="Command-line research toolkit for CLIP-based text-video retrieval",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "numpy>=1.24",
        "pillow>=10.1",
        "ffmpeg-python>=0.2",
        "ftfy>=6.1",
        "regex>=2022.1",
    ],
    extras_require={
        **EXTRAS,
        "test": TEST,
        "all": [need for part in EXTRAS.values() for need in part],
    },
    packages=[*find_packages(include=["ttvr", "ttvr.*"]), "ttvr._weights"],
    package_dir={"ttvr._weights": "weights"},
    package_data={"ttvr.clip": ["*.gz", "*.LICENSE"], "ttvr._weights": ["*"]},
    entry_points={
        "console_scripts": [
            f"{name} = ttvr.commands.{name.removeprefix('ttvr-')}:main" for name in COMMANDS
        ]
    },
)
