"""What pyproject.toml cannot say: the configs of the folder configs/ are installed as redundancy/configs/."""

import pathlib
import shutil

from setuptools import find_packages, setup

# What an earlier build left there would go into the wheel, also files that are gone since.
shutil.rmtree(pathlib.Path(__file__).parent / "build" / "lib", ignore_errors=True)
setup(
    packages=[*find_packages(include=["redundancy*"]), "redundancy.configs"],
    package_dir={"redundancy.configs": "configs"},
)
