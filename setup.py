"""What pyproject.toml cannot say: the configs of the folder configs/ are installed as redundancy/configs/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["redundancy*"]), "redundancy.configs"],
    package_dir={"redundancy.configs": "configs"},
)
