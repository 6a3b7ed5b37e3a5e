"""What the tests of the integrations share: they are skipped without the extras, unless these have to be there."""

import os

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With GLOWLIB_EXTRAS, as `make test EXTRAS=1` sets it, a skip is a failure: the extras are installed."""
    report = yield
    if report.skipped and os.environ.get("GLOWLIB_EXTRAS"):
        report.outcome = "failed"
        report.longrepr = f"skipped although the extras should be installed: {call.excinfo.value}"
    return report


def needed(package, extra):
    """A fixture's body: the package, or a skip that says which extra brings it."""
    return pytest.importorskip(package, reason=f"needs the extra {extra}: make test EXTRAS=1")


@pytest.fixture
def deepinv():
    return needed("deepinv", "deepinv")


@pytest.fixture
def onnxruntime():
    needed("onnxscript", "export")
    return needed("onnxruntime", "export")


@pytest.fixture
def openvino():
    return needed("openvino", "openvino")


@pytest.fixture
def hatchling():
    return needed("hatchling", "wheel")
