"""The figures of docs/methods, one of the idea of each method; all data are synthetic.

python scripts/website/method_figures.py [METHOD ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from figures import one_network, two_networks
from figures.page import Page

from nnunet_ext.core.figure_style import figure_style

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "figures"
FIGURES = {
    "adversarial": one_network.adversarial,
    "multi_level": one_network.multi_level,
    "multi_level_network": two_networks.multi_level_network,
    "sdnet": two_networks.sdnet,
    "cascaded": two_networks.cascaded,
    "pann": one_network.pann,
}


@figure_style()
def draw(method: str) -> Page:
    """The figure of a method."""
    return FIGURES[method]()


def main() -> None:
    """Draw and write figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(FIGURES)}; default: all")
    for method in parser.parse_args().methods or FIGURES:
        file = FOLDER / f"{method}.png"
        draw(method).save(file)
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
