"""Which versions of the packages made a result."""

from importlib.metadata import PackageNotFoundError, version


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, without importing them."""
    found = {}
    for package in ("tl-modules", "transformer-lens", "torch", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
