"""Packaging of tfcompress. Tool settings live in pyproject.toml, exact versions in requirements.lock."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="tfcompress",
    version="0.1.0",
    description="From a trained Keras model to one verified, full-integer TFLite file, with the evidence.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["tfcompress", "tfcompress.*"]),
    package_data={"tfcompress": ["recipes/*.yaml", "spaces/*.yaml"]},
    # TensorFlow 2.21 has wheels for these interpreters only.
    python_requires=">=3.11,<3.14",
    platforms=["Linux x86-64", "Linux aarch64", "macOS arm64"],
    install_requires=[
        "absl-py>=1.2,<1.5",
        "ai-edge-litert>=2.3,<3",
        "flatbuffers>=25.9",
        "h5py>=3.10",
        # tensorflow-datasets imports it without requiring it.
        "importlib_resources>=6",
        "keras>=3.12,<4",
        "keras-tuner>=1.4.8,<2",
        "matplotlib>=3.10",
        "numpy>=2",
        "pandas>=2.3",
        "pydantic>=2.10,<3",
        "PyYAML>=6",
        "rich>=14",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "tensorboard>=2.19,<3",
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.10,<5",
        "tensorflow-model-optimization>=0.8.1,<0.9",
        "tf_keras>=2.21,<2.22",
        "threadpoolctl>=3.5",
    ],
    extras_require={
        "dev": ["Pillow", "hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "ruff"],
        # Post-training quantization by LiteRT; each version wants one version of ai-edge-litert.
        "litert": ["ai-edge-quantizer>=0.10,<0.11"],
        # Searches on a cluster.
        "ray": ["ray>=2.60,<3"],
    },
    entry_points={"console_scripts": ["tfcompress=tfcompress.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
