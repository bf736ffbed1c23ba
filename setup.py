"""Only what pyproject.toml cannot say: cffi's hook and the tag of the abi3 wheel."""

from setuptools import setup

setup(
    cffi_modules=["udpring/native/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
