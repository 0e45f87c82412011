#!/usr/bin/env python3
"""Draws each docs/pictures/NAME.dot as NAME.svg, with Graphviz. A test compares the hash in the picture with its source."""

import hashlib
import pathlib
import re
import subprocess
import sys

PICTURES = pathlib.Path(__file__).resolve().parent.parent / "docs" / "pictures"


def draw(source: pathlib.Path) -> None:
    text = source.read_bytes()
    try:
        svg = subprocess.run(["dot", "-Tsvg"], input=text, stdout=subprocess.PIPE, check=True).stdout.decode()
    except FileNotFoundError:
        sys.exit("dot is not installed: install Graphviz (Debian: apt-get install graphviz), then repeat")
    except subprocess.CalledProcessError:
        sys.exit(f"{source}: dot cannot draw it, see its message above")
    # The comments name the version of Graphviz, and each node twice: a title is shown when the pointer rests on a part.
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<title>.*?</title>\n?", "", svg)
    digest = hashlib.sha256(text).hexdigest()
    svg = svg.replace("<svg ", f"<!-- Drawn from {source.name}, sha256 {digest} -->\n<svg ", 1)
    source.with_suffix(".svg").write_text(svg)


for path in sorted(PICTURES.glob("*.dot")):
    draw(path)
