"""Builds the C++ operators where there is a compiler and torch; clipfast installs without them too."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# The oldest torch that the library runs on; a newer one builds for it too (torch's stable ABI).
TORCH_TARGET_VERSION = "0x020b000000000000"


class BuildLibrary(build_ext):
    """Builds a plain shared library: torch loads it, Python never imports it."""

    def get_ext_filename(self, fullname: str) -> str:
        """One name for every Python: nothing in it depends on the version."""
        return str(Path(*fullname.split("."))) + ".so"


class PlatformWheel(bdist_wheel):
    """Tags a wheel with its platform alone."""

    def get_tag(self) -> tuple[str, str, str]:
        """Any Python 3, no ABI of Python's."""
        return "py3", "none", super().get_tag()[2]


def extensions() -> list[Extension]:
    """The operators' library, if torch is there to build against."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.submodule_search_locations is None or platform.system() != "Linux":
        print(
            "clipfast: no torch to build against, or no Linux; installing without the C++ operators",
            file=sys.stderr,
        )
        return []
    root = Path(torch.submodule_search_locations[0])
    return [
        Extension(
            "clipfast.ops._native",
            sources=sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            include_dirs=[str(root / "include")],
            library_dirs=[str(root / "lib")],
            libraries=["torch_cpu"],
            define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)],
            extra_compile_args=["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"],
            language="c++",
            optional=True,  # a failure is a warning
        )
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel})
